"""A small nf_tables machine: runs rendered chains on a described packet, as the kernel would.

Marks, registers, lookups and verdicts follow the kernel's rules: a comparison that fails ends the rule, a chain that
ends returns to its caller, ``goto`` forgets where it came from.
"""

from __future__ import annotations

import ipaddress
import struct
import sys
from collections.abc import Mapping

from attrs import define, field

from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.layout import Chain


class _Break(Exception):
    """The rule does not match."""


class _Verdict(Exception):
    def __init__(self, code: int, chain: str = "") -> None:
        self.code = code
        self.chain = chain


@define
class Packet:
    source: str
    destination: str
    protocol: int
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0
    in_interface: str = ""
    out_interface: str = ""
    ct_state: int = e.CT_STATE_NEW
    reverse_path: bool = True
    mark: int = 0
    logged: list[str] = field(factory=list)

    @property
    def network_header(self) -> bytes:
        source = ipaddress.ip_address(self.source).packed
        destination = ipaddress.ip_address(self.destination).packed
        return bytes(12 if len(source) == 4 else 8) + source + destination

    @property
    def transport_header(self) -> bytes:
        if self.protocol in (1, 58):
            return bytes((self.icmp_type, self.icmp_code)) + bytes(6)
        return struct.pack(">HH", self.source_port, self.destination_port) + bytes(4)


class Machine:
    """``sets`` holds named sets as sets of keys: addresses as (first, last) joined, or concatenations."""

    def __init__(self, chains: Mapping[str, Chain], sets: Mapping[str, set[bytes]] | None = None) -> None:
        self.chains = chains
        self.sets = sets or {}
        self.maps: dict[str, dict[bytes, e.Verdict]] = {}

    def run(self, chain: str, packet: Packet) -> str:
        """``accept``, ``drop`` or ``return`` (no verdict)."""
        try:
            self._chain(chain, packet)
        except _Verdict as verdict:
            return "accept" if verdict.code == e.NF_ACCEPT else "drop"
        return "return"

    def _chain(self, name: str, packet: Packet) -> None:
        while True:
            again = self._rules(self.chains[name], packet)
            if again is None:
                return
            name = again

    def _rules(self, chain: Chain, packet: Packet) -> str | None:
        for rule in chain.rules:
            try:
                self._rule(rule.expressions, packet)
            except _Break:
                continue
            except _Verdict as verdict:
                if verdict.code == e.NFT_JUMP:
                    self._chain(verdict.chain, packet)
                elif verdict.code == e.NFT_GOTO:
                    return verdict.chain
                elif verdict.code == e.NFT_RETURN:
                    return None
                else:
                    raise
        return None

    def _rule(self, expressions: tuple[e.Expression, ...], packet: Packet) -> None:
        registers = bytearray(64)
        for expression in expressions:
            self._step(expression, registers, packet)

    def _step(self, x: e.Expression, registers: bytearray, packet: Packet) -> None:
        match x:
            case e.Payload():
                header = packet.network_header if x.base == e.NETWORK_HEADER else packet.transport_header
                _store(registers, x.dreg, header[x.offset : x.offset + x.length])
            case e.Meta():
                _store(registers, x.dreg, _meta(x.key, packet))
            case e.MetaSet():
                packet.mark = int.from_bytes(_load(registers, x.sreg, 4), sys.byteorder)
            case e.Ct():
                _store(registers, x.dreg, packet.ct_state.to_bytes(4, sys.byteorder))
            case e.Fib():
                _store(registers, x.dreg, (7 if packet.reverse_path else 0).to_bytes(4, sys.byteorder))
            case e.Cmp():
                if (_load(registers, x.sreg, len(x.data)) == x.data) != (x.op == e.EQ):
                    raise _Break
            case e.Range():
                inside = x.low <= _load(registers, x.sreg, len(x.low)) <= x.high
                if inside != (x.op == e.EQ):
                    raise _Break
            case e.Bitwise():
                value = _load(registers, x.sreg, x.length)
                result = bytes(v & mask ^ xor for v, mask, xor in zip(value, x.mask, x.xor, strict=True))
                _store(registers, x.dreg, result)
            case e.Lookup():
                self._lookup(x, registers)
            case e.Immediate():
                _store(registers, x.dreg, x.data)
            case e.Verdict():
                raise _Verdict(x.code, x.chain)
            case e.Reject():
                raise _Verdict(e.NF_DROP)
            case e.Log():
                packet.logged.append(x.prefix)
            case e.Counter() | e.Limit():
                pass
            case _:
                raise AssertionError(f"the machine does not know {x}")

    def _lookup(self, x: e.Lookup, registers: bytearray) -> None:
        if x.verdict_map:
            assert isinstance(x.set, str)
            verdict = self.maps.get(x.set, {}).get(_load(registers, x.sreg, 16))
            if verdict is None:
                raise _Break
            raise _Verdict(verdict.code, verdict.chain)
        if isinstance(x.set, e.AnonymousSet):
            keys, length, interval = set(x.set.elements), x.set.key_length, x.set.interval
        else:
            keys = self.sets[x.set]
            first = next(iter(keys), b"")
            interval = len(first) in (8, 32)
            length = len(first) // 2 if interval else len(first)
        value = _load(registers, x.sreg, length)
        found = any(key[:length] <= value <= key[length:] for key in keys) if interval else value in keys
        if found == x.inverted:
            raise _Break


def _offset(register: int) -> int:
    return register * 16 - 16 if register < 8 else (register - 8) * 4


def _store(registers: bytearray, register: int, value: bytes) -> None:
    start = _offset(register)
    padded = value.ljust(-(-len(value) // 4) * 4, b"\0")
    registers[start : start + len(padded)] = padded


def _load(registers: bytearray, register: int, length: int) -> bytes:
    start = _offset(register)
    return bytes(registers[start : start + length])


def _meta(key: int, packet: Packet) -> bytes:
    if key == e.META_MARK:
        return packet.mark.to_bytes(4, sys.byteorder)
    if key == e.META_L4PROTO:
        return bytes((packet.protocol,))
    name = packet.in_interface if key == e.META_IIFNAME else packet.out_interface
    return name.encode().ljust(16, b"\0")
