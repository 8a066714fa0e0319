"""The one lab of these tests."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator

import pytest

from tests.kernel.lab.conftest import LabCommand
from tests.kernel.policy.world import World, cluster


@pytest.fixture(scope="package")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="cn", ignore_cleanup_errors=True) as runtime:
        command = LabCommand(runtime)
        try:
            file = command.runtime / "cluster.yaml"
            file.write_text("\n---\n".join(json.dumps(one) for one in cluster()))
            command.ok("up", "-f", str(file))
            yield World(command)
        finally:
            command.end()
