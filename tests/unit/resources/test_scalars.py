"""Durations, ports, protocols, AS numbers and DSCP values."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.resources.fields import Codec, Fault
from calico_node.resources.scalars import (
    AS_NUMBER,
    DSCP_NAMES,
    DURATION,
    PORT,
    PROTOCOL,
    check_port_name,
    duration_nanoseconds,
    duration_seconds,
    format_duration,
    port_range,
)


@pytest.mark.parametrize(
    ("text", "seconds", "canonical"),
    [
        ("0", 0, "0s"),
        ("90s", 90, "1m30s"),
        ("1m30s", 90, "1m30s"),
        ("1500ms", 1.5, "1.5s"),
        ("1.5s", 1.5, "1.5s"),
        (".5s", 0.5, "500ms"),
        ("2h", 7200, "2h0m0s"),
        ("24h0m0s", 86400, "24h0m0s"),
        ("-5s", -5, "-5s"),
        ("100us", 0.0001, "100µs"),
        ("1h1ns", 3600.000000001, "1h0m0.000000001s"),
    ],
)
def test_durations(text: str, seconds: float, canonical: str) -> None:
    assert duration_seconds(text) == pytest.approx(seconds)
    assert DURATION.read(text) == canonical


@given(st.integers(-(2**62), 2**62))
def test_a_duration_reads_back(nanoseconds: int) -> None:
    assert duration_nanoseconds(format_duration(nanoseconds)) == nanoseconds


@pytest.mark.parametrize(
    ("codec", "raw", "expected"),
    [
        (PORT, 80, 80),
        (PORT, "80", 80),
        (PORT, "8000:8010", "8000:8010"),
        (PORT, "80:80", 80),
        (PORT, "http", "http"),
        (PROTOCOL, "TCP", "TCP"),
        (PROTOCOL, "17", 17),
        (AS_NUMBER, 4294967295, 4294967295),
        (AS_NUMBER, "65000", 65000),
        (AS_NUMBER, "1.10", 65546),
    ],
)
def test_read(codec: Codec, raw: Any, expected: Any) -> None:
    assert codec.read(raw) == expected


REFUSED: list[tuple[Codec, list[Any]]] = [
    (DURATION, ["", "5", "s", ".s", "1x", "1s ", 5, "9" * 30 + "h", "1s-1s"]),
    (PORT, [-1, 65536, "65536", "2:1", "a:b", ":", "1:", "", "a b", True, 1.5, "9" * 5000]),
    (PROTOCOL, [None, 1.5, True, []]),
    (AS_NUMBER, [-1, 2**32, "1.65536", "1.2.3", "", "x", "1.", None, True, "9" * 5000]),
]


@pytest.mark.parametrize(("codec", "raw"), [(codec, raw) for codec, values in REFUSED for raw in values])
def test_refused(codec: Codec, raw: Any) -> None:
    with pytest.raises(Fault):
        codec.read(raw)


@given(st.text(max_size=20), st.sampled_from([DURATION, PORT, PROTOCOL, AS_NUMBER]))
def test_any_text_is_read_to_a_fixpoint_or_refused(text: str, codec: Codec) -> None:
    try:
        value = codec.read(text)
    except Fault:
        return
    assert codec.read(value) == value


def test_ranges_names_and_dscp() -> None:
    assert port_range(80) == (80, 80)
    assert port_range("1:9") == (1, 9)
    assert port_range("http") is None
    assert [check_port_name(name) is None for name in ("http", "a-1", "1", "a--b", "-a", "A")] == [True, True] + [
        False
    ] * 4
    assert (DSCP_NAMES["AF11"], DSCP_NAMES["AF43"], DSCP_NAMES["EF"], DSCP_NAMES["CS6"]) == (10, 38, 46, 48)
