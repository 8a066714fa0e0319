"""Packets of Log rules, from the kernel's NFLOG group into the process's log.

The kernel's own packet log is silent outside the first network namespace, NFLOG is not.  ``linux/netfilter/
nfnetlink_log.h``.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import socket
import struct
import time
from collections.abc import Callable

import structlog
from attrs import frozen

from calico_node.errors import NetlinkError
from calico_node.linux.netlink import (
    HEADER_LENGTH,
    NETLINK_NETFILTER,
    NLM_F_ACK,
    RECEIVE_SIZE,
    Subscription,
    attr,
    message,
    message_type,
    parse_attrs,
    parse_error,
    split_messages,
)

log = structlog.get_logger("policy")

_SUBSYSTEM = 4 << 8
_PACKET = _SUBSYSTEM | 0
_CONFIG = _SUBSYSTEM | 1
_CONFIG_COMMAND, _CONFIG_MODE, _CONFIG_TIMEOUT = 1, 2, 4
_COMMAND_BIND = 1
_COPY_PACKET = 2
_COPY_BYTES = 80
_FLUSH_AFTER = 5
"""Hundredths of a second the kernel may gather packets before it sends them."""
_ATTR_IN, _ATTR_OUT, _ATTR_PAYLOAD, _ATTR_PREFIX = 4, 5, 9, 10
_SIOCGIFNAME = 0x8910
_PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_WITH_PORTS = frozenset({6, 17, 132, 136})

LINES_PER_SECOND = 100
"""Log lines written in one second; what is more is counted, not shown: a workload must not fill the disk."""


@frozen
class LoggedPacket:
    """What a Log rule saw.  ``source_port``/``destination_port`` are an ICMP message's type and code."""

    prefix: str
    in_index: int = 0
    out_index: int = 0
    source: str = ""
    destination: str = ""
    protocol: str = ""
    source_port: int | None = None
    destination_port: int | None = None
    length: int = 0


def parse_packet(msg: bytes) -> LoggedPacket | None:
    """Of one netlink message (with its header); None when it is not a logged packet.

    A packet cut short or odd yields the fields that could be read.  Raises ``NetlinkError`` for a malformed message.
    """
    if message_type(msg) != _PACKET:
        return None
    fields = parse_attrs(msg, HEADER_LENGTH + 4)
    prefix = fields.get(_ATTR_PREFIX, b"").rstrip(b"\0").decode(errors="replace")
    in_index = int.from_bytes(fields.get(_ATTR_IN, b""))
    out_index = int.from_bytes(fields.get(_ATTR_OUT, b""))
    payload = fields.get(_ATTR_PAYLOAD, b"")
    return _with_headers(prefix, in_index, out_index, payload)


def _with_headers(prefix: str, in_index: int, out_index: int, payload: bytes) -> LoggedPacket:
    version = payload[0] >> 4 if payload else 0
    if version == 4 and len(payload) >= 20:
        length = int.from_bytes(payload[2:4])
        number, source, destination = payload[9], payload[12:16], payload[16:20]
        rest = payload[(payload[0] & 15) * 4 :]
    elif version == 6 and len(payload) >= 40:
        length = 40 + int.from_bytes(payload[4:6])
        number, source, destination = payload[6], payload[8:24], payload[24:40]
        rest = payload[40:]
    else:
        return LoggedPacket(prefix, in_index, out_index)
    ports: tuple[int | None, int | None] = (None, None)
    if number in _WITH_PORTS and len(rest) >= 4:
        ports = struct.unpack_from(">HH", rest)
    elif number in (1, 58) and len(rest) >= 2:
        ports = rest[0], rest[1]
    return LoggedPacket(
        prefix,
        in_index,
        out_index,
        str(ipaddress.ip_address(source)),
        str(ipaddress.ip_address(destination)),
        _PROTOCOL_NAMES.get(number, str(number)),
        *ports,
        length,
    )


class PacketLog(Subscription):
    """The reader of one NFLOG group.  Raises ``NetlinkError`` when the group is taken by another process."""

    def __init__(self, group: int, *, netns: int | str | None = None) -> None:
        super().__init__(NETLINK_NETFILTER, (), netns=netns)
        try:
            self._configure(group, attr(_CONFIG_COMMAND, bytes((_COMMAND_BIND,))))
            mode = struct.pack(">IBB", _COPY_BYTES, _COPY_PACKET, 0)
            self._configure(group, attr(_CONFIG_MODE, mode), attr(_CONFIG_TIMEOUT, struct.pack(">I", _FLUSH_AFTER)))
        except BaseException:
            self.close()
            raise

    def _configure(self, group: int, *attributes: bytes) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + b"".join(attributes)
        self._sock.send(message(_CONFIG, NLM_F_ACK, body))
        while True:
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                return
            for answer in split_messages(data):
                error = parse_error(answer, f"NFLOG group {group}") if message_type(answer) == 2 else None
                if error is not None:
                    raise error

    async def run(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Write a log line per packet until cancelled."""
        second, lines, suppressed = 0, 0, 0
        while True:
            messages, lost = await self.receive()
            if lost:
                log.warning("packets of Log rules were lost: they came faster than they could be read")
            if int(clock()) != second:
                if suppressed:
                    log.warning("packets of Log rules were not shown", packets=suppressed, limit=LINES_PER_SECOND)
                second, lines, suppressed = int(clock()), 0, 0
            for msg in messages:
                if lines >= LINES_PER_SECOND:
                    suppressed += 1
                    continue
                packet = self._parse(msg)
                if packet is not None:
                    lines += 1
                    self._write(packet)

    def _parse(self, msg: bytes) -> LoggedPacket | None:
        try:
            return parse_packet(msg)
        except NetlinkError:
            return None

    def _write(self, packet: LoggedPacket) -> None:
        icmp = packet.protocol in ("icmp", "icmpv6")
        first, second = ("type", "code") if icmp else ("source_port", "destination_port")
        fields = {
            "in_interface": self._name(packet.in_index),
            "out_interface": self._name(packet.out_index),
            "source": packet.source,
            "destination": packet.destination,
            "protocol": packet.protocol,
            first: packet.source_port,
            second: packet.destination_port,
            "length": packet.length,
        }
        text = packet.prefix.strip().rstrip(":") or "packet"
        log.info(text, **{name: value for name, value in fields.items() if value not in ("", None, 0) or icmp})

    def _name(self, index: int) -> str:
        """The interface's name in this socket's network namespace."""
        if not index:
            return ""
        try:
            answer = fcntl.ioctl(self._sock.fileno(), _SIOCGIFNAME, struct.pack("=16si20x", b"", index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return f"#{index}"
            raise
        return answer[:16].rstrip(b"\0").decode(errors="replace")
