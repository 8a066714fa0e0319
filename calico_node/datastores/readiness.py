"""ClusterInformation's ``spec.datastoreReady``: False locks the datastore, and whoever acts on it waits.

Calico's ready flag (``calicoctl datastore migrate lock``).  A missing flag or object counts as False: it is for a
starting calico-node to put it there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import structlog

from calico_node.datastores.client import Client, read_resource
from calico_node.datastores.names import resource_key
from calico_node.errors import Compacted, DatastoreError, ValidationError

log = structlog.get_logger("datastore")

READY_KEY = resource_key("ClusterInformation", "default")
WAITING = "ClusterInformation's datastoreReady is not true: nothing changes until it is"
_RETRY = 0.5


async def is_ready(client: Client) -> tuple[bool, int]:
    """The flag, and the datastore's revision at that time.  Raises ``DatastoreError``."""
    stored, revision = await client.kv.get(READY_KEY)
    if stored is None:
        return False, revision
    try:
        return read_resource("ClusterInformation", stored).spec.datastore_ready is True, revision
    except ValidationError:
        return False, revision


class ReadyGate:
    """Follows the flag; closed until it was read.  ``changed`` is called with each new value, ``run`` follows."""

    def __init__(self, client: Client, changed: Callable[[bool], Awaitable[None]] | None = None) -> None:
        self._client = client
        self._changed = changed
        self._opened = anyio.Event()
        self.ready: bool | None = None

    async def wait(self) -> None:
        """Return as soon as the datastore is ready; at once where it is."""
        while not self.ready:
            await self._opened.wait()

    async def run(self) -> None:
        """Follow the flag until cancelled.  While the datastore is away, the last value counts."""
        while True:
            try:
                ready, revision = await is_ready(self._client)
                await self._set(ready)
                async for batch in self._client.kv.watch(READY_KEY, start_revision=revision + 1, previous=False):
                    if batch.events:
                        await self._set((await is_ready(self._client))[0])
            except Compacted:
                continue
            except DatastoreError as error:
                log.debug("the ready flag is not followed", reason=str(error))
            await anyio.sleep(_RETRY)

    async def _set(self, ready: bool) -> None:
        if ready == self.ready:
            return
        self.ready = ready
        if ready:
            self._opened.set()
            self._opened = anyio.Event()
        if self._changed is not None:
            await self._changed(ready)
