"""An Ethernet segment of our own: a bridge, and network namespaces plugged into it.

Everything blocks for a fraction of a millisecond per message and is meant for worker threads and start-up.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from calico_node.linux import rtnetlink as rt
from calico_node.linux.namespaces import call_in_netns, netns_descriptor
from calico_node.linux.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NetlinkSocket,
    attr_text,
    attr_u32,
    message,
    nested,
)

_IFLA_MASTER = 10


def make_bridge(name: str) -> None:
    """A bridge in the caller's network namespace, up.  Raises ``NetlinkError``."""
    payload = rt.IFINFO.pack(0, 0, 0, rt.IFF_UP, rt.IFF_UP) + attr_text(rt.IFLA_IFNAME, name)
    payload += nested(rt.IFLA_LINKINFO, attr_text(rt.IFLA_INFO_KIND, "bridge"))
    with NetlinkSocket() as netlink:
        netlink.execute_now(message(rt.RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, payload), f"make bridge {name}")


def plug(bridge: str, port: str, netns: str, device: str, address: str) -> None:
    """Connect the namespace ``netns`` to ``bridge`` by ``device``, which gets ``address``, and ``port`` here.

    Raises ``NetlinkError``.
    """
    with netns_descriptor(netns) as fd, NetlinkSocket() as here, NetlinkSocket(netns=fd) as there:
        here.execute_now(rt.new_veth(port, device, peer_netns=fd), f"make veth {port}")
        index = socket.if_nametoindex(port)
        payload = rt.IFINFO.pack(0, 0, index, rt.IFF_UP, rt.IFF_UP)
        payload += attr_u32(_IFLA_MASTER, socket.if_nametoindex(bridge))
        here.execute_now(message(rt.RTM_NEWLINK, 0, payload), f"plug {port} into {bridge}")
        inside = call_in_netns(fd, lambda: socket.if_nametoindex(device))
        there.execute_now(rt.add_address(inside, address), f"give {device} {address}")
        there.execute_now(rt.set_link(inside, up=True), f"raise {device}")


def add_device_route(netns: str, prefix: str, device: str) -> None:
    """Route ``prefix`` (IPv4) on-link out of ``device`` in ``netns``.  Raises ``NetlinkError``."""
    with netns_descriptor(netns) as fd, NetlinkSocket(netns=fd) as netlink:
        index = call_in_netns(fd, lambda: socket.if_nametoindex(device))
        path = rt.Path(scope=rt.RT_SCOPE_LINK, hops=(rt.NextHop(b"", index),))
        netlink.execute_now(
            rt.encoder(socket.AF_INET, path).replace(rt.pack_prefix(prefix)), f"route {prefix} on {device}"
        )


def route_prefixes(netns: str) -> set[str]:
    """The destinations of the IPv4 routes in the main table of ``netns``.  Raises ``NetlinkError``."""
    with NetlinkSocket(netns=netns) as netlink:
        routes = (rt.read_route(item) for item in netlink.dump_now(rt.get_routes(socket.AF_INET)))
        return {rt.unpack_prefix(route[0]) for route in routes if route is not None}


class StaticRoutes:
    """Routes through gateways in one namespace, kept equal to what is wanted; others are left alone."""

    def __init__(self, netns: str) -> None:
        self._netns = netns
        self._present: dict[str, str] = {}

    def set(self, wanted: Mapping[str, str]) -> None:
        """``wanted`` maps an IPv4 prefix to its gateway.  Raises ``NetlinkError`` for one that the kernel refuses."""
        messages = []
        for prefix, gateway in self._present.items():
            if prefix not in wanted:
                messages.append(self._encoder(gateway).delete(rt.pack_prefix(prefix)))
        for prefix, gateway in wanted.items():
            if self._present.get(prefix) != gateway:
                messages.append(self._encoder(gateway).replace(rt.pack_prefix(prefix)))
        self._present = dict(wanted)
        if not messages:
            return
        with NetlinkSocket(netns=self._netns) as netlink:
            for error in netlink.request_now(messages):
                if error is not None:
                    raise error

    @staticmethod
    def _encoder(gateway: str) -> rt.PathEncoder:
        return rt.encoder(socket.AF_INET, rt.Path(hops=(rt.NextHop(rt.pack_address(gateway), 0),)))


def write_sysctls(netns: str, values: Mapping[str, str]) -> None:
    """Write ``values`` (``net/ipv4/ip_forward`` -> text) in ``netns``; names the kernel lacks are passed over.

    Raises ``OSError`` when the kernel refuses a value.
    """

    def write() -> None:
        for name, value in values.items():
            path = f"/proc/sys/{name}"
            if os.path.exists(path):
                with open(path, "w") as file:
                    file.write(value)

    call_in_netns(netns, write)
