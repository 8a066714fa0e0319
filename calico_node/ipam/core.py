"""What all parts of the allocator stand on: the store, the claims, time, and bounded retries."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from calico_node.errors import IPAMError
from calico_node.ipam.claims import LOST_RACE, Claims
from calico_node.ipam.documents import ConfigKey, Handle, HandleKey, IPAMConfig
from calico_node.ipam.store import Store, Stored

ATTEMPTS = 100
T = TypeVar("T")


class Core:
    """``timeout`` (seconds) bounds every call; ``clock`` gives Unix nanoseconds; ``backoff`` (seconds) is the pause
    after a first lost race."""

    def __init__(
        self, store: Store, *, timeout: float = 90.0, clock: Callable[[], int] = time.time_ns, backoff: float = 0.001
    ) -> None:
        self._store = store
        self._timeout = timeout
        self._clock = clock
        self._backoff = backoff
        self._claims = Claims(store, clock)

    async def get_config(self) -> IPAMConfig:
        """The stored configuration, or the defaults; reading never writes them."""
        stored: Stored[IPAMConfig] | None = await self._store.get(ConfigKey())
        return stored.value if stored is not None else IPAMConfig()

    async def _count_handle(self, handle_id: str, cidr: str, change: int) -> None:
        """Add to (or take from) a handle's count for a block; a handle that counts nothing is deleted."""

        async def once() -> None:
            key = HandleKey(handle_id)
            stored: Stored[Handle] | None = await self._store.get(key)
            counts = dict(stored.value.blocks) if stored is not None else {}
            count = counts.pop(cidr, 0) + change
            if count > 0:
                counts[cidr] = count
            if stored is None:
                if counts:
                    await self._store.create(key, Handle(counts))
            elif counts:
                await self._store.update(stored, Handle(counts))
            else:
                await self._store.delete(stored)

        await self._retrying(once)

    async def _retrying(self, call: Callable[[], Awaitable[T]]) -> T:
        """``call`` again and again while it loses races."""
        for attempt in range(ATTEMPTS):
            try:
                return await call()
            except LOST_RACE as error:
                last = error
                await self._pause(attempt)
        raise IPAMError(f"Max retries hit - excessive concurrent IPAM requests: {last}")

    async def _pause(self, attempt: int) -> None:
        """A little longer each time, and never as long as anybody else."""
        await anyio.sleep(random.random() * min(self._backoff * 2 ** min(attempt, 7), 0.1))

    def _now(self) -> int:
        return self._clock() // 1_000_000_000

    @asynccontextmanager
    async def _bounded(self, what: str) -> AsyncIterator[None]:
        try:
            with anyio.fail_after(self._timeout):
                yield
        except TimeoutError:
            raise IPAMError(f"could not {what} within {self._timeout:g} s") from None
