"""What is sent to the kernel comes back from it, and reads as it should in nft's own words."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import DataplaneRule, IPSetType
from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import IPV4, IPV6, Rule, set_name
from calico_node.dataplanes.nftables.members import SetShape, set_shape
from calico_node.dataplanes.nftables.rules import RuleOrigin, render_rule
from calico_node.linux.netlink import NETLINK_NETFILTER, NetlinkSocket
from calico_node.model import Port
from tests.kernel.nftables.world import Place, run
from tests.unit.nftables.strategies import NET_SETS, PORT_SETS, rules

CONFIG = RenderConfig()
FAMILIES = {4: IPV4, 6: IPV6}


class Kernel:
    """A table ``codec`` in a namespace of its own, with the sets that random rules look up."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.socket = NetlinkSocket(NETLINK_NETFILTER, netns=place.path)
        for family in FAMILIES.values():
            messages = [codec.new_table(family.number, "codec"), codec.new_chain(family.number, "codec", "target")]
            ids = itertools.count(1)
            for kind, sets in ((IPSetType.NET, NET_SETS), (IPSetType.IP_AND_PORT, PORT_SETS)):
                for set_id in sets:
                    shape = set_shape(family, kind)
                    name = set_name(family, set_id)
                    messages.append(
                        codec.new_set(
                            family.number,
                            "codec",
                            name,
                            shape.key_type,
                            shape.key_length,
                            interval=shape.interval,
                            set_id=next(ids),
                        )
                    )
            self.commit(messages)

    def commit(self, messages: list[bytes]) -> None:
        errors = [error for error in self.socket.request_now(codec.batch(messages), atomic=True) if error]
        assert not errors, errors

    def exchange(self, family, rules: list[Rule]) -> list[codec.KernelRule]:
        """The rules, put into a chain and read back."""
        ids = itertools.count(1)
        number = family.number
        messages = [codec.new_chain(number, "codec", "c")]
        for rule in rules:
            messages += codec.new_rule(number, "codec", "c", rule.expressions, rule.text, lambda: next(ids))
        self.commit(messages)
        dump = self.socket.dump_now(codec.get_rules(number, "codec"))
        return [rule for _, rule in (codec.parse_rule(payload, full=True) for payload in dump) if rule.chain == "c"]

    def clear(self, family) -> None:
        self.commit([codec.delete_chain(family.number, "codec", "c")])

    def elements(self, family, name: str) -> set[bytes]:
        sets = self.socket.dump_now(codec.get_sets(family.number, "codec"))
        (found,) = [s for _, s in map(codec.parse_set, sets) if s.name == name]
        assert found.anonymous
        dump = self.socket.dump_now(codec.get_elements(family.number, "codec", name))
        members = [member for payload in dump for member in codec.parse_members(payload)]
        interval = bool(found.flags & codec.SET_INTERVAL)
        return SetShape(found.key_type, found.key_length, interval).keys_of_dump(members)


@pytest.fixture(scope="module")
def kernel():
    place = Place(f"nft-{os.getpid()}-codec", "")
    made = Kernel(place)
    yield made
    made.socket.close()
    place.close()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rules(), min_size=1, max_size=3))
def test_random_rules_come_back_from_the_kernel_as_they_were_sent(kernel, policy):
    for family in FAMILIES.values():
        sent = [rule for item in policy for rule in render_rule(family, CONFIG, item, RuleOrigin())]
        got = kernel.exchange(family, sent)
        try:
            assert len(got) == len(sent)
            for rule, back in zip(sent, got, strict=True):
                assert back.comment == rule.text
                assert len(back.expressions) == len(rule.expressions)
                for one, other in zip(rule.expressions, back.expressions, strict=True):
                    if isinstance(one, e.Lookup) and isinstance(one.set, e.AnonymousSet):
                        assert isinstance(other, e.Lookup)
                        assert other == e.Lookup(other.set, one.inverted, one.sreg)
                        assert kernel.elements(family, other.set) == set(one.set.elements)
                    else:
                        assert one == other
        finally:
            kernel.clear(family)


WORDS = [
    (DataplaneRule("allow"), "counter packets 0 bytes 0 meta mark set meta mark | 0x00010000 return"),
    (DataplaneRule("deny"), "counter packets 0 bytes 0 drop"),
    (DataplaneRule("next-tier"), "counter packets 0 bytes 0 meta mark set meta mark | 0x00020000 return"),
    (DataplaneRule("log"), 'counter packets 0 bytes 0 log prefix "calico-packet: " group 51729 snaplen 80'),
    (DataplaneRule("deny", protocol="tcp"), "meta l4proto tcp counter"),
    (DataplaneRule("deny", not_protocol=50), "meta l4proto != esp"),
    (DataplaneRule("deny", protocol="tcp", dst_ports=(Port(80, 80),)), "tcp dport 80 counter"),
    (DataplaneRule("deny", protocol="udp", not_src_ports=(Port(1, 10),)), "udp sport != 1-10 counter"),
    (
        DataplaneRule("deny", protocol="tcp", dst_ports=(Port(80, 80), Port(8000, 8080))),
        "tcp dport { 80, 8000-8080 } counter",
    ),
    (DataplaneRule("deny", src_nets=("10.0.0.0/8",)), "ip saddr 10.0.0.0/8 counter"),
    (DataplaneRule("deny", dst_nets=("10.0.0.1/32",)), "ip daddr 10.0.0.1 counter"),
    (
        DataplaneRule("deny", not_dst_nets=("10.0.0.0/9", "192.168.0.0/16")),
        "ip daddr != { 10.0.0.0/9, 192.168.0.0/16 } counter",
    ),
    (
        DataplaneRule("deny", src_ip_set_ids=("s:one", "s:two"), not_dst_ip_set_ids=("s:one",)),
        "ip saddr @cali40s-one ip saddr @cali40s-two ip daddr != @cali40s-one counter",
    ),
    (
        DataplaneRule("deny", protocol="tcp", dst_named_port_ip_set_ids=("n:web",)),
        "ip daddr . meta l4proto . tcp dport @cali40n-web counter",
    ),
    (
        DataplaneRule("deny", protocol="icmp", icmp_type=8, icmp_code=0),
        "icmp type echo-request icmp code net-unreachable counter",
    ),
    (DataplaneRule("deny", protocol="icmp", not_icmp_type=8), "icmp type != echo-request counter"),
]


@pytest.mark.parametrize(("rule", "words"), WORDS)
def test_rules_in_nfts_words(kernel, rule, words):
    kernel.exchange(IPV4, render_rule(IPV4, CONFIG, rule, RuleOrigin()))
    try:
        listed = run(f"ip netns exec {kernel.place.name} nft list chain ip codec c")
        # Newer versions print the code of an echo request as a number.
        assert words in listed.replace("icmp code 0 ", "icmp code net-unreachable ")
    finally:
        kernel.clear(IPV4)
