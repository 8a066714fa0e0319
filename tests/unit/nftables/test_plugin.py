"""The dataplane's edges around its worker thread and its background tasks, over a kernel that is faked."""

from __future__ import annotations

import threading

import anyio
import pytest

from calico_node.dataplanes.contract import HostMetadataUpdate
from calico_node.dataplanes.nftables import plugin
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.desired import Desired
from calico_node.dataplanes.nftables.layout import IPV4
from calico_node.dataplanes.nftables.plan import KnownTable

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class SlowStore:
    """Its reading takes until it is let go."""

    def __init__(self, netns: object = None) -> None:
        self.happened: list[str] = []
        self.reading = threading.Event()
        self.go_on = threading.Event()

    def generation(self) -> int:
        return 1

    def read(self, family: object) -> KnownTable:
        self.reading.set()
        assert self.go_on.wait(5)
        self.happened.append("read")
        return KnownTable()

    def close(self) -> None:
        self.happened.append("closed")


async def test_the_socket_is_not_closed_while_the_worker_thread_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    store = SlowStore()
    monkeypatch.setattr(plugin, "Store", lambda netns: store)
    dataplane = plugin.NFTables()

    async def live() -> None:
        try:
            await dataplane.start()
        finally:
            await dataplane.stop()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            while not store.reading.is_set():  # noqa: ASYNC110 (set by a thread)
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
            threading.Timer(0.1, store.go_on.set).start()
    assert store.happened[0] == "read"
    assert store.happened[-1] == "closed"


def test_thousands_of_hosts_count_as_work() -> None:
    desired = Desired(RenderConfig.parse({}), (IPV4,))
    desired.refresh()
    assert desired.backlog == 0
    desired.feed(HostMetadataUpdate("h0", "172.30.0.1/32"))
    assert desired.backlog == 0
    for number in range(1, 1000):
        desired.feed(HostMetadataUpdate(f"h{number}", f"172.30.{number // 250}.{number % 250}/32"))
    assert desired.backlog > plugin._SMALL
    desired.refresh()
    assert desired.backlog == 0
