"""What the tests of the datastores have in common."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's embedded datastore is to be."""
    return tmp_path / "datastore.db"
