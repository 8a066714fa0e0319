import pytest

pytest.register_assert_rewrite("tests.unit.datastores.engine_suite")
