"""The routing table of one address family: paths from every source, best paths, next-hop resolution.

Changes only mark prefixes; ``select`` decides one prefix.  The work is in proportion to what changed: a prefix is
decided again when one of its paths changes or when the resolution of a next hop it uses does.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from attrs import define, field, frozen

from calico_node.plugins.bgp.packet import LLGR_STALE, Attributes
from calico_node.plugins.bgp.prefix import Prefix, address_to_number, mask

DEFAULT_LOCAL_PREF = 100
MAX_MULTIPATH = 16
UNKNOWN_METRIC = 1 << 32


class Origin(enum.IntEnum):
    """Where a path comes from; the number orders origins of equal preference (ours first)."""

    DIRECT = 0
    STATIC = 1
    BGP = 2
    KERNEL = 3


PREFERENCE = {Origin.DIRECT: 240, Origin.STATIC: 200, Origin.BGP: 100, Origin.KERNEL: 10}
ELEVATED_PREFERENCE = 200


class PathKey(NamedTuple):
    """``source`` is the peer's name, ``static``, ``kernel`` or ``direct/<interface>``."""

    source: str
    path_id: int = 0


@define(eq=False, slots=True)
class Path:
    """One way to a prefix.  ``metric`` is the kernel's for KERNEL routes, None where undefined.

    ``device`` and ``gateway`` are those of a non-BGP route; ``blackhole`` drops.  ``peer_id`` and ``peer_address``
    (a number) break ties of BGP paths.  ``id`` is unique within the prefix: the path identifier we announce.
    """

    key: PathKey
    origin: Origin
    preference: int
    attributes: Attributes = field(factory=Attributes)
    metric: int | None = None
    ebgp: bool = False
    rr_client: bool = False
    peer_id: int = 0
    peer_address: int = 0
    device: str = ""
    gateway: str = ""
    blackhole: bool = False
    id: int = 0

    @property
    def local_pref(self) -> int:
        value = self.attributes.local_pref
        return DEFAULT_LOCAL_PREF if value is None else value


@frozen
class Resolution:
    """How a next hop is reached; ``metric`` is the IGP metric."""

    reachable: bool
    gateway: str = ""
    device: str = ""
    metric: int = UNKNOWN_METRIC


UNREACHABLE = Resolution(False)


@frozen
class Selection:
    """The decision for one prefix: ``best``, and ``multipath`` (``best`` first) for equal-cost forwarding."""

    best: Path
    multipath: tuple[Path, ...] = ()


@define
class _Hop:
    resolution: Resolution
    users: Counter[Prefix] = field(factory=Counter)


class Table:
    """All paths of one address family."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.paths: dict[Prefix, list[Path]] = {}
        self.selected: dict[Prefix, Selection] = {}
        self.dirty: dict[Prefix, None] = {}
        self._local: frozenset[str] = frozenset()
        self._hops: dict[str, _Hop] = {}
        self._lengths: Counter[int] = Counter()
        self._hops_by_length: dict[int, dict[Prefix, set[str]]] = {}

    # --- changes

    def set(self, prefix: Prefix, path: Path) -> None:
        """Add ``path``, replacing the one with the same key."""
        paths = self.paths.setdefault(prefix, [])
        for index, old in enumerate(paths):
            if old.key == path.key:
                path.id = old.id
                paths[index] = path
                if old.attributes.next_hop != path.attributes.next_hop:
                    self._release(old, prefix)
                    self._use(path, prefix)
                self.dirty[prefix] = None
                return
        taken = {other.id for other in paths}
        path.id = next(number for number in range(1, len(paths) + 2) if number not in taken)
        paths.append(path)
        self._use(path, prefix)
        self.dirty[prefix] = None

    def remove(self, prefix: Prefix, key: PathKey) -> None:
        """Drop a path; nothing there is fine."""
        paths = self.paths.get(prefix, [])
        for index, path in enumerate(paths):
            if path.key == key:
                del paths[index]
                self._release(path, prefix)
                self.dirty[prefix] = None
                break
        if not paths:
            self.paths.pop(prefix, None)

    def set_local_addresses(self, addresses: Iterable[str]) -> None:
        """This host's own addresses: no next hop may be one of them."""
        new = frozenset(addresses)
        changed = new ^ self._local
        self._local = new
        for address in changed:
            self._resolve_again((address,))

    # --- deciding

    def select(self, prefix: Prefix) -> Selection | None:
        """Decide ``prefix`` anew and return the outcome, None when no path is left."""
        paths = self.paths.get(prefix)
        old = self.selected.get(prefix)
        if not paths:
            new = None
            if old is not None:
                del self.selected[prefix]
                self._lengths[prefix.length] -= 1
                if not self._lengths[prefix.length]:
                    del self._lengths[prefix.length]
        else:
            new = self._decide(paths)
            self.selected[prefix] = new
            if old is None:
                self._lengths[prefix.length] += 1
        if (old.best if old else None) is not (new.best if new else None):
            self._resolve_again(self._hops_in(prefix))
        return new

    def resolution(self, path: Path) -> Resolution:
        """How the path's traffic leaves this host."""
        if path.origin is not Origin.BGP:
            return Resolution(True, path.gateway, path.device, 0)
        hop = self._hops.get(path.attributes.next_hop)
        return hop.resolution if hop is not None else UNREACHABLE

    def _decide(self, paths: list[Path]) -> Selection:
        top = max(path.preference for path in paths)
        candidates = [path for path in paths if path.preference == top]
        if len(candidates) > 1:
            first = min(path.origin for path in candidates)
            candidates = [path for path in candidates if path.origin == first]
        if len(candidates) == 1 or candidates[0].origin is not Origin.BGP:
            return Selection(min(candidates, key=lambda p: p.key), (candidates[0],))
        candidates = _keep_least(candidates, self._before_med)
        if any(path.attributes.med for path in candidates):
            candidates = [path for path in candidates if _med(path) == _least_med(path, candidates)]
        equal = _keep_least(candidates, self._after_med)
        equal.sort(key=_tie_break)
        usable = [path for path in equal if self.resolution(path).reachable]
        return Selection(equal[0], tuple(usable[:MAX_MULTIPATH]) or (equal[0],))

    def _before_med(self, path: Path) -> tuple[int, ...]:
        return (not self.resolution(path).reachable, *_rank(path.attributes))

    def _after_med(self, path: Path) -> tuple[int, ...]:
        return (not path.ebgp, self.resolution(path).metric)

    # --- next hops

    def _use(self, path: Path, prefix: Prefix) -> None:
        if path.origin is not Origin.BGP:
            return
        text = path.attributes.next_hop
        hop = self._hops.get(text)
        if hop is None:
            hop = self._hops[text] = _Hop(self._resolve(text))
            for length, index in self._hops_by_length.items():
                index.setdefault(mask(self.version, address_to_number(text), length), set()).add(text)
        hop.users[prefix] += 1

    def _release(self, path: Path, prefix: Prefix) -> None:
        if path.origin is not Origin.BGP:
            return
        text = path.attributes.next_hop
        hop = self._hops[text]
        hop.users[prefix] -= 1
        if not hop.users[prefix]:
            del hop.users[prefix]
        if not hop.users:
            del self._hops[text]
            for length, index in self._hops_by_length.items():
                covering = mask(self.version, address_to_number(text), length)
                index[covering].discard(text)
                if not index[covering]:
                    del index[covering]

    def _hops_in(self, prefix: Prefix) -> tuple[str, ...]:
        """The next hops in use that lie in ``prefix``."""
        index = self._hops_by_length.get(prefix.length)
        if index is None:
            index = self._hops_by_length[prefix.length] = {}
            for text in self._hops:
                index.setdefault(mask(self.version, address_to_number(text), prefix.length), set()).add(text)
        return tuple(index.get(prefix, ()))

    def _resolve_again(self, hops: Iterable[str]) -> None:
        for text in hops:
            hop = self._hops.get(text)
            if hop is None:
                continue
            resolution = self._resolve(text)
            if resolution != hop.resolution:
                hop.resolution = resolution
                self.dirty.update(dict.fromkeys(hop.users))

    def _resolve(self, text: str) -> Resolution:
        """Longest match in this table; through a BGP route or a black hole nothing is reachable."""
        if not text or text in self._local:
            return UNREACHABLE
        number = address_to_number(text)
        for length in sorted(self._lengths, reverse=True):
            selection = self.selected.get(mask(self.version, number, length))
            if selection is None:
                continue
            via = selection.best
            if via.origin is Origin.BGP or via.blackhole:
                return UNREACHABLE
            if via.gateway:
                return Resolution(True, via.gateway, via.device)
            return Resolution(True, text, via.device, 0)
        return UNREACHABLE


@lru_cache(maxsize=65536)
def _rank(a: Attributes) -> tuple[int, ...]:
    """What of a path's standing follows from its attributes alone, up to MED; lower is better."""
    local_pref = DEFAULT_LOCAL_PREF if a.local_pref is None else a.local_pref
    return (LLGR_STALE in a.communities, -local_pref, a.path_length, a.origin)


def _keep_least(paths: list[Path], key: Callable[[Path], tuple[int, ...]]) -> list[Path]:
    scored = [(key(path), path) for path in paths]
    least = min(score for score, _ in scored)
    return [path for score, path in scored if score == least]


def _med(path: Path) -> int:
    return path.attributes.med or 0


def _least_med(path: Path, paths: list[Path]) -> int:
    """The lowest MED among paths of the same neighbouring AS (RFC 4271 9.1.2.2 c)."""
    neighbor = path.attributes.neighbor_as
    return min(_med(other) for other in paths if other.attributes.neighbor_as == neighbor)


def _tie_break(path: Path) -> tuple[int, ...]:
    """Lowest ORIGINATOR_ID or router id, shortest CLUSTER_LIST, lowest address, lowest path id."""
    a = path.attributes
    identifier = path.peer_id if a.originator_id is None else a.originator_id
    return (identifier, len(a.cluster_list), path.peer_address, path.key.path_id)


__all__ = [
    "ELEVATED_PREFERENCE",
    "PREFERENCE",
    "UNREACHABLE",
    "Origin",
    "Path",
    "PathKey",
    "Resolution",
    "Selection",
    "Table",
]
