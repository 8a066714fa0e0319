"""Where the controllers get Kubernetes objects from, and where they say how far they have come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import anyio.to_thread
from attrs import field, frozen

from calico_node.kubernetes import Acknowledgement, KubernetesStore, Object, Ref, StoreReader

KINDS = ("Namespace", "ServiceAccount", "NetworkPolicy", "Pod")


@frozen
class Change:
    """``objects`` is everything there is at ``generation``; ``changed`` what is new, changed or (None) gone since the
    change before (in the first one: everything)."""

    generation: int
    objects: Mapping[Ref, Object] = field(repr=False)
    changed: Mapping[Ref, Object | None] = field(repr=False)


class KubernetesSource(Protocol):
    """A list and a watch of the kinds in ``KINDS``."""

    def changes(self) -> AsyncIterator[Change]:
        """The first holds everything; each later one what happened since."""

    async def acknowledge(self, done: Acknowledgement) -> None:
        """Everything up to ``done.generation`` has been carried out."""


class FileSource:
    """The objects of a ``KubernetesStore``.

    A store that has never been written (generation 0) is not an empty cluster: nothing is reported until somebody
    fills it, so that a wrong path cannot remove a cluster's policies.
    """

    def __init__(self, store: KubernetesStore) -> None:
        self._store = store

    async def changes(self) -> AsyncIterator[Change]:
        reader = StoreReader(self._store, KINDS)
        async for _ in self._store.watch():
            generation, changed = await anyio.to_thread.run_sync(reader.refresh)
            yield Change(generation, dict(reader.objects), changed)

    async def acknowledge(self, done: Acknowledgement) -> None:
        await anyio.to_thread.run_sync(self._store.acknowledge, done)
