"""Keeps the kernel's main table as its owners want it: the sockets and the clock around ``routes.RouteTable``."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Generic, TypeVar

from calico_node.errors import NetlinkError
from calico_node.linux.conntrack import flush_conntrack
from calico_node.linux.namespaces import run_in_thread
from calico_node.linux.netlink import HEADER, HEADER_LENGTH, NETLINK_ROUTE, NLM_F_REPLACE, NetlinkSocket, Subscription
from calico_node.linux.route_plan import Change, Ownership, Plan, WantedRoute
from calico_node.linux.routes import RouteTable
from calico_node.linux.rtnetlink import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_DELROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTNLGRP_IPV4_IFADDR,
    RTNLGRP_IPV4_ROUTE,
    RTNLGRP_IPV6_IFADDR,
    RTNLGRP_IPV6_ROUTE,
    RTNLGRP_LINK,
    Address,
    Link,
    Path,
    encoder,
    family_of,
    get_addresses,
    get_links,
    get_routes,
    read_address,
    read_link,
    read_route,
)

log = logging.getLogger(__name__)

R = TypeVar("R")

RESYNC_INTERVAL = 90.0
"""Seconds between full reads of the tables, until ``configure`` says otherwise."""
SLICE = 500
"""Prefixes planned and written in one turn of the loop."""
RESYNC_DELAY = 0.2
RESTART_DELAY = 1.0
VIEW_INTERVAL = 0.02
"""At least this many seconds between two views given to one watcher."""
_GROUPS = (RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE)


class RouteReconciler(Generic[R]):
    """One per process and network namespace.  ``run`` works until cancelled; kernel state then stays.

    ``netns`` (descriptor or path) is the namespace worked in, by default the caller's.
    """

    def __init__(
        self,
        render: Callable[[str, Path, tuple[str, ...]], R | None],
        *,
        ownership: Ownership | None = None,
        netns: int | str | None = None,
    ) -> None:
        self.table: RouteTable[R] = RouteTable(render, ownership or Ownership())
        self._netns = netns
        self._links: dict[int, Link] = {}
        self._addresses: dict[tuple[int, str], Address] = {}
        self._address_version = 0
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._refresh_interval = RESYNC_INTERVAL
        self._resync_at = 0.0
        self._waiters: list[tuple[str, asyncio.Future[None]]] = []
        self._ready = asyncio.Event()
        self._ended: BaseException | None = None

    # For owners

    async def set_routes(self, owner: str, add: Sequence[WantedRoute], remove: Sequence[str] = ()) -> None:
        """State desired routes and return when they were written (or refused: those are retried and logged)."""
        self._check()
        for start in range(0, len(remove), SLICE):
            self.table.unwant(owner, remove[start : start + SLICE])
            self._wake.set()
            await asyncio.sleep(0)
        for start in range(0, len(add), SLICE):
            self.table.want(owner, add[start : start + SLICE])
            self._wake.set()
            await asyncio.sleep(0)
        await self._flushed(owner)

    def configure(self, ownership: Ownership, *, refresh_interval: float) -> None:
        """Who owns what from now on, and the seconds between full reads of the tables (0: none)."""
        self.table.set_ownership(ownership)
        self._refresh_interval = refresh_interval or math.inf
        self._resync_at = min(self._resync_at, time.monotonic() + self._refresh_interval)
        self._wake.set()

    async def adopt(self, owner: str) -> None:
        """``owner`` starts anew: what it wanted before is forgotten, and stays in the kernel until ``prune``."""
        self._check()
        forgotten = self.table.begin_adopting(owner)
        for start in range(0, len(forgotten), SLICE):
            self.table.forget(owner, forgotten[start : start + SLICE])
            await asyncio.sleep(0)
        self._wake.set()

    async def prune(self, owner: str) -> None:
        """From now on remove ``owner``'s routes that are not desired; returns when those present are gone."""
        self._check()
        await self._ready.wait()
        self._check()
        self.table.prune(owner)
        self._wake.set()
        await self._flushed(owner)

    async def _flushed(self, owner: str) -> None:
        self._check()
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((owner, done))
        self._wake.set()
        await done

    def _check(self) -> None:
        if self._ended is not None:
            raise NetlinkError("route reconciler", errno.EIO, f"it has stopped: {self._ended!r}")

    async def watch(self) -> AsyncIterator[tuple[tuple[R, ...], tuple[tuple[str, str, bool], ...]]]:
        """Routes and addresses (``(10.0.0.5/24, device, running)``): now, and after each change (coalesced)."""
        await self._ready.wait()
        self._check()
        seen: tuple[int, int] | None = None
        while True:
            while seen == self._version():
                await self._changed.wait()
            seen = self._version()
            routes = tuple(route for shown in self.table.visible.values() for route in shown)
            addresses = tuple(
                (address.address, link.name, link.running)
                for address in self._addresses.values()
                if not address.tentative and (link := self._links.get(address.ifindex)) is not None
            )
            yield routes, addresses
            await asyncio.sleep(VIEW_INTERVAL)

    def _version(self) -> tuple[int, int]:
        return self.table.version, self._address_version

    # The work

    async def run(self) -> None:
        """Read what is there, adopt it, then keep the difference at nothing."""
        try:
            while True:
                try:
                    await self._session()
                except* Exception as failures:
                    log.error("routes: starting over", exc_info=failures.exceptions[0])
                    self._resync_at = 0.0
                    await asyncio.sleep(RESTART_DELAY)
        except BaseException as error:
            self._ended = error
            for _, waiter in self._waiters:
                if not waiter.done():
                    waiter.set_exception(NetlinkError("route reconciler", errno.EIO, f"it has stopped: {error!r}"))
            self._ready.set()
            raise

    async def _session(self) -> None:
        with (
            NetlinkSocket(NETLINK_ROUTE, netns=self._netns) as sock,
            Subscription(NETLINK_ROUTE, _GROUPS, netns=self._netns) as subscription,
        ):
            # Our own writes are known: without them a large change cannot overrun the queue.
            subscription.ignore_port(sock.port)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(subscription))
                group.create_task(self._loop(sock))

    async def _loop(self, sock: NetlinkSocket) -> None:
        while True:
            self._wake.clear()
            try:
                if time.monotonic() >= self._resync_at:
                    await self._resync(sock)
                    self._ready.set()
                self.table.expire(time.monotonic())
                while self.table.has_work():
                    plans = self.table.take(SLICE, time.monotonic())
                    try:
                        await self._apply(sock, plans)
                    except NetlinkError:
                        self.table.requeue(plans)
                        raise
                    self._release_waiters()
                    await asyncio.sleep(0)
                await self._flush_conntrack()
            except NetlinkError as error:
                log.warning("routes: %s; reading the tables anew", error)
                self._resync_at = time.monotonic() + 1.0
            self._report_failures()
            self._release_waiters()
            self._announce()
            due = min(self._resync_at, self.table.next_due() or self._resync_at)
            try:
                async with asyncio.timeout(None if due == math.inf else max(0.0, due - time.monotonic())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _apply(self, sock: NetlinkSocket, plans: Sequence[Plan]) -> None:
        puts = [change for plan in plans for change in plan.puts]
        failed: set[bytes] = set()
        if puts:
            await self._write(sock, puts, failed)
        deletes = [change for plan in plans for change in plan.deletes if change.prefix not in failed]
        if deletes:
            await self._write(sock, deletes, failed)

    async def _write(self, sock: NetlinkSocket, changes: Sequence[Change], failed: set[bytes]) -> None:
        messages: list[bytes] = []
        sent: list[Change] = []
        now = time.monotonic()
        for change in changes:
            prefix, path, delete, replace = change
            try:
                packer = encoder(family_of(prefix), path)
                messages.append(
                    packer.delete(prefix) if delete else packer.replace(prefix) if replace else packer.add(prefix)
                )
                sent.append(change)
            except struct.error as fault:
                self.table.done(change, NetlinkError("route", errno.EINVAL, str(fault)), now)
                failed.add(prefix)
        answers = await sock.request(messages)
        now = time.monotonic()
        for change, error in zip(sent, answers, strict=True):
            if not self.table.done(change, error, now):
                failed.add(change.prefix)
                if error is not None and error.errno == errno.EEXIST:
                    # A route we do not know of is there: what we hold is not what the kernel has.
                    self._resync_soon()

    async def _flush_conntrack(self) -> None:
        addresses = self.table.take_stale_addresses()
        if not addresses:
            return
        try:
            await run_in_thread(lambda: flush_conntrack(addresses, netns=self._netns))
        except NetlinkError as error:
            log.warning("connection tracking entries of %d removed addresses stay: %s", len(addresses), error)

    async def _resync(self, sock: NetlinkSocket) -> None:
        """Read links, addresses and both tables; what differs from what is held becomes work."""
        self._resync_at = time.monotonic() + self._refresh_interval
        links = [read_link(payload) for payload in await sock.dump(get_links(), "read interfaces")]
        self._links = {link.ifindex: link for link in links}
        self.table.set_links(links)
        addresses = [read_address(payload) for payload in await sock.dump(get_addresses(), "read addresses")]
        found = {(address.ifindex, address.address): address for address in addresses if address is not None}
        if found != self._addresses:
            self._addresses = found
        self._address_version += 1
        load = self.table.begin_load()
        for family in (socket.AF_INET, socket.AF_INET6):
            # A kernel without IPv6 answers with IPv4's.
            payloads = [item for item in await sock.dump(get_routes(family), "read routes") if item[0] == family]
            for start in range(0, len(payloads), SLICE):
                part = (read_route(payload) for payload in payloads[start : start + SLICE])
                load.feed(route for route in part if route is not None)
                await asyncio.sleep(0)
        differing = load.differing()
        for start in range(0, len(differing), SLICE):
            load.take_in(differing[start : start + SLICE])
            await asyncio.sleep(0)
        self.table.recheck_missing()

    def _resync_soon(self) -> None:
        self._resync_at = min(self._resync_at, time.monotonic() + RESYNC_DELAY)

    async def _listen(self, subscription: Subscription) -> None:
        while True:
            messages, lost = await subscription.receive()
            if lost:
                self._resync_soon()
            for msg in messages:
                self._notice(msg)
            self._wake.set()

    def _notice(self, msg: bytes) -> None:
        _, kind, flags, _, _ = HEADER.unpack_from(msg)
        payload = msg[HEADER_LENGTH:]
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            route = read_route(payload)
            if route is not None:
                prefix, path = route
                if len(prefix) == 17 and len(path.hops) > 1:
                    # IPv6 reports the paths of an ECMP route piecemeal.
                    self._resync_soon()
                else:
                    self.table.route_changed(
                        prefix, path, removed=kind == RTM_DELROUTE, replaced=bool(flags & NLM_F_REPLACE)
                    )
        elif kind in (RTM_NEWLINK, RTM_DELLINK):
            if payload[0] != socket.AF_UNSPEC:
                return  # a bridge port or an IPv6 flag, not the interface itself
            link = read_link(payload)
            if kind == RTM_DELLINK:
                self._links.pop(link.ifindex, None)
            else:
                self._links[link.ifindex] = link
            if self.table.link_changed(link, removed=kind == RTM_DELLINK):
                self._resync_soon()
            self._address_version += 1
        elif kind in (RTM_NEWADDR, RTM_DELADDR):
            self._notice_address(payload, removed=kind == RTM_DELADDR)

    def _notice_address(self, payload: bytes, *, removed: bool) -> None:
        address = read_address(payload)
        if address is None:
            return
        key = (address.ifindex, address.address)
        if removed:
            # The kernel drops IPv4 routes with this source, and does not say so.
            if self._addresses.pop(key, None) is not None:
                self._address_version += 1
                self._resync_soon()
        elif self._addresses.get(key) != address:
            self._addresses[key] = address
            self._address_version += 1
            self.table.retry_failed()

    def _release_waiters(self) -> None:
        waiting = []
        for owner, waiter in self._waiters:
            if self.table.busy(owner):
                waiting.append((owner, waiter))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters = waiting

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _report_failures(self) -> None:
        new = self.table.take_new_failures()
        if new is not None:
            log.warning("%d routes could not be set (retrying); %s: %s", *new)
