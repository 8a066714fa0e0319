"""The prober: one process that tries every connection asked of it, many at once, from inside any place's namespace.

TCP and SCTP count as allowed when the handshake completes; an answer by another pod than the one meant makes them
denied.  UDP needs an answer; so does an ICMP echo or timestamp request, while any other ICMP type counts as allowed
when it arrives, which is observed at the destination.  A probe ends within ``timeout`` seconds (0.9 by default).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from typing import Any

import dns.message

from calico_node.lab.names import DOMAIN
from calico_node.lab.worker import Tell, serve
from calico_node.linux.namespaces import run_in_netns

CONCURRENCY = 256
TIMEOUT = 0.9
_STALL = 0.15
"""Seconds the event loop may be late before a silence in that time says nothing."""
_DNS_QUERY = dns.message.make_query(f"kubernetes.default.svc.{DOMAIN}", "A", id=0x1234).to_wire()
_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.EACCES: "administratively prohibited",
    errno.EPERM: "forbidden by the sender's own policy",
    errno.ECONNRESET: "connection reset",
    errno.EPROTONOSUPPORT: "this kernel has no such protocol",
    errno.ESOCKTNOSUPPORT: "this kernel has no such protocol",
    errno.ENOPROTOOPT: "protocol unreachable",
}
TIMED_OUT = "timed out"


def reason(error: OSError) -> str:
    """Why a connection failed, in a few words."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or TIMED_OUT


class LoopWatch:
    """Notices when the event loop was late: the machine was too busy for a silence to mean anything."""

    def __init__(self) -> None:
        self.last_stall = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.05)
            now = time.monotonic()
            if now - before - 0.05 > _STALL:
                self.last_stall = now


class Prober:
    """Answers the supervisor's ``probe`` requests."""

    def __init__(self) -> None:
        self._limit = asyncio.Semaphore(CONCURRENCY)
        self._watch = LoopWatch()
        self._watching: asyncio.Task[None] | None = None

    async def probe(self, request: Mapping[str, Any], tell: Tell) -> list[dict[str, Any]]:
        """Carry out ``probes``; ``{"allowed", "error"}`` for each, in their order."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch.run())
        probes = request["probes"]
        timeout = float(request.get("timeout", TIMEOUT))
        done = 0

        async def one(probe: Mapping[str, Any]) -> dict[str, Any]:
            nonlocal done
            async with self._limit:
                error = await self._attempt(probe, timeout)
            done += 1
            tell(done, len(probes))
            return {"allowed": not error, "error": error}

        return list(await asyncio.gather(*(one(probe) for probe in probes)))

    async def _attempt(self, probe: Mapping[str, Any], timeout: float) -> str:
        error = TIMED_OUT
        for _ in range(3):
            started = time.monotonic()
            try:
                async with asyncio.timeout(timeout):
                    error = await _METHODS[probe["protocol"]](probe, timeout)
            except TimeoutError:
                error = TIMED_OUT
            except OSError as failure:
                error = reason(failure)
            if error != TIMED_OUT or self._watch.last_stall < started:
                break
        return error


async def _open(probe: Mapping[str, Any], kind: int, protocol: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in probe["ip"] else socket.AF_INET
    sock: socket.socket = await run_in_netns(probe["netns"], lambda: socket.socket(family, kind, protocol))
    sock.setblocking(False)
    return sock


async def _tcp(probe: Mapping[str, Any], timeout: float) -> str:
    loop = asyncio.get_running_loop()
    with await _open(probe, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await loop.sock_connect(sock, (probe["ip"], probe["port"]))
        # The handshake is the proof; who answered is looked at where it can be known in time.
        if probe.get("pod") and probe["port"] != 53:
            try:
                async with asyncio.timeout(timeout / 2):
                    answer = await _who(sock, probe["ip"])
            except (OSError, TimeoutError, ValueError):
                answer = ""
            if answer and answer != probe["pod"]:
                return f"answered by {answer}"
        return ""


async def _who(sock: socket.socket, ip: str) -> str:
    loop = asyncio.get_running_loop()
    host = f"[{ip}]" if ":" in ip else ip
    await loop.sock_sendall(sock, f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    data = b""
    while True:
        part = await loop.sock_recv(sock, 4096)
        if not part:
            break
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        return ""
    answer = json.loads(body)
    pod = answer.get("pod", "") if isinstance(answer, dict) else ""
    return pod if isinstance(pod, str) else ""


async def _sctp(probe: Mapping[str, Any], timeout: float) -> str:
    with await _open(probe, socket.SOCK_STREAM, 132) as sock:
        await asyncio.get_running_loop().sock_connect(sock, (probe["ip"], probe["port"]))
        return ""


async def _repeat(send: Callable[[], object], timeout: float) -> None:
    """Send three times over the probe's time: a lost packet is not a denied one."""
    for _ in range(3):
        try:
            send()
        except BlockingIOError:
            pass
        await asyncio.sleep(timeout / 3)


async def _udp(probe: Mapping[str, Any], timeout: float) -> str:
    loop = asyncio.get_running_loop()
    token = _DNS_QUERY if probe["port"] == 53 else b"calico-node lab " + os.urandom(16).hex().encode()
    with await _open(probe, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as sock:
        sock.connect((probe["ip"], probe["port"]))
        sending = asyncio.create_task(_repeat(lambda: sock.send(token), timeout))
        receiving = asyncio.ensure_future(loop.sock_recv(sock, 65535))
        try:
            await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and sending.exception() is not None:
                sending.result()
            await receiving
            return ""
        except OSError as error:
            # A port-unreachable message answers a datagram as a reset answers a connection.
            return "port unreachable" if error.errno == errno.ECONNREFUSED else reason(error)
        finally:
            await _end(sending, receiving)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel ``tasks`` and wait for them: the event loop must have let go of a socket before it is closed, for the
    next one may get its number."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def icmp_packet(kind: int, code: int, identifier: int, token: bytes) -> bytes:
    """An ICMP message with its checksum; the token stands behind the three timestamps of a timestamp request."""
    body = struct.pack("!HH", identifier, 1) + (bytes(12) if kind == 13 else b"") + token
    return struct.pack("!BBH", kind, code, checksum(struct.pack("!BBH", kind, code, 0) + body)) + body


_ANSWERS = {(8, 0): 0, (13, 0): 14}


async def _icmp(probe: Mapping[str, Any], timeout: float) -> str:
    if ":" in probe["ip"]:
        return "ICMP is probed over IPv4 only"
    kind, code = probe["type"], probe["code"]
    identifier, token = int.from_bytes(os.urandom(2), "big"), os.urandom(16)
    packet = icmp_packet(kind, code, identifier, token)
    answer = _ANSWERS.get((kind, code))
    if answer is None and not probe.get("watch"):
        return "nothing answers this type, and its arrival can be seen only at places of the lab"
    with await _open(probe, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.connect((probe["ip"], 0))
        if answer is not None:
            expected = bytes((answer,)), struct.pack("!H", identifier)
            return await _hear(sock, sock, packet, lambda d: (d[:1], d[4:6]) == expected, timeout)
        watch = {**probe, "netns": probe["watch"]}
        with await _open(watch, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ear:
            return await _hear(sock, ear, packet, lambda data: data[:2] == packet[:2] and token in data, timeout)


async def _hear(
    sock: socket.socket, ear: socket.socket, packet: bytes, wanted: Callable[[bytes], bool], timeout: float
) -> str:
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(_repeat(lambda: sock.send(packet), timeout))
    receiving = asyncio.ensure_future(loop.sock_recv(ear, 65535))
    try:
        while True:
            await asyncio.wait({receiving, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not receiving.done():
                sending.result()
                return TIMED_OUT
            data = receiving.result()
            if wanted(data[(data[0] & 0x0F) * 4 :]):
                return ""
            receiving = asyncio.ensure_future(loop.sock_recv(ear, 65535))
    finally:
        await _end(sending, receiving)


_METHODS = {"TCP": _tcp, "UDP": _udp, "SCTP": _sctp, "ICMP": _icmp}


async def _main() -> None:
    await serve({"probe": Prober().probe})


if __name__ == "__main__":
    asyncio.run(_main())
