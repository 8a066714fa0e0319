"""The BGP sessions a node must have: a pure function of what the datastore says."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from attrs import evolve, field, frozen

from calico_node.errors import SelectorError, ValidationError
from calico_node.plugins.bgp.prefix import Prefix, parse_prefix
from calico_node.resources import BGPPeer, Node
from calico_node.resources.bgp import BGPPeerSpec, SecretKeyRef
from calico_node.selectors import parse

DEFAULT_AS = 64512
DEFAULT_PORT = 179
DEFAULT_RESTART_TIME = 120


@frozen
class PeerConfig:
    """One session.  ``kind`` is ``mesh``, ``global`` or ``node``; ``source`` "" lets the kernel choose our address.

    ``rr_client`` and ``cluster_id`` are set where we reflect to this peer; ``ttl`` > 0 is GTSM's number of hops;
    ``keepalive`` 0 is a third of the hold time; ``reachable_by`` a gateway for a route to the peer itself.
    """

    name: str
    address: str
    asn: int
    local_as: int
    kind: str
    port: int = DEFAULT_PORT
    source: str = ""
    passive: bool = False
    rr_client: bool = False
    cluster_id: str = ""
    next_hop_self: bool = False
    next_hop_keep: bool = False
    ttl: int = 0
    password: str = field(default="", repr=False)
    restart_time: int = DEFAULT_RESTART_TIME
    keepalive: int = 0
    allow_own_as: int = 0
    filters: tuple[str, ...] = ()
    reachable_by: str = ""

    @property
    def ibgp(self) -> bool:
        return self.asn == self.local_as


@frozen
class NodeInfo:
    """A Node as the sessions see it: addresses without length, ``subnet`` the own IPv4 network."""

    name: str
    addresses: Mapping[int, str] = field(factory=dict)
    subnets: Mapping[int, Prefix] = field(factory=dict)
    asn: int | None = None
    cluster_id: str = ""
    port: int | None = None
    labels: Mapping[str, str] = field(factory=dict)
    wireguard: Mapping[int, bool] = field(factory=dict)


@frozen
class View:
    """What ``compute`` works from.  ``peers`` are BGPPeer resources by name; ``secret`` gives a password or None."""

    node_name: str
    nodes: Mapping[str, NodeInfo]
    peers: Mapping[str, BGPPeer]
    mesh_enabled: bool = True
    asn: int = DEFAULT_AS
    port: int = DEFAULT_PORT
    mesh_password: str = field(default="", repr=False)
    mesh_restart_time: int = DEFAULT_RESTART_TIME
    secret: Callable[[SecretKeyRef], str | None] = field(default=lambda reference: None)


@frozen
class Peers:
    """``rejected`` maps ``BGPPeer(name)`` to why it, or part of it, has no session."""

    sessions: tuple[PeerConfig, ...] = ()
    rejected: Mapping[str, str] = field(factory=dict)


def node_info(resource: Node) -> NodeInfo:
    """The parts of a Node resource that matter; a malformed address counts as absent."""
    bgp = resource.spec.bgp
    addresses: dict[int, str] = {}
    subnets: dict[int, Prefix] = {}
    texts = {4: bgp.ipv4_address, 6: bgp.ipv6_address} if bgp is not None else {}
    for version, text in texts.items():
        try:
            interface = ipaddress.ip_interface(text or "")
        except ValueError:
            continue
        if interface.version == version:
            addresses[version] = str(interface.ip)
            subnets[version] = parse_prefix(str(interface.network))
    wireguard = resource.spec.wireguard
    return NodeInfo(
        name=resource.metadata.name,
        addresses=addresses,
        subnets=subnets,
        asn=parse_as(bgp.as_number) if bgp is not None else None,
        cluster_id=(bgp.route_reflector_cluster_id or "") if bgp is not None else "",
        labels=dict(resource.metadata.labels),
        wireguard={
            4: wireguard is not None and bool(wireguard.interface_ipv4_address),
            6: wireguard is not None and bool(wireguard.interface_ipv6_address),
        },
    )


def parse_as(value: int | str | None) -> int | None:
    """An AS number from 64512, "64512" or "1.10" (RFC 5396 asdot)."""
    if value is None or value == "":
        return None
    if isinstance(value, str) and "." in value:
        high, _, low = value.partition(".")
        return (int(high) << 16) | int(low)
    return int(value)


def compute(view: View, version: int) -> Peers:
    """All sessions of the node for one address family, sorted by name."""
    me = view.nodes.get(view.node_name)
    if me is None or version not in me.addresses:
        return Peers()
    builder = _Builder(view, version, me)
    builder.explicit()
    builder.mesh()
    sessions = sorted(builder.sessions.values(), key=lambda peer: peer.name)
    return Peers(tuple(sessions), builder.rejected)


class _Builder:
    """Gathers sessions by (address, port); the first writer wins, in the order global, node, reverse, mesh."""

    def __init__(self, view: View, version: int, me: NodeInfo) -> None:
        self.view = view
        self.version = version
        self.me = me
        self.own = me.addresses[version]
        self.asn = view.asn if me.asn is None else me.asn
        self.sessions: dict[tuple[str, int], PeerConfig] = {}
        self.rejected: dict[str, str] = {}
        self._by_address = {
            node.addresses[version]: node for node in view.nodes.values() if version in node.addresses
        }

    def add(self, peer: PeerConfig) -> None:
        if peer.address == self.own:
            return
        key = (peer.address, peer.port)
        if key not in self.sessions:
            suffix = f"_port_{peer.port}" if peer.kind != "mesh" and peer.port != DEFAULT_PORT else ""
            ip = peer.address.replace(".", "_").replace(":", "_")
            prefix = {"mesh": "Mesh", "global": "Global", "node": "Node"}[peer.kind]
            self.sessions[key] = evolve(peer, name=f"{prefix}_{ip}{suffix}")

    # --- mesh

    def mesh(self) -> None:
        """One session with every node of the family, unless this node or that one is a route reflector.

        An explicit peering with a node takes the mesh's place: one neighbour has one session.
        """
        if not self.view.mesh_enabled or self.me.cluster_id:
            return
        taken = {address for address, _ in self.sessions}
        for address, node in self._by_address.items():
            if node.cluster_id or address in taken:
                continue
            self.add(
                PeerConfig(
                    name="",
                    address=address,
                    asn=self.asn if node.asn is None else node.asn,
                    local_as=self.asn,
                    kind="mesh",
                    port=node.port or self.view.port,
                    source=self.own,
                    passive=address > self.own,
                    password=self.view.mesh_password,
                    restart_time=self.view.mesh_restart_time,
                )
            )

    # --- BGPPeer resources

    def explicit(self) -> None:
        ordered = sorted(self.view.peers.items())
        forward = [self._guard(name, peer, self._forward) for name, peer in ordered]
        for kind in ("global", "node"):
            for peer in (peer for found in forward for peer in found if peer.kind == kind):
                self.add(peer)
        for name, resource in ordered:
            for peer in self._guard(name, resource, self._reverse):
                self.add(peer)

    def _guard(
        self, name: str, resource: BGPPeer, make: Callable[[BGPPeer], Iterable[PeerConfig]]
    ) -> list[PeerConfig]:
        try:
            return list(make(resource))
        except (SelectorError, ValidationError, ValueError) as error:
            self.rejected[f"BGPPeer({name})"] = str(error)
            return []

    def _applies_here(self, spec: BGPPeerSpec, node: NodeInfo) -> bool:
        if spec.node:
            return bool(spec.node == node.name)
        return parse(spec.node_selector).matches(node.labels) if spec.node_selector else True

    def _forward(self, resource: BGPPeer) -> Iterable[PeerConfig]:
        """The sessions that a BGPPeer asks of this node."""
        spec = resource.spec
        if not self._applies_here(spec, self.me):
            return
        if spec.local_workload_selector:
            self.rejected[f"BGPPeer({resource.metadata.name})"] = "peering with local workloads is not available"
            return
        kind = "node" if spec.node or spec.node_selector else "global"
        if spec.peer_selector:
            selector = parse(spec.peer_selector)
            for address, node in self._by_address.items():
                if selector.matches(node.labels):
                    yield self._to_node(resource, address, node, kind)
            return
        yield from self._to_address(resource, kind)

    def _to_node(self, resource: BGPPeer, address: str, node: NodeInfo, kind: str) -> PeerConfig:
        asn = self.view.asn if node.asn is None else node.asn
        peer = PeerConfig(
            name="",
            address=address,
            asn=asn,
            local_as=self.asn,
            kind=kind,
            port=node.port or self.view.port,
        )
        return self._common(peer, resource, node.cluster_id)

    def _to_address(self, resource: BGPPeer, kind: str) -> Iterable[PeerConfig]:
        spec = resource.spec
        address, port = parse_peer_ip(spec.peer_ip or "")
        if (6 if ":" in address else 4) != self.version:
            return
        asn = parse_as(spec.as_number) or 0
        if not asn:
            raise ValidationError("asNumber is missing", field="spec.asNumber")
        node = self._by_address.get(address)
        if not port:
            port = DEFAULT_PORT
            if node is not None and (self.view.asn if node.asn is None else node.asn) == asn:
                port = node.port or self.view.port
        local_as = parse_as(spec.local_as_number) or self.asn
        peer = PeerConfig(
            name="",
            address=address,
            asn=asn,
            local_as=local_as,
            kind=kind,
            port=port,
            passive=kind == "global" and node is not None and address > self.own,
            allow_own_as=spec.num_allowed_local_as_numbers or 0,
            reachable_by=self._reachable_by(spec),
        )
        yield self._common(peer, resource, "")

    def _reachable_by(self, spec: BGPPeerSpec) -> str:
        gateway = spec.reachable_by or ""
        if gateway and ipaddress.ip_address(gateway).version != self.version:
            raise ValidationError("must be of the family of peerIP", field="spec.reachableBy", value=gateway)
        return str(gateway)

    def _common(self, peer: PeerConfig, resource: BGPPeer, peer_cluster: str) -> PeerConfig:
        """What all explicit peers share."""
        spec = resource.spec
        mode = (spec.next_hop_mode or "").lower()
        reflects = peer.ibgp and self.me.cluster_id and peer_cluster != self.me.cluster_id
        return evolve(
            peer,
            source=self.own if (spec.source_address or "UseNodeIP") == "UseNodeIP" else "",
            rr_client=bool(reflects),
            cluster_id=self.me.cluster_id,
            next_hop_self=mode == "self",
            next_hop_keep=mode == "keep" or (not mode and bool(spec.keep_original_next_hop) and not peer.ibgp),
            ttl=spec.ttl_security or 0,
            password=self._password(resource),
            restart_time=seconds(spec.max_restart_time, DEFAULT_RESTART_TIME),
            keepalive=seconds(spec.keepalive_time, 0),
            filters=tuple(spec.filters or ()),
        )

    def _password(self, resource: BGPPeer) -> str:
        """A password that cannot be read leaves the session without MD5, as in Calico, and is reported."""
        password = resource.spec.password
        reference = password.secret_key_ref if password is not None else None
        if reference is None:
            return ""
        found = self.view.secret(reference)
        if found is None:
            self.rejected[f"BGPPeer({resource.metadata.name})"] = (
                f"password: secret {reference.name!r} has no readable key {reference.key!r}; the session has no MD5"
            )
        return found or ""

    def _reverse(self, resource: BGPPeer) -> Iterable[PeerConfig]:
        """The other end of peerings between nodes: a node that is peered with peers back."""
        spec = resource.spec
        if spec.local_workload_selector or (spec.reverse_peering or "Auto") == "Manual":
            return
        if not self._is_target(spec):
            return
        for address, node in self._by_address.items():
            if node.name != self.me.name and self._applies_here(spec, node):
                yield self._to_node(resource, address, node, "node")

    def _is_target(self, spec: BGPPeerSpec) -> bool:
        """Whether the remote side of a BGPPeer is this node."""
        if spec.peer_selector:
            return parse(spec.peer_selector).matches(self.me.labels)
        if not spec.peer_ip:
            return False
        address, port = parse_peer_ip(spec.peer_ip)
        if address != self.own or (parse_as(spec.as_number) or 0) != self.asn:
            return False
        return not port or port == (self.me.port or self.view.port)


def parse_peer_ip(text: str) -> tuple[str, int]:
    """``IP``, ``v4:port`` or ``[v6]:port`` -> (canonical address, port or 0).  Raises ``ValidationError``."""
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        address = str(ipaddress.ip_address(host))
        number = int(port) if port else 0
    except ValueError:
        raise ValidationError("is not an IP address with an optional port", field="spec.peerIP", value=text) from None
    return address, number


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def seconds(value: str | None, default: int) -> int:
    """Whole seconds of a Go duration ("1m30s"); ``default`` when absent.  Raises ``ValidationError``."""
    if not value:
        return default
    total, number, position = 0.0, "", 0
    while position < len(value):
        if value[position].isdigit() or value[position] == ".":
            number += value[position]
            position += 1
            continue
        unit = value[position : position + 2] if value[position : position + 2] in _UNITS else value[position]
        if unit not in _UNITS or not number:
            raise ValidationError(f"{value!r} is not a duration", value=value)
        total += float(number) * _UNITS[unit]
        number, position = "", position + len(unit)
    if number:
        raise ValidationError(f"{value!r} is not a duration: a unit is missing", value=value)
    return round(total)
