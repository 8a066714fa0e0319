"""rtnetlink messages for links, addresses, routes and neighbours: built and read, nothing sent."""

from __future__ import annotations

import functools
import socket
import struct
from typing import NamedTuple

from calico_node.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attr,
    attr_text,
    attr_u32,
    message,
    nested,
    parse_attrs,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH = 28, 29

RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV4_ROUTE = 7
RTNLGRP_IPV6_IFADDR = 9
RTNLGRP_IPV6_ROUTE = 11

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_EXT_MASK, IFLA_NET_NS_FD = 1, 3, 4, 18, 29, 28
IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
VETH_INFO_PEER = 1
RTEXT_FILTER_SKIP_STATS = 8

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD = 0x02
IFA_F_TENTATIVE = 0x40

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_MULTIPATH = 1, 4, 5, 6, 7, 8, 9
RTA_VIA = 18
RTAX_MTU = 2
RT_TABLE_MAIN = 254
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTNH_F_ONLINK = 4
RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE = 1, 6, 7
RTPROT_KERNEL, RTPROT_BOOT, RTPROT_BIRD, RTPROT_CALICO = 2, 3, 12, 80
IPV6_DEFAULT_METRIC = 1024
"""What the kernel makes of metric 0 in IPv6."""

NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80

IFINFO = struct.Struct("=BxHiII")
IFADDR = struct.Struct("=BBBBI")
RTMSG = struct.Struct("=BBBBBBBBI")
NDMSG = struct.Struct("=BxxxiHBB")
_RTNEXTHOP = struct.Struct("=HBBi")
_U32 = struct.Struct("=I")


class Link(NamedTuple):
    """An interface.  ``up``: administratively up; ``running``: up and with carrier."""

    ifindex: int
    name: str
    up: bool
    running: bool
    mac: str = ""
    mtu: int = 0


class Address(NamedTuple):
    """An address of an interface, as ``10.0.0.5/24``.  ``tentative``: IPv6 duplicate detection has not ended."""

    ifindex: int
    address: str
    tentative: bool = False


class NextHop(NamedTuple):
    """``gateway`` packed (4 or 16 bytes, b"" for none); ``ifindex`` 0 leaves the interface to the kernel."""

    gateway: bytes
    ifindex: int


class Path(NamedTuple):
    """Where a route leads: all of it but its destination.  Interned by the codecs, so equal ones are mostly one."""

    type: int = RTN_UNICAST
    scope: int = RT_SCOPE_UNIVERSE
    protocol: int = RTPROT_BOOT
    metric: int = 0
    hops: tuple[NextHop, ...] = ()
    onlink: bool = False
    source: bytes = b""
    mtu: int = 0


def pack_prefix(text: str) -> bytes:
    """A canonical CIDR or address as one length byte and 4 or 16 address bytes.  Raises ``ValueError``."""
    address, slash, length = text.partition("/")
    packed = pack_address(address)
    bits = int(length) if slash else len(packed) * 8
    if not 0 <= bits <= len(packed) * 8:
        raise ValueError(f"{text}: prefix length out of range")
    return bytes((bits,)) + packed


def unpack_prefix(prefix: bytes) -> str:
    """The text of a packed prefix."""
    return f"{address_text(prefix[1:])}/{prefix[0]}"


def pack_address(text: str) -> bytes:
    """4 or 16 bytes.  Raises ``ValueError`` for text that is no address."""
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except OSError:
        raise ValueError(f"{text!r} is not an IP address") from None


def address_text(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def pack_mac(text: str) -> bytes:
    """Raises ``ValueError`` unless ``text`` is six hexadecimal pairs."""
    packed = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if len(packed) != 6:
        raise ValueError(f"{text!r} is not a MAC address")
    return packed


def mac_text(packed: bytes) -> str:
    return packed.hex(":")


# Links and addresses


def get_links() -> bytes:
    """A dump of all interfaces, without statistics."""
    return message(RTM_GETLINK, 0, IFINFO.pack(0, 0, 0, 0, 0) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS))


def get_link(name: str) -> bytes:
    """The interface ``name`` (a query, not a dump; ENODEV where there is none)."""
    payload = IFINFO.pack(0, 0, 0, 0, 0) + attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return message(RTM_GETLINK, 0, payload + attr_text(IFLA_IFNAME, name))


def read_link(payload: bytes) -> Link:
    _, _, index, flags, _ = IFINFO.unpack_from(payload)
    attrs = parse_attrs(payload, IFINFO.size)
    mac, mtu = attrs.get(IFLA_ADDRESS, b""), attrs.get(IFLA_MTU, bytes(4))
    up = bool(flags & IFF_UP)
    return Link(
        index,
        attrs.get(IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        up,
        up and bool(flags & IFF_LOWER_UP),
        mac_text(mac) if len(mac) == 6 else "",
        _U32.unpack(mtu)[0],
    )


def set_link(
    index: int, *, up: bool | None = None, mac: str = "", mtu: int = 0, name: str = "", netns: int | None = None
) -> bytes:
    """Change an interface; what is not given stays.  ``netns`` moves it to the namespace of that descriptor."""
    flags, change = (IFF_UP if up else 0, IFF_UP) if up is not None else (0, 0)
    payload = IFINFO.pack(0, 0, index, flags, change)
    if mac:
        payload += attr(IFLA_ADDRESS, pack_mac(mac))
    if mtu:
        payload += attr_u32(IFLA_MTU, mtu)
    if name:
        payload += attr_text(IFLA_IFNAME, name)
    if netns is not None:
        payload += attr_u32(IFLA_NET_NS_FD, netns)
    return message(RTM_NEWLINK, 0, payload)


def delete_link(index: int) -> bytes:
    return message(RTM_DELLINK, 0, IFINFO.pack(0, 0, index, 0, 0))


def new_veth(
    name: str,
    peer_name: str,
    *,
    peer_netns: int | None = None,
    mac: str = "",
    peer_mac: str = "",
    mtu: int = 0,
    queues: int = 1,
) -> bytes:
    """A veth pair, both ends down; the peer in the namespace of the descriptor ``peer_netns``."""

    def end(end_name: str, end_mac: str) -> bytes:
        payload = IFINFO.pack(0, 0, 0, 0, 0) + attr_text(IFLA_IFNAME, end_name)
        if end_mac:
            payload += attr(IFLA_ADDRESS, pack_mac(end_mac))
        if mtu:
            payload += attr_u32(IFLA_MTU, mtu)
        if queues > 1:
            payload += attr_u32(IFLA_NUM_TX_QUEUES, queues) + attr_u32(IFLA_NUM_RX_QUEUES, queues)
        return payload

    peer = end(peer_name, peer_mac)
    if peer_netns is not None:
        peer += attr_u32(IFLA_NET_NS_FD, peer_netns)
    info = nested(
        IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, "veth"), nested(IFLA_INFO_DATA, attr(VETH_INFO_PEER, peer))
    )
    return message(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, end(name, mac) + info)


def get_addresses(family: int = 0, index: int = 0) -> bytes:
    """A dump of addresses; ``index`` limits it to one interface."""
    return message(RTM_GETADDR, 0, IFADDR.pack(family, 0, 0, 0, index))


def read_address(payload: bytes) -> Address | None:
    family, length, flags, _, index = IFADDR.unpack_from(payload)
    if family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attrs = parse_attrs(payload, IFADDR.size)
    packed = attrs.get(IFA_LOCAL) or attrs.get(IFA_ADDRESS)
    if packed is None:
        return None
    if IFA_FLAGS in attrs:
        (flags,) = _U32.unpack(attrs[IFA_FLAGS])
    return Address(index, f"{address_text(packed)}/{length}", bool(flags & IFA_F_TENTATIVE))


def add_address(index: int, cidr: str) -> bytes:
    """Give the interface ``cidr`` (``10.0.0.5/32``), usable at once in IPv6 too (no duplicate detection)."""
    prefix = pack_prefix(cidr)
    family = socket.AF_INET if len(prefix) == 5 else socket.AF_INET6
    payload = (
        IFADDR.pack(family, prefix[0], 0, 0, index) + attr(IFA_LOCAL, prefix[1:]) + attr(IFA_ADDRESS, prefix[1:])
    )
    if family == socket.AF_INET6:
        payload += attr_u32(IFA_FLAGS, IFA_F_NODAD)
    return message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, payload)


def permanent_neighbour(index: int, address: str, mac: str) -> bytes:
    """A static ARP or NDP entry, replacing what is there."""
    packed = pack_address(address)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    payload = NDMSG.pack(family, index, NUD_PERMANENT, 0, RTN_UNICAST)
    payload += attr(NDA_DST, packed) + attr(NDA_LLADDR, pack_mac(mac))
    return message(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, payload)


# Routes


def get_routes(family: int) -> bytes:
    """A dump of the main table of one family."""
    return message(RTM_GETROUTE, 0, RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0))


class PathEncoder:
    """Packs routes that share ``path``, so that only the destination is new for each."""

    def __init__(self, family: int, path: Path) -> None:
        self.path = path
        self._tail = _path_attrs(family, path)
        self._rest = RTMSG.pack(
            family, 0, 0, 0, RT_TABLE_MAIN, path.protocol, path.scope, path.type, RTNH_F_ONLINK if path.onlink else 0
        )[2:]
        self._family = bytes((family,))

    def _message(self, kind: int, flags: int, prefix: bytes) -> bytes:
        payload = self._family + prefix[:1] + self._rest
        if prefix[0]:
            payload += attr(RTA_DST, prefix[1:])
        return message(kind, flags, payload + self._tail)

    def add(self, prefix: bytes) -> bytes:
        """Add; EEXIST when a route with this prefix and metric is there."""
        return self._message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, prefix)

    def replace(self, prefix: bytes) -> bytes:
        """Add, or replace the route with this prefix and metric."""
        return self._message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, prefix)

    def delete(self, prefix: bytes) -> bytes:
        """Delete the route that is exactly this one; ESRCH where there is none."""
        return self._message(RTM_DELROUTE, 0, prefix)


@functools.lru_cache(maxsize=4096)
def encoder(family: int, path: Path) -> PathEncoder:
    return PathEncoder(family, path)


def family_of(prefix: bytes) -> int:
    """AF_INET or AF_INET6 of a packed prefix."""
    return socket.AF_INET if len(prefix) == 5 else socket.AF_INET6


def _gateway(family: int, gateway: bytes) -> bytes:
    if not gateway:
        return b""
    if len(gateway) == (4 if family == socket.AF_INET else 16):
        return attr(RTA_GATEWAY, gateway)
    # A next hop of the other family (RFC 8950)
    return attr(RTA_VIA, struct.pack("=H", socket.AF_INET if len(gateway) == 4 else socket.AF_INET6) + gateway)


def _path_attrs(family: int, path: Path) -> bytes:
    tail = attr_u32(RTA_PRIORITY, path.metric) if path.metric else b""
    if len(path.hops) == 1:
        hop = path.hops[0]
        tail += _gateway(family, hop.gateway)
        if hop.ifindex:
            tail += attr_u32(RTA_OIF, hop.ifindex)
    elif path.hops:
        multi = b""
        for hop in path.hops:
            gateway = _gateway(family, hop.gateway)
            flags = RTNH_F_ONLINK if path.onlink else 0
            multi += _RTNEXTHOP.pack(_RTNEXTHOP.size + len(gateway), flags, 0, hop.ifindex) + gateway
        tail += attr(RTA_MULTIPATH, multi)
    if path.source:
        tail += attr(RTA_PREFSRC, path.source)
    if path.mtu:
        tail += nested(RTA_METRICS, attr_u32(RTAX_MTU, path.mtu))
    return tail


_paths: dict[Path, Path] = {}


def intern_path(path: Path) -> Path:
    """The one object of all equal to ``path``, so that comparing by identity mostly decides."""
    if len(_paths) > 65536:
        _paths.clear()
    return _paths.setdefault(path, path)


def _read_gateway(attrs: dict[int, bytes]) -> bytes:
    if RTA_GATEWAY in attrs:
        return attrs[RTA_GATEWAY]
    via = attrs.get(RTA_VIA)
    return via[2:] if via else b""


def _read_hops(attrs: dict[int, bytes]) -> tuple[tuple[NextHop, ...], int]:
    """The next hops, sorted, and the RTNH flags all of them share."""
    multi = attrs.get(RTA_MULTIPATH)
    if multi is None:
        index = _U32.unpack(attrs[RTA_OIF])[0] if RTA_OIF in attrs else 0
        return (NextHop(_read_gateway(attrs), index),), 0
    hops: list[NextHop] = []
    common, offset = 0xFF, 0
    while offset + _RTNEXTHOP.size <= len(multi):
        length, flags, _, index = _RTNEXTHOP.unpack_from(multi, offset)
        if length < _RTNEXTHOP.size:
            break
        own = parse_attrs(multi[offset + _RTNEXTHOP.size : offset + length])
        hops.append(NextHop(_read_gateway(own), index))
        common &= flags
        offset += (length + 3) & ~3
    return tuple(sorted(hops)), common


def read_route(payload: bytes) -> tuple[bytes, Path] | None:
    """Prefix and path of a route of the main table; None for any other (another table, TOS, cloned)."""
    family, length, source_length, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(payload)
    if table != RT_TABLE_MAIN or tos or source_length or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    attrs = parse_attrs(payload, RTMSG.size)
    width = 4 if family == socket.AF_INET else 16
    prefix = bytes((length,)) + attrs.get(RTA_DST, bytes(width))
    hops: tuple[NextHop, ...] = ()
    if kind == RTN_UNICAST:
        hops, shared = _read_hops(attrs)
        flags |= shared
    metrics = attrs.get(RTA_METRICS)
    mtu = parse_attrs(metrics).get(RTAX_MTU) if metrics else None
    path = Path(
        kind,
        scope,
        protocol,
        _U32.unpack(attrs[RTA_PRIORITY])[0] if RTA_PRIORITY in attrs else 0,
        hops,
        bool(flags & RTNH_F_ONLINK),
        attrs.get(RTA_PREFSRC, b""),
        _U32.unpack(mtu)[0] if mtu else 0,
    )
    return prefix, intern_path(path)
