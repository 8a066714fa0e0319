"""The embedded engine passes the suite that etcd passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine
from tests.unit.datastores.engine_suite import EngineSuite
from tests.unit.datastores.suite_history import Restart


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class TestEmbeddedEngine(EngineSuite):
    @pytest.fixture
    async def engine(self, tmp_path: Path) -> AsyncIterator[EmbeddedEngine]:
        engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
        yield engine
        await engine.close()

    @pytest.fixture
    async def restart(self, engine: EmbeddedEngine) -> AsyncIterator[Restart]:
        opened: list[EmbeddedEngine] = []

        async def restart() -> EmbeddedEngine:
            await engine.close()
            opened.append(await EmbeddedEngine.open(engine.path))
            return opened[-1]

        yield restart
        for each in opened:
            await each.close()
