"""What the kernel is told: decisions of the table as routes of protocol 12, and what is missing there."""

from __future__ import annotations

from attrs import frozen

from calico_node.dataplanes.contract import Route, RouteType
from calico_node.plugins.bgp.policy import PolicyConfig, Pool, kernel_route
from calico_node.plugins.bgp.prefix import BITS, Prefix, address_to_number, parse_prefix, prefix_text
from calico_node.plugins.bgp.rib import Origin, Path, Selection, Table

PROTOCOL_BIRD = 12


@frozen
class Hole:
    """A received route that is left to another component, which has not programmed it.

    ``direct``: the next hop is in our own subnet.
    """

    prefix: Prefix
    pool: Pool
    peer: str
    next_hop: str
    direct: bool


class Forwarder:
    """Desired kernel routes of one table, and the changes not yet taken."""

    def __init__(self, table: Table) -> None:
        self.policy = PolicyConfig()
        self.holes: dict[Prefix, Hole] = {}
        self._table = table
        self._desired: dict[Prefix, Route] = {}
        self._changes: dict[str, Route | None] = {}

    @property
    def desired(self) -> frozenset[Prefix]:
        """The destinations that the kernel should have from us."""
        return frozenset(self._desired)

    @property
    def pending(self) -> bool:
        """Whether there are changes to take."""
        return bool(self._changes)

    def take(self) -> tuple[list[Route], list[str]]:
        """(added or changed, removed destinations) since the last call."""
        changes, self._changes = self._changes, {}
        return [r for r in changes.values() if r is not None], [dst for dst, r in changes.items() if r is None]

    def decided(self, prefix: Prefix, selection: Selection | None) -> None:
        """The table has decided ``prefix`` anew."""
        route = self._route(prefix, selection)
        if route == self._desired.get(prefix):
            return
        if route is None:
            del self._desired[prefix]
        else:
            self._desired[prefix] = route
        self._changes[prefix_text(prefix)] = route

    def _route(self, prefix: Prefix, selection: Selection | None) -> Route | None:
        self.holes.pop(prefix, None)
        if selection is None or selection.best.origin in (Origin.KERNEL, Origin.DIRECT):
            return None
        best, hop = selection.best, None
        if best.origin is Origin.BGP:
            version = self._table.version
            hop = Prefix(version, BITS[version], address_to_number(best.attributes.next_hop))
        verdict = kernel_route(self.policy, prefix, best, hop)
        if not verdict.accept:
            self._note_hole(prefix, best, verdict.pool)
            return None
        text = prefix_text(prefix)
        if best.blackhole:
            return Route(text, RouteType.BLACKHOLE, protocol=PROTOCOL_BIRD, metric=verdict.metric)
        resolved = [self._table.resolution(path) for path in selection.multipath]
        gateways = tuple(dict.fromkeys(r.gateway for r in resolved if r.reachable))
        if not gateways:
            return Route(text, RouteType.UNREACHABLE, protocol=PROTOCOL_BIRD, metric=verdict.metric)
        devices = {r.device for r in resolved if r.reachable}
        device = devices.pop() if len(devices) == 1 else ""
        return Route(text, device=device, gateways=gateways, protocol=PROTOCOL_BIRD, metric=verdict.metric)

    def _note_hole(self, prefix: Prefix, best: Path, pool: Pool | None) -> None:
        """Note a remote route of ``pool`` that is not in the kernel."""
        if pool is None or best.origin is not Origin.BGP:
            return
        if any(path.origin is Origin.KERNEL and not path.blackhole for path in self._table.paths[prefix]):
            return
        hop, subnet = best.attributes.next_hop, self.policy.subnet
        direct = subnet is not None and parse_prefix(hop).within(subnet)
        self.holes[prefix] = Hole(prefix, pool, best.key.source, hop, direct)
