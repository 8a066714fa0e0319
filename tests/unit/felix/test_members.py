"""Members of an IP set: what the kernel is told never overlaps and covers exactly what is in the set."""

from __future__ import annotations

import ipaddress
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.plugins.felix.calc.members import CountedMembers, NetMembers


@st.composite
def nets(draw: st.DrawFn) -> str:
    if draw(st.booleans()):
        return str(
            ipaddress.ip_network((0x0A000000 + draw(st.integers(0, 31)), draw(st.integers(26, 32))), strict=False)
        )
    address = (0xFD << 120) + draw(st.integers(0, 15))
    return str(ipaddress.ip_network((address, draw(st.sampled_from((0, 64, 124, 126, 128)))), strict=False))


def outermost(members: set[str]) -> set[str]:
    parsed = [ipaddress.ip_network(member) for member in members]
    return {
        str(net)
        for net in parsed
        if not any(o != net and o.version == net.version and net.subnet_of(o) for o in parsed)  # type: ignore[arg-type]
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(nets(), st.booleans()), max_size=60))
def test_only_the_broadest_shows(steps: list[tuple[str, bool]]) -> None:
    members = NetMembers()
    counts: Counter[str] = Counter()
    shown: set[str] = set()
    for net, add in steps:
        if not add and not counts[net]:
            continue
        counts[net] += 1 if add else -1
        change = members.add(net) if add else members.remove(net)
        assert not shown & set(change.added)
        assert set(change.removed) <= shown
        shown = (shown - set(change.removed)) | set(change.added)
        assert shown == outermost(set(+counts))


def test_two_endpoints_with_one_address_count_once() -> None:
    members = CountedMembers()
    assert members.add("10.0.0.1,tcp:80").added == ("10.0.0.1,tcp:80",)
    assert not members.add("10.0.0.1,tcp:80").added
    assert not members.remove("10.0.0.1,tcp:80").removed
    assert members.remove("10.0.0.1,tcp:80").removed == ("10.0.0.1,tcp:80",)
