"""The main routing table as desired state: who owns which route, and what to change; no socket in here.

``RouteTable`` holds what the owners want, what the kernel has, and the prefixes where the two may differ.  The shell
around it (``reconciler``) feeds it dumps and notifications, takes changes out, carries them out and reports back.
"""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, NamedTuple, TypeVar

from calico_node.errors import NetlinkError
from calico_node.linux.route_plan import (
    BGP,
    FELIX,
    RANK,
    TYPE_NAMES,
    TYPES,
    Change,
    Ownership,
    Plan,
    WantedRoute,
    plan,
)
from calico_node.linux.rtnetlink import (
    IPV6_DEFAULT_METRIC,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTN_UNICAST,
    RTPROT_BIRD,
    Link,
    NextHop,
    Path,
    intern_path,
    pack_address,
    pack_prefix,
    unpack_prefix,
)

R = TypeVar("R")

UNKNOWN_ROUTE_GRACE = 10.0
"""Seconds an unknown route on a workload interface is left alone: the CNI adds it before Felix knows the pod."""
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 10.0)


class _Queue:
    """Prefixes to look at, first in first out, each once."""

    __slots__ = ("_members", "_order")

    def __init__(self) -> None:
        self._order: deque[bytes] = deque()
        self._members: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._members)

    def add(self, prefix: bytes) -> None:
        if prefix not in self._members:
            self._members.add(prefix)
            self._order.append(prefix)

    def discard(self, prefix: bytes) -> None:
        self._members.discard(prefix)

    def pop(self) -> bytes:
        """The first one.  Raises ``IndexError`` when it is empty."""
        while True:
            prefix = self._order.popleft()
            if prefix in self._members:
                self._members.remove(prefix)
                return prefix


class _Failure(NamedTuple):
    reason: str
    attempts: int
    due: float


class RouteTable(Generic[R]):
    """Desired and present routes of the main table, both families.

    ``render(prefix text, path, device names)`` makes what ``visible`` shows of a present route.  Routes BGP wants
    itself are not shown: they are its own, not news.  All times are seconds of one monotonic clock.
    """

    def __init__(self, render: Callable[[str, Path, tuple[str, ...]], R | None], ownership: Ownership) -> None:
        self._render = render
        self.ownership = ownership
        self._desired: dict[str, dict[bytes, WantedRoute]] = {owner: {} for owner in RANK}
        self._by_device: dict[str, dict[bytes, None]] = {}
        self._felix_devices: Counter[str] = Counter()
        self._present: dict[bytes, tuple[Path, ...]] = {}
        self._by_index: dict[int, set[bytes]] = {}
        self._links: dict[int, Link] = {}
        self._index: dict[str, int] = {}
        self._paths: dict[tuple[Any, ...], Path | None] = {}
        self._dirty = {owner: _Queue() for owner in (*RANK, "")}
        self._released: dict[bytes, set[str]] = {}
        self._pruning: set[str] = set()
        self._unknown_since: dict[tuple[bytes, Path], float] = {}
        self._deferred: dict[bytes, float] = {}
        self._failed: dict[bytes, _Failure] = {}
        self._due: float | None = None
        self._new_failures: list[bytes] = []
        self._stale_addresses: set[bytes] = set()
        self.visible: dict[bytes, tuple[R, ...]] = {}
        self.version = 0
        """Counts the changes of ``visible``."""

    # What owners say

    def want(self, owner: str, routes: Iterable[WantedRoute]) -> None:
        """Add or replace desired routes of ``owner`` by destination.  Raises ``ValueError`` for a bad destination."""
        desired, dirty = self._desired[owner], self._dirty[owner]
        for route in routes:
            prefix = pack_prefix(route.dst)
            old = desired.get(prefix)
            if old is route:
                continue
            desired[prefix] = route
            if old is None:
                if owner == BGP and prefix in self._present:
                    self._show(prefix)
            else:
                self._count_device(owner, old, prefix, -1)
                if owner == FELIX and old.device != route.device:
                    self._address_moved(prefix)
            self._count_device(owner, route, prefix, 1)
            dirty.add(prefix)

    def unwant(self, owner: str, destinations: Iterable[str]) -> None:
        """Drop desired routes; they are removed from the kernel whether or not ``prune`` was called."""
        desired, dirty = self._desired[owner], self._dirty[owner]
        for destination in destinations:
            prefix = pack_prefix(destination)
            route = desired.pop(prefix, None)
            if route is None:
                continue
            self._count_device(owner, route, prefix, -1)
            if owner == FELIX and route.device:
                self._address_moved(prefix)
            self._released.setdefault(prefix, set()).add(owner)
            dirty.add(prefix)

    def begin_adopting(self, owner: str) -> list[bytes]:
        """``owner`` starts anew: nothing of its is pruned from now on.  What it wants so far is to be forgotten."""
        self._pruning.discard(owner)
        return list(self._desired[owner])

    def forget(self, owner: str, prefixes: Iterable[bytes]) -> None:
        """Drop desired routes and leave the kernel's as they are, to be adopted or pruned later."""
        desired = self._desired[owner]
        for prefix in prefixes:
            route = desired.pop(prefix, None)
            if route is not None:
                self._count_device(owner, route, prefix, -1)
                self._show(prefix)

    def prune(self, owner: str) -> None:
        """From now on, what carries ``owner``'s mark and is not desired goes."""
        if owner in self._pruning:
            return
        self._pruning.add(owner)
        for prefix in self._present:
            self._dirty[owner].add(prefix)

    def set_ownership(self, ownership: Ownership) -> None:
        """Other routes may be whose they were not: everything present is looked at again."""
        self.ownership = ownership
        for prefix in self._present:
            self._dirty[""].add(prefix)

    def _address_moved(self, prefix: bytes) -> None:
        if prefix[0] == (len(prefix) - 1) * 8:
            self._stale_addresses.add(prefix[1:])

    def take_stale_addresses(self) -> set[bytes]:
        """Packed addresses whose workload went or moved: their connection-tracking entries must go."""
        taken, self._stale_addresses = self._stale_addresses, set()
        return taken

    def _count_device(self, owner: str, route: WantedRoute, prefix: bytes, step: int) -> None:
        device = route.device
        if not device:
            return
        if step > 0:
            self._by_device.setdefault(device, {})[prefix] = None
        elif not any(
            (other := self._desired[name].get(prefix)) is not None and other.device == device for name in RANK
        ):
            self._by_device.get(device, {}).pop(prefix, None)
        if owner == FELIX:
            self._felix_devices[device] += step
            if step > 0 and self._felix_devices[device] == 1:
                # The endpoint is known now: what else is on its interface has no grace left.
                for waiting in self._deferred:
                    self._dirty[""].add(waiting)

    # What the kernel says

    def set_links(self, links: Iterable[Link]) -> None:
        """All interfaces, as dumped."""
        self._links = {link.ifindex: link for link in links}
        self._index = {link.name: link.ifindex for link in self._links.values()}
        self._paths.clear()

    def link_changed(self, link: Link, *, removed: bool = False) -> bool:
        """An interface came, went or changed; True when the routes must be read anew."""
        old = self._links.get(link.ifindex)
        resync = False
        if removed:
            self._links.pop(link.ifindex, None)
            if self._index.get(link.name) == link.ifindex:
                del self._index[link.name]
        else:
            if old is not None and old.name == link.name and old.up == link.up:
                self._links[link.ifindex] = link
                return False
            if old is not None and old.name != link.name and self._index.get(old.name) == link.ifindex:
                del self._index[old.name]
            self._links[link.ifindex] = link
            self._index[link.name] = link.ifindex
        self._paths.clear()
        if removed or not link.up:
            # The kernel drops IPv4 routes of a dead interface without saying so.
            resync = self._interface_lost(link.ifindex)
        for prefix in self._by_device.get(link.name, ()):
            self._dirty[""].add(prefix)
        if not removed and link.up:
            self.retry_failed()
        return resync

    def _interface_lost(self, ifindex: int) -> bool:
        resync = False
        for prefix in list(self._by_index.get(ifindex, ())):
            kept = []
            for path in self._present.get(prefix, ()):
                if any(hop.ifindex == ifindex for hop in path.hops):
                    if len(path.hops) > 1:
                        resync = True
                    continue
                kept.append(path)
            self._store(prefix, tuple(kept))
            self._dirty[""].add(prefix)
        return resync

    def begin_load(self) -> _Load[R]:
        """Take in a whole dump, slice by slice."""
        return _Load(self)

    def route_changed(self, prefix: bytes, path: Path, *, removed: bool, replaced: bool) -> None:
        """A notification: somebody else added, replaced or removed a route."""
        present = self._present.get(prefix, ())
        if removed:
            kept = tuple(other for other in present if other != path)
        elif path in present:
            return
        else:
            kept = (*(other for other in present if not (replaced and other.metric == path.metric)), path)
        self._store(prefix, kept)
        self._dirty[""].add(prefix)
        if not removed and self._failed:
            self.retry_failed()

    def _store(self, prefix: bytes, paths: tuple[Path, ...]) -> None:
        before = self._present.get(prefix, ())
        if before == paths:
            return
        for path in before:
            for hop in path.hops:
                self._by_index.get(hop.ifindex, set()).discard(prefix)
        for path in paths:
            for hop in path.hops:
                self._by_index.setdefault(hop.ifindex, set()).add(prefix)
        if paths:
            self._present[prefix] = paths
        else:
            self._present.pop(prefix, None)
        if self._unknown_since:
            for path in before:
                if path not in paths:
                    self._unknown_since.pop((prefix, path), None)
        self._show(prefix)

    def _show(self, prefix: bytes) -> None:
        own = prefix in self._desired[BGP]
        shown: list[R] = []
        for path in self._present.get(prefix, ()):
            if path.type in TYPE_NAMES and not (own and path.protocol == RTPROT_BIRD):
                rendered = self._render(unpack_prefix(prefix), path, self._devices(path))
                if rendered is not None:
                    shown.append(rendered)
        if tuple(shown) == self.visible.get(prefix, ()):
            return
        self.version += 1
        if shown:
            self.visible[prefix] = tuple(shown)
        else:
            del self.visible[prefix]

    # What to do

    def _devices(self, path: Path) -> tuple[str, ...]:
        links = self._links
        return tuple(links[hop.ifindex].name if hop.ifindex in links else "" for hop in path.hops if hop.ifindex)

    def _owners(self, prefix: bytes, path: Path) -> tuple[str, ...]:
        return self.ownership.owners(prefix, path, self._devices(path))

    def winner(self, prefix: bytes) -> tuple[str, WantedRoute] | None:
        """The owner whose desired route is in force, and the route."""
        for owner in RANK:
            route = self._desired[owner].get(prefix)
            if route is not None:
                return owner, route
        return None

    def _path(self, route: WantedRoute, ipv6: bool) -> Path | None:
        """The kernel's form; None while the device is not there or down."""
        key = (
            ipv6,
            route.type,
            route.device,
            route.gateways,
            route.onlink,
            route.scope_link,
            route.protocol,
            route.metric,
            route.source,
            route.mtu,
        )
        try:
            return self._paths[key]
        except KeyError:
            path = self._paths[key] = self._make_path(route, ipv6)
            return path

    def _make_path(self, route: WantedRoute, ipv6: bool) -> Path | None:
        kind = TYPES[route.type.value]
        hops: tuple[NextHop, ...] = ()
        if kind == RTN_UNICAST:
            index = 0
            if route.device:
                index = self._index.get(route.device, 0)
                if not index or not self._links[index].up:
                    return None
            hops = tuple(sorted(NextHop(pack_address(gateway), index) for gateway in route.gateways))
            hops = hops or (NextHop(b"", index),)
        path = Path(
            kind,
            RT_SCOPE_LINK if route.scope_link and not ipv6 else RT_SCOPE_UNIVERSE,
            route.protocol,
            route.metric or (IPV6_DEFAULT_METRIC if ipv6 else 0),
            hops,
            route.onlink and kind == RTN_UNICAST,
            pack_address(route.source) if route.source else b"",
            route.mtu,
        )
        return intern_path(path)

    def busy(self, owner: str) -> bool:
        """Whether something ``owner`` said is still to be looked at."""
        return bool(self._dirty[owner])

    def take(self, limit: int, now: float) -> list[Plan]:
        """Plans for up to ``limit`` prefixes, the better-ranked owner's first; empty when nothing is left."""
        plans: list[Plan] = []
        seen = 0
        queues = tuple(self._dirty.values())
        for queue in queues:
            while queue and seen < limit:
                prefix = queue.pop()
                for other in queues:
                    other.discard(prefix)
                seen += 1
                made = self._plan(prefix, now)
                if made is None:
                    continue
                if made.conflict is not None:
                    self._fail(prefix, f"a route of protocol {made.conflict.protocol} is in the way", now)
                elif made.puts or made.deletes:
                    plans.append(made)
                else:
                    self._settled(prefix)
        return plans

    def has_work(self) -> bool:
        return any(self._dirty.values())

    def _plan(self, prefix: bytes, now: float) -> Plan | None:
        present = self._present.get(prefix, ())
        winner = self.winner(prefix)
        wanted = None
        owner = ""
        if winner is not None:
            owner, route = winner
            try:
                wanted = self._path(route, len(prefix) == 17)
            except ValueError as error:
                self._fail(prefix, str(error), now)
                return None
            if wanted is None:
                return None
            if len(present) == 1 and present[0] is wanted:
                self._settled(prefix)
                return None

        def removable(path: Path) -> bool:
            return self._removable(prefix, path, owner, now)

        def replaceable(path: Path) -> bool:
            return owner == FELIX or owner in self._owners(prefix, path) or removable(path)

        return plan(prefix, wanted, present, removable=removable, replaceable=replaceable)

    def _removable(self, prefix: bytes, path: Path, winner: str, now: float) -> bool:
        devices = self._devices(path)
        released = self._released.get(prefix, ())
        for owner in self.ownership.owners(prefix, path, devices):
            if owner == winner or owner in released or prefix in self._desired[owner]:
                return True
            if owner in self._pruning:
                if owner != FELIX or not self.ownership.has_grace(path, devices):
                    return True
                if any(self._felix_devices[device] > 0 for device in devices):
                    return True
                due = self._unknown_since.setdefault((prefix, path), now) + UNKNOWN_ROUTE_GRACE
                if now >= due:
                    return True
                self._deferred[prefix] = due
                self._note_due(due)
        return False

    def done(self, change: Change, error: NetlinkError | None, now: float) -> bool:
        """The outcome of one write; False when it failed (it is tried again later)."""
        if error is not None and not (change.delete and error.errno == errno.ESRCH):
            self._fail(change.prefix, str(error), now)
            return False
        present = self._present.get(change.prefix, ())
        if change.delete:
            self._store(change.prefix, tuple(path for path in present if path != change.path))
        else:
            kept = tuple(path for path in present if path.metric != change.path.metric)
            self._store(change.prefix, (*kept, change.path))
        self._settled(change.prefix)
        return True

    def _settled(self, prefix: bytes) -> None:
        if self._failed:
            self._failed.pop(prefix, None)
        if self._released:
            self._released.pop(prefix, None)

    def _fail(self, prefix: bytes, reason: str, now: float) -> None:
        before = self._failed.get(prefix)
        attempts = before.attempts + 1 if before is not None else 0
        if before is None:
            self._new_failures.append(prefix)
        due = now + RETRY_DELAYS[min(attempts, len(RETRY_DELAYS) - 1)]
        self._failed[prefix] = _Failure(reason, attempts, due)
        self._note_due(due)

    def _note_due(self, due: float) -> None:
        if self._due is None or due < self._due:
            self._due = due

    def requeue(self, plans: Iterable[Plan]) -> None:
        """Plans that could not be carried out for a fault of the socket: their prefixes are to be looked at again."""
        for made in plans:
            for change in (*made.puts, *made.deletes):
                self._dirty[""].add(change.prefix)

    def recheck_missing(self) -> None:
        """Look again at what is wanted and not there at all."""
        for desired in self._desired.values():
            for prefix in desired:
                if prefix not in self._present:
                    self._dirty[""].add(prefix)

    def retry_failed(self) -> None:
        """Something changed: look at everything that failed again."""
        for prefix in self._failed:
            self._dirty[""].add(prefix)

    def expire(self, now: float) -> None:
        """Make due what waited: retries, ends of grace periods."""
        if self._due is None or now < self._due:
            return
        for prefix, failure in self._failed.items():
            if failure.due <= now:
                self._dirty[""].add(prefix)
        for prefix in [prefix for prefix, due in self._deferred.items() if due <= now]:
            del self._deferred[prefix]
            self._dirty[""].add(prefix)
        waiting = [failure.due for failure in self._failed.values() if failure.due > now]
        self._due = min([*waiting, *self._deferred.values()], default=None)

    def next_due(self) -> float | None:
        """When ``expire`` may have something to do next."""
        return self._due

    def take_new_failures(self) -> tuple[int, str, str] | None:
        """How many routes began to fail since the last call, and the first one's destination and reason."""
        new, self._new_failures = [prefix for prefix in self._new_failures if prefix in self._failed], []
        if not new:
            return None
        return len(new), unpack_prefix(new[0]), self._failed[new[0]].reason

    def failures_of(self, owner: str) -> dict[str, str]:
        """Destinations where what ``owner`` says could not be brought in force, and why."""
        found = {}
        for prefix, failure in self._failed.items():
            winner = self.winner(prefix)
            if winner[0] == owner if winner is not None else owner in self._released.get(prefix, ()):
                found[unpack_prefix(prefix)] = failure.reason
        return found

    def wanted_by(self, owner: str, prefix: bytes) -> bool:
        return prefix in self._desired[owner]

    def present(self, prefix: bytes) -> tuple[Path, ...]:
        return self._present.get(prefix, ())


class _Load(Generic[R]):
    """A dump being taken in: ``feed`` the routes; ``differing`` then says where the table had it otherwise."""

    def __init__(self, table: RouteTable[R]) -> None:
        self._table = table
        self._found: dict[bytes, tuple[Path, ...]] = {}

    def feed(self, routes: Iterable[tuple[bytes, Path]]) -> None:
        found = self._found
        for prefix, path in routes:
            before = found.get(prefix)
            found[prefix] = (path,) if before is None else (*before, path)

    def differing(self) -> list[bytes]:
        """Prefixes that differ from what the table holds."""
        held = self._table._present
        differing = [prefix for prefix, paths in self._found.items() if held.get(prefix) != paths]
        differing += [prefix for prefix in held if prefix not in self._found]
        return differing

    def take_in(self, prefixes: Iterable[bytes]) -> None:
        for prefix in prefixes:
            self._table._store(prefix, self._found.get(prefix, ()))
            self._table._dirty[""].add(prefix)
