"""Address texts: the quick ways say what ``ipaddress`` says."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from calico_node.addresses import canonical_cidr, is_ipv4
from calico_node.errors import ValidationError

ADDRESSES = st.ip_addresses().map(str)
NEARLY = st.from_regex(r"[0-9]{1,4}(\.[0-9]{1,4}){2,4}", fullmatch=True) | st.text(
    "0123456789.:/af \x00", max_size=20
)
TEXTS = st.one_of(
    ADDRESSES,
    NEARLY,
    st.builds("{}/{}".format, ADDRESSES | NEARLY, st.integers(0, 130) | st.sampled_from(("032", ""))),
)


@given(TEXTS)
def test_an_ipv4_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    try:
        expected = str(ipaddress.IPv4Address(text)) == text
    except ValueError:
        expected = False
    assert is_ipv4(text) is expected


@given(TEXTS)
def test_canonical_cidrs_are_those_of_ipaddress(text: str) -> None:
    try:
        expected = str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        expected = ""
    try:
        assert canonical_cidr(text) == expected
    except ValidationError:
        assert expected == ""
