"""The packets of the prober, and what it says of failures."""

import errno
import struct

from hypothesis import given
from hypothesis import strategies as st

from calico_node.lab.paths import LabPaths, lab_paths
from calico_node.lab.prober import checksum, icmp_packet, reason


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 65535), st.binary(min_size=16, max_size=16))
def test_an_icmp_message_has_a_right_checksum(kind: int, code: int, identifier: int, token: bytes) -> None:
    packet = icmp_packet(kind, code, identifier, token)
    assert checksum(packet) == 0
    assert struct.unpack_from("!BB", packet) == (kind, code)
    assert packet.endswith(token)


def test_the_checksum_of_the_rfc() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


def test_failures_are_told_in_words() -> None:
    assert reason(OSError(errno.ECONNREFUSED, "x")) == "connection refused"
    assert reason(OSError(errno.EIO, "Input/output error")) == "Input/output error"


def test_paths_of_pods_have_no_slash_in_their_last_part() -> None:
    paths: LabPaths = lab_paths("x")
    assert paths.netns("pod", "ns/name").name == "pod-ns_name"
