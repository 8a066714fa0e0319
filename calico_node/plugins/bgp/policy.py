"""Calico's routing policy: what is announced, what is accepted, what goes into the kernel.

The rules are those that Calico renders for BIRD.  A route's priority (its kernel metric) travels between Calico nodes
as LOCAL_PREF = 2147483647 - priority; the normal priority is 1024, anything below it is *elevated* (live migration).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from functools import lru_cache

from attrs import define, evolve, frozen

from calico_node.plugins.bgp.packet import Attributes
from calico_node.plugins.bgp.packet.attributes import (
    LLGR_STALE,
    NO_ADVERTISE,
    NO_EXPORT,
    NO_EXPORT_SUBCONFED,
)
from calico_node.plugins.bgp.prefix import Prefix
from calico_node.plugins.bgp.rib import ELEVATED_PREFERENCE, PREFERENCE, Origin, Path

MAX_PRIORITY = 2147483647
NORMAL_PRIORITY = 1024


@frozen
class Pool:
    """An IP pool.  Modes: "", ``always`` or ``cross-subnet``."""

    prefix: Prefix
    ipip_mode: str = ""
    vxlan_mode: str = ""
    disable_export: bool = False

    @property
    def encapsulated(self) -> bool:
        """Whether the pool's routes may need a tunnel."""
        return bool(self.ipip_mode or self.vxlan_mode)


@frozen
class Communities:
    """``prefixAdvertisements``: routes inside ``prefix`` carry these."""

    prefix: Prefix
    standard: tuple[int, ...] = ()
    large: tuple[tuple[int, int, int], ...] = ()


@frozen
class Operation:
    """One operation of an Accept rule; exactly one member is set."""

    standard: int | None = None
    large: tuple[int, int, int] | None = None
    prepend: tuple[int, ...] = ()
    priority: int | None = None


@frozen
class FilterRule:
    """One BGPFilter rule, ready to match.  Unset members match everything."""

    accept: bool
    prefix: Prefix | None = None
    operator: str = "Equal"
    lengths: tuple[int, int] | None = None
    remote_only: bool = False
    interface: str = ""
    ibgp: bool | None = None
    standard: int | None = None
    large: tuple[int, int, int] | None = None
    as_path_prefix: tuple[int, ...] = ()
    priority: int | None = None
    operations: tuple[Operation, ...] = ()


@frozen
class Filter:
    """A BGPFilter's rules of one address family."""

    name: str
    imports: tuple[FilterRule, ...] = ()
    exports: tuple[FilterRule, ...] = ()


@frozen
class PolicyConfig:
    """What the rules of this node depend on, for one address family.

    ``blocks`` are the own block affinities with their state; ``statics`` the service ranges announced;
    ``load_balancer`` the ranges a route reflector passes on; ``rejected`` never reach the kernel.
    ``subnet`` is the node's own subnet; ``wireguard_hops`` the addresses of nodes reached by WireGuard.
    """

    version: int = 4
    normal_priority: int = NORMAL_PRIORITY
    pools: tuple[Pool, ...] = ()
    blocks: tuple[tuple[Prefix, str], ...] = ()
    statics: tuple[Prefix, ...] = ()
    load_balancer: tuple[Prefix, ...] = ()
    rejected: tuple[Prefix, ...] = ()
    subnet: Prefix | None = None
    cluster_id: str = ""
    owns_ipip: bool = False
    owns_no_encap: bool = True
    wireguard_hops: frozenset[str] = frozenset()
    communities: tuple[Communities, ...] = ()


@frozen(cache_hash=True)
class ExportTo:
    """The peers that see the same announcements.  ``source`` is the address we speak from, ``cluster_id`` the
    reflector's cluster as a number (0: we do not reflect)."""

    ibgp: bool
    local_as: int
    source: str
    rr_client: bool = False
    cluster_id: int = 0
    next_hop_self: bool = False
    next_hop_keep: bool = False
    add_path: bool = False
    long_lived: bool = False
    filters: tuple[Filter, ...] = ()


@define(slots=True)
class _Candidate:
    """A route while rules look at it and change it.  ``verdict`` None: no rule has decided."""

    prefix: Prefix
    attributes: Attributes
    bgp: bool
    device: str
    metric: int = 0
    verdict: bool | None = None


# --- BGPFilter


def _run_filter(rules: Sequence[FilterRule], candidate: _Candidate, ibgp: bool) -> None:
    """The first matching rule decides; ``verdict`` stays None when none matches."""
    for rule in rules:
        if _matches(rule, candidate, ibgp):
            for operation in rule.operations:
                candidate.attributes = _operate(candidate.attributes, operation)
            candidate.verdict = rule.accept
            return


def _matches(rule: FilterRule, candidate: _Candidate, ibgp: bool) -> bool:
    a = candidate.attributes
    if rule.ibgp is not None and rule.ibgp != ibgp:
        return False
    if rule.prefix is not None and not _matches_prefix(rule, candidate.prefix):
        return False
    if rule.remote_only and not candidate.bgp:
        return False
    if rule.interface and not (candidate.device and fnmatch.fnmatchcase(candidate.device, rule.interface)):
        return False
    if rule.standard is not None and rule.standard not in a.communities:
        return False
    if rule.large is not None and rule.large not in a.large_communities:
        return False
    if rule.as_path_prefix:
        path = tuple(asn for segment in a.as_path for asn in segment.asns)
        if path[: len(rule.as_path_prefix)] != rule.as_path_prefix:
            return False
    return rule.priority is None or _local_pref(a) == MAX_PRIORITY - rule.priority


def _matches_prefix(rule: FilterRule, prefix: Prefix) -> bool:
    assert rule.prefix is not None
    if rule.operator == "NotEqual":
        matched = prefix != rule.prefix
    elif rule.operator == "In":
        matched = prefix.within(rule.prefix)
    elif rule.operator == "NotIn":
        matched = not prefix.within(rule.prefix)
    else:
        matched = prefix == rule.prefix
    return matched and (rule.lengths is None or rule.lengths[0] <= prefix.length <= rule.lengths[1])


def _operate(a: Attributes, operation: Operation) -> Attributes:
    if operation.standard is not None:
        return add_communities(a, (operation.standard,), ())
    if operation.large is not None:
        return add_communities(a, (), (operation.large,))
    if operation.prepend:
        return a.prepend(operation.prepend)
    if operation.priority is not None:
        return evolve(a, local_pref=MAX_PRIORITY - operation.priority)
    return a


def add_communities(a: Attributes, standard: Sequence[int], large: Sequence[tuple[int, int, int]]) -> Attributes:
    """``a`` with communities added, both lists sorted and free of repetition."""
    return evolve(
        a,
        communities=tuple(sorted({*a.communities, *standard})),
        large_communities=tuple(sorted({*a.large_communities, *large})),
    )


def _local_pref(a: Attributes) -> int:
    return 100 if a.local_pref is None else a.local_pref


# --- import


def import_route(
    config: PolicyConfig, filters: Sequence[Filter], ibgp: bool, prefix: Prefix, attributes: Attributes
) -> tuple[Attributes, int] | None:
    """The attributes and preference with which a received route enters the table; None to refuse it."""
    if attributes.local_pref is None or not ibgp:
        attributes = evolve(attributes, local_pref=100)
    candidate = _Candidate(prefix, attributes, True, "")
    for each in filters:
        _run_filter(each.imports, candidate, ibgp)
        if candidate.verdict is not None:
            return (candidate.attributes, PREFERENCE[Origin.BGP]) if candidate.verdict else None
    elevated = _local_pref(attributes) > MAX_PRIORITY - config.normal_priority
    return attributes, ELEVATED_PREFERENCE if elevated else PREFERENCE[Origin.BGP]


# --- export


def export_route(config: PolicyConfig, to: ExportTo, prefix: Prefix, path: Path, device: str) -> Attributes | None:
    """The attributes with which ``path`` is announced to peers of kind ``to``, None when it is not.

    ``device`` is the interface its traffic leaves by.
    """
    if not _may_pass(to, path):
        return None
    candidate = _reconcile(config, prefix, path, device)
    for each in to.filters:
        _run_filter(each.exports, candidate, to.ibgp)
        if candidate.verdict is not None:
            break
    if candidate.verdict is None:
        candidate.verdict = _default_export(config, to, candidate)
    return _outbound(to, path, candidate.attributes) if candidate.verdict else None


def _may_pass(to: ExportTo, path: Path) -> bool:
    """The protocol's own rules, before any filter: reflection, well-known communities, LLGR."""
    if path.origin is not Origin.BGP:
        return True
    if to.ibgp and not path.ebgp and not (to.cluster_id and (to.rr_client or path.rr_client)):
        return False
    communities = path.attributes.communities
    if not communities:
        return True
    if NO_ADVERTISE in communities or (LLGR_STALE in communities and not to.long_lived):
        return False
    return to.ibgp or (NO_EXPORT not in communities and NO_EXPORT_SUBCONFED not in communities)


def _reconcile(config: PolicyConfig, prefix: Prefix, path: Path, device: str) -> _Candidate:
    """Make metric and LOCAL_PREF say the same.

    A workload's own route without a metric counts as normal: only a metric that somebody set can elevate a route.
    """
    a = path.attributes
    bgp = path.origin is Origin.BGP
    if bgp and a.local_pref is not None:
        return _Candidate(prefix, a, True, device, MAX_PRIORITY - a.local_pref)
    metric = config.normal_priority if path.metric is None else path.metric
    if not metric and path.origin is Origin.KERNEL and prefix.is_host and device.startswith("cali"):
        metric = config.normal_priority
    return _Candidate(prefix, evolve(a, local_pref=max(MAX_PRIORITY - metric, 0)), bgp, device, metric)


def _default_export(config: PolicyConfig, to: ExportTo, candidate: _Candidate) -> bool:
    """``calico_export_to_bgp_peers``: own blocks, not their parts; services; the pools."""
    prefix, device = candidate.prefix, candidate.device
    if any(pool.disable_export and prefix.within(pool.prefix) for pool in config.pools):
        return False
    if to.ibgp and (device.endswith((".cali", ".calico")) or (device == "tunl0" and not config.owns_ipip)):
        return False
    if device.startswith("bpf") and device.endswith(".cali"):
        return False
    for entry in config.communities:
        if prefix.within(entry.prefix):
            candidate.attributes = add_communities(candidate.attributes, entry.standard, entry.large)
    for block, state in config.blocks:
        if state in ("", "confirmed") and prefix.within(block):
            return prefix == block or candidate.metric < config.normal_priority
    if any(prefix.within(cidr) for cidr in config.statics):
        return True
    if config.cluster_id and any(prefix.within(cidr) for cidr in config.load_balancer):
        return True
    return any(prefix.within(pool.prefix) for pool in config.pools)


@lru_cache(maxsize=8192)
def _outbound_bgp(to: ExportTo, a: Attributes, ebgp: bool, peer_id: int) -> Attributes:
    """Attribute rules of RFC 4271 section 5.1 and RFC 4456 for a route learned by BGP."""
    if not to.ibgp:
        hop = a.next_hop if to.next_hop_keep and not to.next_hop_self else to.source
        return evolve(a, next_hop=hop, local_pref=None, med=None, originator_id=None, cluster_list=()).prepend(
            (to.local_as,)
        )
    hop = to.source if to.next_hop_self else a.next_hop
    if ebgp:
        return evolve(a, next_hop=hop)
    return evolve(
        a,
        next_hop=hop,
        originator_id=peer_id if a.originator_id is None else a.originator_id,
        cluster_list=(to.cluster_id, *a.cluster_list),
    )


def _outbound(to: ExportTo, path: Path, a: Attributes) -> Attributes:
    if path.origin is Origin.BGP:
        return _outbound_bgp(to, a, path.ebgp, path.peer_id)
    return _outbound_local(to, a, path.gateway)


@lru_cache(maxsize=1024)
def _outbound_local(to: ExportTo, a: Attributes, gateway: str) -> Attributes:
    """Next hop of a route of our own: ourselves, unless an internal peer can use its gateway."""
    own = to.next_hop_self or not gateway or gateway.startswith("fe80:") or not (to.ibgp or to.next_hop_keep)
    a = evolve(a, next_hop=to.source if own else gateway)
    return a if to.ibgp else evolve(a, local_pref=None).prepend((to.local_as,))


# --- kernel


@frozen
class KernelVerdict:
    """``accept`` with ``metric``; or why not: ``pool`` is the pool whose routes another component programs."""

    accept: bool
    metric: int = 0
    pool: Pool | None = None


def kernel_route(config: PolicyConfig, prefix: Prefix, path: Path, next_hop: Prefix | None) -> KernelVerdict:
    """``calico_kernel_programming``.  ``next_hop`` is the BGP next hop as a host prefix, None for local routes."""
    if any(prefix.within(cidr) for cidr in config.rejected):
        return KernelVerdict(False)
    metric = 0
    if path.origin is Origin.BGP:
        metric = max(MAX_PRIORITY - path.local_pref, 0)
        if path.attributes.next_hop in config.wireguard_hops:
            return KernelVerdict(False)
    if config.version == 4 and config.subnet is None:
        return KernelVerdict(True, metric)
    for pool in config.pools:
        if not prefix.within(pool.prefix):
            continue
        if pool.vxlan_mode:
            owned = False
        elif pool.ipip_mode:
            near = pool.ipip_mode == "cross-subnet" and config.subnet is not None
            direct = next_hop is None or (near and config.subnet is not None and next_hop.within(config.subnet))
            owned = config.owns_ipip and direct
        else:
            owned = config.owns_no_encap
        return KernelVerdict(owned, metric, None if owned else pool)
    return KernelVerdict(True, metric)
