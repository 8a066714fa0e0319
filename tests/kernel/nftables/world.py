"""A node in a network namespace, with pods on veths and a host outside, and probes that send real packets."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from calico_node.linux.namespaces import call_in_netns

T = TypeVar("T")
GATEWAY = "169.254.1.1"
DENIED = 0.25
"""Seconds after which silence counts as denied."""


def run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


class Place:
    """A network namespace of a pod or host."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.sockets: list[socket.socket] = []
        run(f"ip netns add {name}")
        run(f"ip -n {name} link set lo up")

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    def inside(self, fn: Callable[[], T]) -> T:
        return call_in_netns(self.path, fn)

    def socket(self, kind: int, protocol: int = 0, family: int = socket.AF_INET) -> socket.socket:
        made = self.inside(lambda: socket.socket(family, kind, protocol))
        self.sockets.append(made)
        return made

    def listen(self, *ports: int) -> None:
        for port in ports:
            # one socket for both families
            sock = self.socket(socket.SOCK_STREAM, family=socket.AF_INET6)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("::", port))
            sock.listen(64)

    def sysctl(self, name: str, value: int) -> None:
        path = Path("/proc/sys/net", name)
        # /proc/sys/net shows the namespace of the thread that opens it.
        self.inside(lambda: path.write_text(str(value)))

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        run(f"ip netns del {self.name}")


class World:
    def __init__(self) -> None:
        self.prefix = f"nft-{os.getpid()}"
        self.node = Place(f"{self.prefix}-node", "192.0.2.1")
        self.places = [self.node]
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            self.node.sysctl(name, 1)
        for name in ("all", "default"):
            self.node.sysctl(f"ipv4/conf/{name}/rp_filter", 0)
        self.node.sysctl("ipv6/conf/default/accept_dad", 0)
        self.outside = self._place("outside", "192.0.2.2")
        self._veth(self.outside, "out0")
        run(f"ip -n {self.node.name} addr add 192.0.2.1/24 dev out0")
        run(f"ip -n {self.outside.name} addr add 192.0.2.2/24 dev eth0")
        # proxy_arp answers for what the node has a route to
        run(f"ip -n {self.node.name} route add default via 192.0.2.2")

    def _place(self, name: str, address: str) -> Place:
        place = Place(f"{self.prefix}-{name}", address)
        self.places.append(place)
        return place

    def _veth(self, place: Place, interface: str) -> None:
        run(f"ip -n {self.node.name} link add {interface} type veth peer name eth0 netns {place.name}")
        run(f"ip -n {self.node.name} link set {interface} up")
        run(f"ip -n {place.name} link set eth0 up")

    def pod(self, name: str, address: str) -> Place:
        """Its interface on the node is ``cali<name>``."""
        place = self._place(name, address)
        interface = "cali" + name
        self._veth(place, interface)
        self.node.sysctl(f"ipv4/neigh/{interface}/proxy_delay", 0)
        self.node.sysctl(f"ipv4/conf/{interface}/proxy_arp", 1)
        self.node.sysctl(f"ipv4/conf/{interface}/rp_filter", 0)
        run(f"ip -n {self.node.name} route add {address}/32 dev {interface}")
        run(f"ip -n {place.name} addr add {address}/32 dev eth0")
        run(f"ip -n {place.name} route add {GATEWAY} dev eth0 scope link")
        run(f"ip -n {place.name} route add default via {GATEWAY}")
        return place

    def ipv6(self, pod: Place, address: str) -> None:
        """Give ``pod`` an IPv6 address besides, and the node's link-local one as its gateway."""
        interface = "cali" + pod.name.rpartition("-")[2]
        listed = run(f"ip -n {self.node.name} -6 -o addr show dev {interface} scope link")
        gateway = listed.split("inet6 ")[1].split("/")[0]
        run(f"ip -n {self.node.name} -6 route add {address}/128 dev {interface}")
        run(f"ip -n {pod.name} -6 addr add {address}/128 dev eth0 nodad")
        run(f"ip -n {pod.name} -6 route add default via {gateway} dev eth0")

    def route_back(self) -> None:
        """Let the host outside answer pods by their own addresses."""
        run(f"ip -n {self.outside.name} route add 10.65.0.0/16 via 192.0.2.1")

    def nft(self, command: str) -> str:
        return run(f"ip netns exec {self.node.name} nft {command}")

    def counters(self, chain: str, family: str = "ip") -> list[int]:
        """Packets counted by the rules of ``chain``."""
        text = self.nft(f"list chain {family} calico {chain}")
        return [int(number) for number in re.findall(r"counter packets (\d+)", text)]

    def close(self) -> None:
        for place in reversed(self.places):
            with contextlib.suppress(AssertionError):
                place.close()


def tcp(source: Place, address: str, port: int, *, source_port: int = 0) -> bool:
    """Whether a TCP connection comes about."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = source.inside(lambda: socket.socket(family, socket.SOCK_STREAM))
    with sock:
        sock.settimeout(DENIED)
        if source_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", source_port))
        try:
            sock.connect((address, port))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def tcp_stream(source: Place, target: Place, port: int) -> Iterator[Callable[[], bool]]:
    """An open connection; the function says whether a byte still gets through."""
    server = target.socket(socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("", port))
    server.listen()
    client = source.socket(socket.SOCK_STREAM)
    client.settimeout(2)
    client.connect((target.address, port))
    accepted, _ = server.accept()
    accepted.settimeout(DENIED)

    def works() -> bool:
        client.send(b"x")
        try:
            return accepted.recv(1) == b"x"
        except TimeoutError:
            return False

    with server, client, accepted:
        yield works


def udp(source: Place, target: Place, port: int, *, claim: str = "") -> bool:
    """Whether one datagram arrives; ``claim`` is another source address to bind to."""
    receiver = target.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender = source.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiver, sender:
        receiver.bind(("", port))
        receiver.settimeout(DENIED)
        if claim:
            sender.bind((claim, 0))
        sender.sendto(b"probe", (target.address, port))
        try:
            return receiver.recv(16) == b"probe"
        except TimeoutError:
            return False


def udp_source(source: Place, target: Place, port: int) -> str | None:
    """The source address a datagram arrives with."""
    receiver = target.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    sender = source.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with receiver, sender:
        receiver.bind(("", port))
        receiver.settimeout(DENIED)
        sender.sendto(b"probe", (target.address, port))
        try:
            return receiver.recvfrom(16)[1][0]
        except TimeoutError:
            return None


def ping(source: Place, target: Place, type_: int = 8, code: int = 0) -> bool:
    """Whether an ICMP message arrives at ``target``."""
    receiver = target.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    sender = source.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    with receiver, sender:
        receiver.settimeout(DENIED)
        ident = time.monotonic_ns() & 0xFFFF
        sender.sendto(_icmp(type_, code, ident), (target.address, 0))
        deadline = time.monotonic() + DENIED
        while time.monotonic() < deadline:
            try:
                packet = receiver.recv(256)
            except TimeoutError:
                return False
            header = (packet[0] & 15) * 4
            if packet[header : header + 2] == bytes((type_, code)):
                (got,) = struct.unpack_from(">H", packet, header + 4)
                if got == ident:
                    return True
        return False


def _icmp(type_: int, code: int, ident: int) -> bytes:
    body = struct.pack(">BBHHH", type_, code, 0, ident, 1)
    total = sum(struct.unpack(">4H", body))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">BBHHH", type_, code, ~total & 0xFFFF, ident, 1)
