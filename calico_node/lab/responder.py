"""The responder: one process that answers on every declared port of every pod, node and outside host.

TCP answers with HTTP 200 and ``{"pod", "node", "ip", "peer"}``, UDP sends back what came, SCTP accepts; the lab's
name server answers DNS on its port 53.  Listeners are opened inside the place's network namespace by a thread that
enters it; a socket stays there.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen

from calico_node.lab import names as dns_names
from calico_node.lab.worker import Tell, serve
from calico_node.linux.namespaces import run_in_netns

_REQUEST_TIMEOUT = 5.0
_REQUEST_MAX = 65536
_PROTOCOLS = {
    "TCP": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "UDP": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "SCTP": (socket.SOCK_STREAM, 132),
}
_IN6_PKTINFO_ON = 49  # IPV6_RECVPKTINFO
_IP_PKTINFO = 8


@frozen
class _Port:
    protocol: str
    number: int
    family: int


@define
class _Place:
    """What answers for one pod, node or host; ``open`` holds a closer per listener."""

    pod: str
    node: str
    netns: str
    dns: bool
    open: dict[_Port, _Listener] = field(factory=dict)


class _Listener:
    """One socket and what serves it."""

    def __init__(self, place: _Place, port: _Port, sock: socket.socket, responder: Responder) -> None:
        self._place, self._port, self._sock, self._responder = place, port, sock, responder
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        if port.protocol == "UDP":
            self._loop.add_reader(sock.fileno(), self._datagram)
        else:
            self._start(self._accept())

    def close(self) -> None:
        if self._port.protocol == "UDP":
            self._loop.remove_reader(self._sock.fileno())
        for task in self._tasks:
            task.cancel()
        self._sock.close()

    def _start(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            try:
                connection, peer = await self._loop.sock_accept(self._sock)
            except OSError:
                await asyncio.sleep(0.1)
                continue
            self._start(self._serve(connection, peer[0]))

    async def _serve(self, connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                async with asyncio.timeout(_REQUEST_TIMEOUT):
                    if self._is_dns:
                        await self._serve_dns(connection)
                    else:
                        await self._serve_http(connection, peer)
            except (OSError, TimeoutError):
                pass

    @property
    def _is_dns(self) -> bool:
        return self._place.dns and self._port.number == 53

    async def _serve_http(self, connection: socket.socket, peer: str) -> None:
        request = b""
        while b"\r\n\r\n" not in request and b"\n\n" not in request and len(request) < _REQUEST_MAX:
            data = await self._loop.sock_recv(connection, 4096)
            if not data:
                break
            request += data
        place = self._place
        answer = {"pod": place.pod, "node": place.node, "ip": connection.getsockname()[0], "peer": peer}
        body = json.dumps(answer).encode() + b"\n"
        head = (
            f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: close\r\n\r\n"
        )
        if request.startswith(b"HEAD "):
            body = b""
        if request:
            await self._loop.sock_sendall(connection, head.encode() + body)

    async def _serve_dns(self, connection: socket.socket) -> None:
        while True:
            length = await self._read_exactly(connection, 2)
            wire = await self._read_exactly(connection, int.from_bytes(length, "big"))
            answer = dns_names.respond(self._responder.names, wire)
            if not answer:
                return
            await self._loop.sock_sendall(connection, len(answer).to_bytes(2, "big") + answer)

    async def _read_exactly(self, connection: socket.socket, length: int) -> bytes:
        data = b""
        while len(data) < length:
            part = await self._loop.sock_recv(connection, length - len(data))
            if not part:
                raise ConnectionError("closed")
            data += part
        return data

    def _datagram(self) -> None:
        for _ in range(64):
            try:
                data, ancillary, _, peer = self._sock.recvmsg(65535, 256)
            except OSError:
                return
            if self._is_dns:
                data = dns_names.respond(self._responder.names, data, limit=1232)
                if not data:
                    continue
            # The answer leaves from the address that was asked, also where there are several.
            control = [item for item in ancillary if item[1] in (_IP_PKTINFO, socket.IPV6_PKTINFO)]
            try:
                self._sock.sendmsg([data], [_source_only(item) for item in control], 0, peer)
            except OSError:
                continue


def _source_only(item: tuple[int, int, bytes]) -> tuple[int, int, bytes]:
    """Received packet information without its interface: the route back decides that."""
    level, kind, data = item
    if kind == _IP_PKTINFO and level == socket.IPPROTO_IP:
        return level, kind, bytes(4) + data[4:8] + bytes(4)  # ipi_ifindex, ipi_spec_dst
    return level, kind, data


def _open(ports: Sequence[_Port]) -> list[tuple[_Port, socket.socket | str]]:
    found: list[tuple[_Port, socket.socket | str]] = []
    for port in ports:
        kind, number = _PROTOCOLS[port.protocol]
        try:
            sock = socket.socket(port.family, kind, number)
        except OSError as error:
            if port.family == socket.AF_INET:
                found.append((port, error.strerror or str(error)))
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if port.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if port.protocol == "UDP":
                if port.family == socket.AF_INET:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IN6_PKTINFO_ON, 1)
            sock.bind(("", port.number) if port.family == socket.AF_INET else ("::", port.number))
            if port.protocol != "UDP":
                sock.listen(1024)
        except OSError as error:
            sock.close()
            found.append((port, error.strerror or str(error)))
        else:
            found.append((port, sock))
    return found


class Responder:
    """The places that answer, by name."""

    def __init__(self) -> None:
        self.names = dns_names.Names()
        self._places: dict[str, _Place] = {}

    async def listen(self, request: Mapping[str, Any], tell: Tell) -> list[str]:
        """Make ``name`` answer on exactly the ports of ``listen``; returns those that fail, and why."""
        name = request["name"]
        place = self._places.get(name)
        if place is not None and place.netns != request["netns"]:
            await self.drop(request, tell)
            place = None
        if place is None:
            place = self._places[name] = _Place(name, request["node"], request["netns"], request["dns"])
        place.node, place.dns = request["node"], request["dns"]
        wanted = {
            _Port(protocol, number, family)
            for number, protocol in request["listen"]
            for family in (socket.AF_INET, socket.AF_INET6)
        }
        for port in [port for port in place.open if port not in wanted]:
            place.open.pop(port).close()
        missing = sorted(wanted - place.open.keys(), key=lambda port: (port.number, port.protocol, port.family))
        failed = []
        for port, outcome in await run_in_netns(place.netns, lambda: _open(missing)):
            if isinstance(outcome, str):
                failed.append(f"{port.protocol} {port.number}: {outcome}")
            else:
                place.open[port] = _Listener(place, port, outcome, self)
        return failed

    async def drop(self, request: Mapping[str, Any], tell: Tell) -> None:
        """Close everything of ``name``; an unknown one is no error."""
        place = self._places.pop(request["name"], None)
        if place is not None:
            for listener in place.open.values():
                listener.close()

    async def set_names(self, request: Mapping[str, Any], tell: Tell) -> None:
        """Replace what the name server knows."""
        self.names = dns_names.from_json(request["names"])


def main() -> None:
    """``responder FD``: serve the supervisor's requests until it closes the descriptor."""
    responder = Responder()
    asyncio.run(serve({"listen": responder.listen, "drop": responder.drop, "set_names": responder.set_names}))


if __name__ == "__main__":
    main()
