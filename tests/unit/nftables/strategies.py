"""Random rules and packets over small universes, so that they meet often; and what a rule means, said naively."""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from calico_node.dataplanes.contract import DataplaneRule
from calico_node.model import Port
from tests.unit.nftables.machine import Packet

ADDRESSES = {
    4: ("10.0.0.1", "10.0.0.2", "10.0.1.1", "10.1.0.1", "192.168.0.1"),
    6: ("fd00::1", "fd00::2", "fd00:0:0:1::1", "fd01::1", "2001:db8::1"),
}
NETS = (
    *("10.0.0.1/32", "10.0.0.0/24", "10.0.0.0/16", "10.0.1.0/24", "10.0.0.0/8", "192.168.0.0/16", "0.0.0.0/0"),
    *("fd00::1/128", "fd00::/64", "fd00::/16", "fd00::/8", "::/0"),
)
NET_SETS = {
    "s:one": frozenset({"10.0.0.1/32", "10.1.0.0/16", "fd00::1/128"}),
    "s:two": frozenset({"10.0.0.0/24", "fd00::/64"}),
    "s:none": frozenset(),
}
PORT_SETS = {
    "n:web": frozenset({"10.0.0.1,tcp:80", "10.0.0.2,udp:53", "fd00::1,tcp:80", "10.0.1.1,sctp:81"}),
    "n:dns": frozenset({"10.0.0.1,udp:53", "fd00::2,tcp:443", "10.1.0.1,tcp:82"}),
    "n:none": frozenset(),
}
PORTS = (53, 80, 81, 82, 443)
NUMBERS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58, "sctp": 132}

_net_lists = st.lists(st.sampled_from(NETS), max_size=3).map(tuple)
_set_lists = st.lists(st.sampled_from(sorted(NET_SETS)), max_size=2, unique=True).map(tuple)
_port_set_lists = st.lists(st.sampled_from(sorted(PORT_SETS)), max_size=2, unique=True).map(tuple)


def _range(pair: tuple[int, int]) -> Port:
    return Port(min(pair), max(pair))


_ports = st.lists(
    st.one_of(
        st.sampled_from(PORTS).map(lambda p: Port(p, p)),
        st.tuples(st.sampled_from(PORTS), st.sampled_from(PORTS)).map(_range),
    ),
    max_size=3,
).map(tuple)


@st.composite
def rules(draw: st.DrawFn) -> DataplaneRule:
    """Rules as validation lets them through: ports with a protocol that has them, ICMP fields with ICMP."""
    fields: dict[str, object] = {"action": draw(st.sampled_from(("allow", "deny", "next-tier", "log")))}

    def maybe(name: str, strategy: st.SearchStrategy[object], chance: int = 3) -> None:
        if draw(st.integers(0, chance)) == 0:
            fields[name] = draw(strategy)

    maybe("ip_version", st.sampled_from((4, 6)), 5)
    kind = draw(st.sampled_from(("none", "ports", "ports", "icmp", "other")))
    if kind == "ports":
        fields["protocol"] = draw(st.sampled_from(("tcp", "udp", "sctp", 6)))
        for name in ("src_ports", "not_src_ports", "dst_ports", "not_dst_ports"):
            maybe(name, _ports, 2)
    elif kind == "icmp":
        fields["protocol"] = draw(st.sampled_from(("icmp", "icmpv6")))
        for prefix in ("", "not_"):
            if draw(st.booleans()):
                fields[prefix + "icmp_type"] = draw(st.sampled_from((0, 8, 128)))
                maybe(prefix + "icmp_code", st.sampled_from((0, 1)), 1)
    elif kind == "other":
        fields["protocol"] = draw(st.sampled_from((6, 17, 50)))
    maybe("not_protocol", st.sampled_from(("tcp", "udp", "icmp", 132)), 5)
    for side in ("src", "dst"):
        maybe(f"{side}_nets", _net_lists)
        maybe(f"not_{side}_nets", _net_lists)
        maybe(f"{side}_ip_set_ids", _set_lists)
        maybe(f"not_{side}_ip_set_ids", _set_lists)
        maybe(f"{side}_named_port_ip_set_ids", _port_set_lists)
        maybe(f"not_{side}_named_port_ip_set_ids", _port_set_lists)
    maybe("dst_ip_port_set_ids", _port_set_lists, 5)
    return DataplaneRule(**fields)  # type: ignore[arg-type]


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    version = draw(st.sampled_from((4, 6)))
    source, destination = draw(st.sampled_from(ADDRESSES[version])), draw(st.sampled_from(ADDRESSES[version]))
    protocol = draw(st.sampled_from((6, 6, 17, 132, 1 if version == 4 else 58, 50)))
    packet = Packet(source, destination, protocol)
    if protocol in (6, 17, 132):
        packet.source_port, packet.destination_port = draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))
    elif protocol in (1, 58):
        packet.icmp_type, packet.icmp_code = draw(st.sampled_from((0, 8, 128))), draw(st.sampled_from((0, 1)))
    return packet


def version_of(packet: Packet) -> int:
    return ipaddress.ip_address(packet.source).version


def matches(rule: DataplaneRule, packet: Packet) -> bool:
    """What the fields of a rule mean, one after the other."""
    version = version_of(packet)
    if rule.ip_version not in (None, version):
        return False
    if rule.protocol is not None and _number(rule.protocol) != packet.protocol:
        return False
    if rule.not_protocol is not None and _number(rule.not_protocol) == packet.protocol:
        return False
    if rule.icmp_type is not None and (
        rule.icmp_type != packet.icmp_type or rule.icmp_code not in (None, packet.icmp_code)
    ):
        return False
    if (
        rule.not_icmp_type is not None
        and rule.not_icmp_type == packet.icmp_type
        and rule.not_icmp_code in (None, packet.icmp_code)
    ):
        return False
    return _side(rule, packet, "src", packet.source, packet.source_port) and _side(
        rule, packet, "dst", packet.destination, packet.destination_port
    )


def _number(protocol: str | int) -> int:
    return protocol if isinstance(protocol, int) else NUMBERS[protocol]


def _side(rule: DataplaneRule, packet: Packet, side: str, address: str, port: int) -> bool:
    def get(name: str) -> tuple:  # type: ignore[type-arg]
        return getattr(rule, name)

    if get(f"{side}_nets") and not any(_in_net(address, net) for net in get(f"{side}_nets")):
        return False
    if any(_in_net(address, net) for net in get(f"not_{side}_nets")):
        return False
    if not all(_in_set(address, set_id) for set_id in get(f"{side}_ip_set_ids")):
        return False
    if any(_in_set(address, set_id) for set_id in get(f"not_{side}_ip_set_ids")):
        return False
    numeric, named = get(f"{side}_ports"), get(f"{side}_named_port_ip_set_ids")
    if (numeric or named) and not (
        _in_ports(port, numeric) or any(_in_port_set(packet, address, port, set_id) for set_id in named)
    ):
        return False
    if _in_ports(port, get(f"not_{side}_ports")):
        return False
    if any(_in_port_set(packet, address, port, set_id) for set_id in get(f"not_{side}_named_port_ip_set_ids")):
        return False
    return side == "src" or all(_in_port_set(packet, address, port, set_id) for set_id in rule.dst_ip_port_set_ids)


def _in_net(address: str, net: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(net)


def _in_set(address: str, set_id: str) -> bool:
    return any(_in_net(address, net) for net in NET_SETS[set_id])


def _in_ports(port: int, ports: tuple[Port, ...]) -> bool:
    return any(entry.low <= port <= entry.high for entry in ports)


def _in_port_set(packet: Packet, address: str, port: int, set_id: str) -> bool:
    name = {6: "tcp", 17: "udp", 132: "sctp"}.get(packet.protocol, "none")
    return f"{address},{name}:{port}" in PORT_SETS[set_id]
