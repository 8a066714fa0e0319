"""From the datastore's view to what each speaker is told: a pure function."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from attrs import define, evolve, field, frozen

from calico_node.errors import ValidationError
from calico_node.model import BlockAffinity, BlockAffinityKey, IPPool, IPPoolKey, Key, ResourceKey
from calico_node.plugins.bgp.peers import DEFAULT_AS, DEFAULT_PORT, NodeInfo, Peers, View, compute, node_info, seconds
from calico_node.plugins.bgp.policy import (
    MAX_PRIORITY,
    NORMAL_PRIORITY,
    Communities,
    Filter,
    FilterRule,
    Operation,
    PolicyConfig,
    Pool,
)
from calico_node.plugins.bgp.prefix import BITS, Prefix, address_to_number, parse_prefix
from calico_node.plugins.bgp.speaker import SpeakerConfig
from calico_node.resources import BGPConfiguration, BGPFilter, BGPPeer, Node
from calico_node.resources.bgp import BGPConfigurationSpec, SecretKeyRef
from calico_node.resources.bgp import FilterRule as FilterRuleResource

EXCLUDE_LABEL = "node.kubernetes.io/exclude-from-external-load-balancers"


@frozen
class Configuration:
    """One address family's share: ``listen`` is the address to listen on ("" for any), ``port`` ours."""

    speaker: SpeakerConfig
    listen: str
    port: int
    enabled: bool
    rejected: Mapping[str, str]
    router_id_known: bool = True


@define
class Datastore:
    """The present values of everything the BGP syncer delivers."""

    pools: dict[str, IPPool] = field(factory=dict)
    affinities: dict[str, BlockAffinity] = field(factory=dict)
    nodes: dict[str, NodeInfo] = field(factory=dict)
    peers: dict[str, BGPPeer] = field(factory=dict)
    filters: dict[str, BGPFilter] = field(factory=dict)
    configurations: dict[str, BGPConfiguration] = field(factory=dict)
    unusable_filters: set[str] = field(factory=set)
    """Names of BGPFilters that are stored but cannot be read: peers that name one get nothing through it."""

    def apply(self, key: Key, value: object | None, node_name: str) -> bool:
        """Take one update; True when it can matter to this node's BGP."""
        if isinstance(key, IPPoolKey):
            return _put(self.pools, key.cidr, value)
        if isinstance(key, BlockAffinityKey):
            own = key.host == node_name and key.affinity_type == "host"
            return own and _put(self.affinities, key.cidr, value)
        if isinstance(key, ResourceKey):
            kinds: dict[str, dict[str, object]] = {
                "Node": self.nodes,  # type: ignore[dict-item]
                "BGPPeer": self.peers,  # type: ignore[dict-item]
                "BGPFilter": self.filters,  # type: ignore[dict-item]
                "BGPConfiguration": self.configurations,  # type: ignore[dict-item]
            }
            if key.kind in kinds:
                return _put(kinds[key.kind], key.name, node_info(value) if isinstance(value, Node) else value)
        return False


def _put(table: dict[str, object] | dict[str, IPPool] | dict[str, BlockAffinity], name: str, value: object) -> bool:
    if table.get(name) == value:
        return False
    if value is None:
        return table.pop(name, None) is not None
    table[name] = value  # type: ignore[assignment]
    return True


def build(
    data: Datastore,
    node_name: str,
    version: int,
    environ: Mapping[str, str],
    secret: Callable[[SecretKeyRef], str | None],
) -> Configuration:
    """The configuration of one family.  Objects that cannot be used are left out and named in ``rejected``."""
    rejected: dict[str, str] = {}
    default = _spec(data, "default")
    nodes = _nodes(data)
    me = nodes.get(node_name)
    mesh_password = ""
    if default.node_mesh_password is not None and default.node_mesh_password.secret_key_ref is not None:
        reference = default.node_mesh_password.secret_key_ref
        found = secret(reference)
        if found is None:
            rejected["BGPConfiguration(default)"] = (
                f"nodeMeshPassword: secret {reference.name!r} has no readable key {reference.key!r}; "
                "the mesh has no MD5"
            )
        mesh_password = found or ""
    view = View(
        node_name=node_name,
        nodes=nodes,
        peers=data.peers,
        mesh_enabled=default.node_to_node_mesh_enabled is not False,
        asn=default.as_number or DEFAULT_AS,
        port=default.listen_port or DEFAULT_PORT,
        mesh_password=mesh_password,
        mesh_restart_time=seconds(default.node_mesh_max_restart_time, 120),
        secret=secret,
    )
    router_id = _router_id(me, node_name, environ)
    peers = compute(view, version) if router_id else Peers()
    rejected.update(peers.rejected)
    policy, blackholes = _policy(data, me, nodes, version, default, rejected)
    port = (me.port if me is not None else None) or view.port
    address = me.addresses.get(version, "") if me is not None else ""
    own = _spec(data, f"node.{node_name}")
    return Configuration(
        speaker=SpeakerConfig(
            router_id=router_id or 1,
            peers=peers.sessions,
            policy=policy,
            filters=_filters(data, version, rejected),
            blackholes=blackholes,
            ignored_interfaces=tuple(default.ignored_interfaces),
        ),
        listen=address if (own.bind_mode or default.bind_mode) == "NodeIP" else "",
        port=port,
        enabled=bool(address) and bool(router_id),
        rejected=rejected,
        router_id_known=bool(router_id),
    )


def _spec(data: Datastore, name: str) -> BGPConfigurationSpec:
    found = data.configurations.get(name)
    return found.spec if found is not None else BGPConfigurationSpec()


def _nodes(data: Datastore) -> dict[str, NodeInfo]:
    """The nodes, with the ports that BGPConfigurations of their own give them."""
    ports = {name.removeprefix("node."): c.spec.listen_port for name, c in data.configurations.items()}
    return {name: evolve(node, port=ports[name]) if ports.get(name) else node for name, node in data.nodes.items()}


def _router_id(me: NodeInfo | None, node_name: str, environ: Mapping[str, str]) -> int:
    """CALICO_ROUTER_ID: ``hash`` of the node name, or an address verbatim; unset, the node's IPv4 address."""
    text = environ.get("CALICO_ROUTER_ID", "")
    if text == "hash":
        return hash_router_id(node_name)
    if not text and me is not None:
        text = me.addresses.get(4, "")
    try:
        return address_to_number(text) if text and ":" not in text else 0
    except ValidationError:
        return 0


def hash_router_id(node_name: str) -> int:
    """The first four bytes of the name's SHA-256, the first of them below 224."""
    digest = hashlib.sha256(node_name.encode()).digest()[:4]
    first = digest[0] - 32 if digest[0] > 223 else digest[0]
    return int.from_bytes(bytes((first, *digest[1:])), "big")


def _policy(
    data: Datastore,
    me: NodeInfo | None,
    nodes: Mapping[str, NodeInfo],
    version: int,
    default: BGPConfigurationSpec,
    rejected: dict[str, str],
) -> tuple[PolicyConfig, frozenset[Prefix]]:
    """The policy's inputs, and the prefixes this node originates."""
    blocks = _blocks(data, version)
    services, refused, load_balancer = _services(me, default, version)
    priority = default.ipv4_normal_route_priority if version == 4 else default.ipv6_normal_route_priority
    ownership = default.program_cluster_routes
    my_wireguard = me is not None and me.wireguard.get(version, False)
    policy = PolicyConfig(
        version=version,
        normal_priority=priority or NORMAL_PRIORITY,
        pools=tuple(_pools(data, version)),
        blocks=tuple(sorted((prefix, state) for prefix, state in blocks.items() if state != "pending")),
        statics=services,
        load_balancer=load_balancer,
        rejected=refused,
        subnet=me.subnets.get(version) if me is not None else None,
        cluster_id=me.cluster_id if me is not None else "",
        owns_ipip=ownership in ("Enabled", "EnabledIPIPOnly"),
        owns_no_encap=ownership not in ("Disabled", "EnabledIPIPOnly"),
        wireguard_hops=frozenset(
            node.addresses[version]
            for node in nodes.values()
            if my_wireguard and node is not me and node.wireguard.get(version) and version in node.addresses
        ),
        communities=tuple(_communities(data, me, version, rejected)),
    )
    own = {prefix for prefix, state in blocks.items() if state != "pending" and prefix.length < BITS[version]}
    return policy, frozenset(own | set(services))


def _blocks(data: Datastore, version: int) -> dict[Prefix, str]:
    found = ((parse_prefix(cidr), affinity.state) for cidr, affinity in data.affinities.items())
    return {prefix: state for prefix, state in found if prefix.version == version}


def _pools(data: Datastore, version: int) -> Iterable[Pool]:
    for cidr, pool in sorted(data.pools.items()):
        prefix = parse_prefix(cidr)
        if prefix.version == version:
            yield Pool(prefix, pool.ipip_mode, pool.vxlan_mode, pool.disable_bgp_export)


def _services(
    me: NodeInfo | None, default: BGPConfigurationSpec, version: int
) -> tuple[tuple[Prefix, ...], tuple[Prefix, ...], tuple[Prefix, ...]]:
    """Service ranges: (announced by this node, never programmed, passed on by a reflector)."""

    def prefixes(blocks: Iterable[object]) -> list[Prefix]:
        found = (parse_prefix(str(getattr(block, "cidr", ""))) for block in blocks)
        return [prefix for prefix in found if prefix.version == version]

    external = prefixes(default.service_external_ips)
    load_balancer = prefixes(default.service_load_balancer_ips)
    ranges = prefixes(default.service_cluster_ips) + [prefix for prefix in external if not prefix.is_host]
    if default.service_load_balancer_aggregation != "Disabled":
        ranges += [prefix for prefix in load_balancer if not prefix.is_host]
    excluded = me is not None and me.labels.get(EXCLUDE_LABEL) == "true"
    refused = tuple(sorted(set(ranges)))
    return (() if excluded else refused), refused, tuple(sorted({*external, *load_balancer}))


def parse_community(text: str) -> tuple[int | None, tuple[int, int, int] | None]:
    """``a:b`` is a standard community, ``a:b:c`` a large one.  Raises ``ValidationError``."""
    try:
        parts = [int(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) == 2 and all(0 <= part < 1 << 16 for part in parts):
        return (parts[0] << 16) | parts[1], None
    if len(parts) == 3 and all(0 <= part < 1 << 32 for part in parts):
        return None, (parts[0], parts[1], parts[2])
    raise ValidationError(f"{text!r} is not a community (aa:nn or aa:nn:mm)", value=text)


def _communities(
    data: Datastore, me: NodeInfo | None, version: int, rejected: dict[str, str]
) -> Iterable[Communities]:
    """``prefixAdvertisements`` of this node's own BGPConfiguration where it has any, else of the default one."""
    own = _spec(data, f"node.{me.name}") if me is not None else BGPConfigurationSpec()
    name = f"node.{me.name}" if me is not None and own.prefix_advertisements else "default"
    spec = own if own.prefix_advertisements else _spec(data, "default")
    names = {community.name: community.value for community in spec.communities}
    for advertisement in spec.prefix_advertisements:
        prefix = parse_prefix(advertisement.cidr)
        if prefix.version != version:
            continue
        standard: set[int] = set()
        large: set[tuple[int, int, int]] = set()
        for text in advertisement.communities:
            try:
                one, many = parse_community(names.get(text, text))
            except ValidationError as error:
                rejected[f"BGPConfiguration({name})"] = f"prefixAdvertisements: {error}"
                continue
            if one is not None:
                standard.add(one)
            if many is not None:
                large.add(many)
        yield Communities(prefix, tuple(sorted(standard)), tuple(sorted(large)))


def _filters(data: Datastore, version: int, rejected: dict[str, str]) -> dict[str, Filter]:
    filters = {}
    for name, resource in data.filters.items():
        spec = resource.spec
        imports, exports = (spec.import_v4, spec.export_v4) if version == 4 else (spec.import_v6, spec.export_v6)
        try:
            filters[name] = Filter(
                name,
                tuple(filter_rule(rule, version) for rule in imports),
                tuple(filter_rule(rule, version) for rule in exports),
            )
        except (ValidationError, ValueError) as error:
            rejected[f"BGPFilter({name})"] = str(error)
            filters[name] = _closed(name)
    for name in data.unusable_filters - filters.keys():
        filters[name] = _closed(name)
    return filters


def _closed(name: str) -> Filter:
    reject = (FilterRule(accept=False),)
    return Filter(name, reject, reject)


def filter_rule(rule: FilterRuleResource, version: int) -> FilterRule:
    """One BGPFilter rule made ready to match.  Raises ``ValidationError``."""
    prefix = parse_prefix(rule.cidr) if rule.cidr else None
    lengths = None
    if prefix is not None and rule.prefix_length is not None:
        low, high = rule.prefix_length.min, rule.prefix_length.max
        lengths = (max(prefix.length, low or 0), min(BITS[version], BITS[version] if high is None else high))
    standard, large = None, None
    if rule.communities is not None and rule.communities.values:
        standard, large = parse_community(rule.communities.values[0])
    operations = []
    for operation in rule.operations:
        if operation.add_community is not None:
            one, many = parse_community(operation.add_community.value)
            operations.append(Operation(standard=one, large=many))
        elif operation.prepend_as_path is not None:
            operations.append(Operation(prepend=tuple(operation.prepend_as_path.prefix)))
        elif operation.set_priority is not None:
            operations.append(Operation(priority=min(operation.set_priority.value, MAX_PRIORITY - 1)))
    return FilterRule(
        accept=rule.action == "Accept",
        prefix=prefix,
        operator=rule.match_operator or "Equal",
        lengths=lengths,
        remote_only=rule.source == "RemotePeers",
        interface=rule.interface or "",
        ibgp={"iBGP": True, "eBGP": False}.get(rule.peer_type or ""),
        standard=standard,
        large=large,
        as_path_prefix=tuple(rule.as_path_prefix),
        priority=rule.priority,
        operations=tuple(operations),
    )
