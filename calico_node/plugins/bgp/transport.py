"""TCP for one speaker: listening, connecting, TCP MD5 (RFC 2385), GTSM (RFC 5082); the only part that has sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable

import structlog
from attrs import define, field

from calico_node.plugins.bgp.peers import PeerConfig
from calico_node.plugins.bgp.session import Close, Connect
from calico_node.plugins.bgp.speaker import Speaker, Wire

TCP_MD5SIG = 14
IP_MINTTL = 21
IPV6_MINHOPCOUNT = 73
TOS_INTERNETWORK_CONTROL = 0xC0
CONNECT_TIMEOUT = 30.0
LISTEN_RETRY = 2.0
MAX_STRANGERS = 1000
LINGER = 2.0
"""Seconds that a last NOTIFICATION has to leave our queue."""
READ_SIZE = 16384
WRITE_LIMIT = 65536
BACKLOG = 20000
"""Undecided prefixes above which reading slows down, so that TCP holds the peer back."""

log = structlog.get_logger("bgp")


@define(eq=False)
class _Link:
    """One TCP connection; ``queue`` is what has not been handed to the kernel."""

    peer: str
    number: int
    sock: socket.socket | None = None
    queue: bytearray = field(factory=bytearray)
    wake: asyncio.Event = field(factory=asyncio.Event)
    closing: bool = False
    tasks: list[asyncio.Task[None]] = field(factory=list)


class Transport:
    """Carries out a speaker's commands.  ``wake`` is called whenever the speaker may have work or news."""

    def __init__(self, speaker: Speaker, wake: Callable[[], None]) -> None:
        self.error = ""  # why we do not listen, for the health report
        self._speaker = speaker
        self._wake = wake
        self._family = socket.AF_INET if speaker.version == 4 else socket.AF_INET6
        self._links: dict[tuple[str, int], _Link] = {}
        self._peers: dict[str, PeerConfig] = {}
        self._listener: socket.socket | None = None
        self._listening: tuple[str, int] | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._passwords: dict[str, str] = {}
        self._strangers: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    # --- configuration

    def configure(self, address: str, port: int, peers: tuple[PeerConfig, ...]) -> None:
        """Listen on ``address`` ("" for any) and ``port``, knowing ``peers``."""
        self._peers = {peer.name: peer for peer in peers}
        if self._listening != (address, port) or self._listener is None:
            self._stop_listening()
            self._listen(address, port)
        self._set_passwords()

    def _listen(self, address: str, port: int) -> None:
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            self._set_ttl(sock, 255)
            sock.bind((address or ("0.0.0.0" if self._family == socket.AF_INET else "::"), port))
            sock.listen(128)
        except OSError as error:
            sock.close()
            self.error = f"cannot listen on {address or 'any address'} port {port}: {error.strerror}"
            self._retry = self._loop.call_later(LISTEN_RETRY, self._listen_again, address, port)
            return
        self.error = ""
        self._listener, self._listening = sock, (address, port)
        self._passwords = {}
        self._accepting = self._loop.create_task(self._accept(sock))

    def _listen_again(self, address: str, port: int) -> None:
        self._listen(address, port)
        self._set_passwords()
        self._wake()

    def _stop_listening(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._accepting is not None:
            self._accepting.cancel()
            self._accepting = None
        if self._listener is not None:
            self._discard(self._listener)
            self._listener = self._listening = None

    def _set_passwords(self) -> None:
        """MD5 keys sit on the listening socket, one for each peer address."""
        if self._listener is None:
            return
        wanted = {peer.address: peer.password for peer in self._peers.values() if peer.password}
        for address in self._passwords.keys() - wanted.keys():
            self._md5(self._listener, address, "")
        for address, password in wanted.items():
            if self._passwords.get(address) != password:
                self._md5(self._listener, address, password)
        self._passwords = wanted

    def _md5(self, sock: socket.socket, address: str, password: str) -> None:
        key = password.encode()
        if len(key) > 80:
            self.error = f"the password for {address} is longer than 80 bytes"
            key = key[:80]
        try:
            sock.setsockopt(socket.IPPROTO_TCP, TCP_MD5SIG, md5_option(self._family, address, key))
        except OSError as error:
            if key:
                self.error = f"TCP MD5 for {address}: {error.strerror}"

    def _set_ttl(self, sock: socket.socket, ttl: int) -> None:
        if self._family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, TOS_INTERNETWORK_CONTROL)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, ttl)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, TOS_INTERNETWORK_CONTROL)

    def _set_hops(self, sock: socket.socket, hops: int) -> None:
        """GTSM: send with 255 and take nothing that crossed more than ``hops`` hops; off when 0."""
        if not hops:
            self._set_ttl(sock, 64)
            return
        self._set_ttl(sock, 255)
        if self._family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, IP_MINTTL, 256 - hops)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MINHOPCOUNT, 256 - hops)

    # --- commands

    def perform(self, commands: list[tuple[str, Wire]]) -> None:
        """Carry out what sessions asked for, in order."""
        for name, command in commands:
            if isinstance(command, Connect):
                peer = self._peers.get(name)
                if peer is not None:
                    self._spawn(self._connect(peer, command.connection))
                continue
            link = self._links.get((name, command.connection))
            if link is None:
                continue
            if isinstance(command, Close):
                self._close(link)
            else:
                link.queue += command.data
                link.wake.set()
                if len(link.queue) > WRITE_LIMIT:
                    self._speaker.congested(name, True)

    def _spawn(self, work: object) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection's task failed", exc_info=task.exception())

    async def _connect(self, peer: PeerConfig, number: int) -> None:
        link = self._links[peer.name, number] = _Link(peer.name, number)
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._set_hops(sock, peer.ttl)
            if peer.password:
                self._md5(sock, peer.address, peer.password)
            if peer.source:
                sock.bind((peer.source, 0))
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._loop.sock_connect(sock, (peer.address, peer.port))
        except (OSError, TimeoutError) as error:
            sock.close()
            if not link.closing:
                self._links.pop((peer.name, number), None)
                reason = error.strerror if isinstance(error, OSError) and error.strerror else "timed out"
                self._speaker.closed(peer.name, number, self._loop.time(), f"Socket: {reason}")
                self._wake()
            return
        except asyncio.CancelledError:
            sock.close()
            raise
        if link.closing:
            sock.close()
            return
        self._begin(link, sock)
        self._speaker.connected(peer.name, number, sock.getsockname()[0], self._loop.time())
        self._wake()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, address = await self._loop.sock_accept(listener)
            except OSError as error:
                self.error = f"accept: {error.strerror}"
                await asyncio.sleep(1)
                continue
            with contextlib.suppress(OSError):
                self._accepted(sock, str(address[0]).partition("%")[0])

    def _accepted(self, sock: socket.socket, address: str) -> None:
        try:
            local = str(sock.getsockname()[0])
            found = self._speaker.incoming(address, local, self._loop.time())
            if found is None:
                self._note_stranger(address)
                sock.close()
                self._wake()
                return
            peer = self._peers.get(found[0])
            self._set_hops(sock, peer.ttl if peer is not None else 0)
        except OSError:
            sock.close()
            raise
        link = self._links[found] = _Link(*found)
        self._begin(link, sock)
        self._wake()

    def _note_stranger(self, address: str) -> None:
        """One line in the log for each address that is nobody's we know."""
        if address in self._strangers or len(self._strangers) >= MAX_STRANGERS:
            return
        if all(peer.address != address for peer in self._peers.values()):
            self._strangers.add(address)
            log.warning("unexpected connection refused", address=address)

    def _begin(self, link: _Link, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.sock = sock
        link.tasks = [self._spawn(self._read(link, sock)), self._spawn(self._write(link, sock))]

    async def _read(self, link: _Link, sock: socket.socket) -> None:
        reason = "connection closed"
        try:
            while True:
                data = await self._loop.sock_recv(sock, READ_SIZE)
                if not data:
                    break
                self._speaker.receive(link.peer, link.number, data, self._loop.time())
                self._wake()
                await asyncio.sleep(0)
                if len(self._speaker.table.dirty) > BACKLOG:
                    await asyncio.sleep(0.05)
        except OSError as error:
            reason = f"Socket: {error.strerror}"
        except Exception as error:
            # Whatever a peer sent to bring this about, it costs that peer its connection and no other theirs.
            log.exception("what a peer sent could not be taken in", peer=link.peer)
            reason = f"Internal error: {error!r}"
        if not link.closing:
            link.closing = True
            self._links.pop((link.peer, link.number), None)
            link.tasks[1].cancel()
            self._discard(sock)
            self._speaker.closed(link.peer, link.number, self._loop.time(), reason)
            self._wake()

    async def _write(self, link: _Link, sock: socket.socket) -> None:
        try:
            while True:
                await link.wake.wait()
                link.wake.clear()
                while link.queue:
                    chunk = bytes(link.queue[:WRITE_LIMIT])
                    del link.queue[:WRITE_LIMIT]
                    await self._loop.sock_sendall(sock, chunk)
                    if len(link.queue) <= WRITE_LIMIT // 2:
                        self._speaker.congested(link.peer, False)
                        self._wake()
                if link.closing:
                    break
        except OSError:
            if not link.closing:
                return  # the reader sees it too and reports it
        self._discard(sock)

    def _close(self, link: _Link) -> None:
        """Our side ends the connection, once what is queued has been sent."""
        self._links.pop((link.peer, link.number), None)
        link.closing = True
        if link.sock is not None:
            link.tasks[0].cancel()
            link.wake.set()
            self._loop.call_later(LINGER, self._end, link)

    def _end(self, link: _Link) -> None:
        for task in link.tasks:
            task.cancel()
        if link.sock is not None:
            self._discard(link.sock)

    def _discard(self, sock: socket.socket) -> None:
        """Close ``sock``; the loop forgets it first, since its number may be given to another at once."""
        if sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()

    def close(self) -> None:
        """Close everything at once; peers see the end of TCP and nothing else."""
        self._stop_listening()
        for link in self._links.values():
            self._end(link)
        self._links.clear()
        for task in list(self._tasks):
            task.cancel()


def md5_option(family: socket.AddressFamily, address: str, key: bytes) -> bytes:
    """``struct tcp_md5sig``: a sockaddr_storage, flags, prefix length, key length, interface, 80 bytes of key."""
    if family == socket.AF_INET:
        where = struct.pack("=HH4s", family, 0, socket.inet_pton(family, address)).ljust(128, b"\0")
    else:
        where = struct.pack("=HHI16sI", family, 0, 0, socket.inet_pton(family, address), 0).ljust(128, b"\0")
    return where + struct.pack("=BBHi80s", 0, 0, len(key), 0, key)
