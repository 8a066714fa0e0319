"""Raw netlink: messages packed with ``struct``, many in one send, one acknowledgement for all of them.

The kernel carries out a netlink request inside ``sendmsg``: when the call returns, every answer already stands in the
socket's receive queue.  So an exchange here is a send and a drain without waiting, and the asynchronous methods only
give the event loop its turn between two sends.  Multicast messages come on a socket of their own (``Subscription``),
where an overrun loses nothing but notifications.

A message is ``bytes``: the 16-byte ``nlmsghdr`` with sequence number 0 (the socket numbers it) and the payload.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType

from calico_node.errors import NetlinkError
from calico_node.linux.namespaces import call_in_netns

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12

NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_OVERRUN = 4

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800

NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

NLMSGERR_ATTR_MSG = 1

SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NETLINK_GET_STRICT_CHK = 12
SO_ATTACH_FILTER = 26
SO_SNDBUFFORCE = 32
SO_RCVBUFFORCE = 33

HEADER = struct.Struct("=IHHII")
HEADER_LENGTH = HEADER.size
_ATTR = struct.Struct("=HH")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_ERROR = struct.Struct("=i")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")

WANTED_BUFFER = 8 * 1024 * 1024
"""Bytes asked for on both sides; what an unprivileged owner gets is bounded by net.core.{w,r}mem_max."""
RECEIVE_SIZE = 64 * 1024
"""One ``recv``.  The kernel fills up to 32 KiB per dump datagram for a reader this roomy."""
MAX_BATCH = 500
"""Messages in one send."""
_ANSWER_COST = 1280
"""Bytes of receive buffer one error answer with its text takes, bookkeeping included."""
_DUMP_ATTEMPTS = 10


def message(kind: int, flags: int, payload: bytes) -> bytes:
    """One netlink message of type ``kind``; NLM_F_REQUEST is added, length set, the sequence number left 0."""
    return HEADER.pack(HEADER_LENGTH + len(payload), kind, flags | NLM_F_REQUEST, 0, 0) + payload


def attr(kind: int, payload: bytes = b"") -> bytes:
    """One attribute, padded to 4 bytes."""
    length = len(payload)
    return _ATTR.pack(4 + length, kind) + payload + _PADDING[length & 3]


def attr_u32(kind: int, value: int) -> bytes:
    """32 bits in host byte order."""
    return attr(kind, _U32.pack(value))


def attr_text(kind: int, text: str) -> bytes:
    """A zero-terminated string."""
    return attr(kind, text.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes, marked NLA_F_NESTED."""
    return attr(kind | NLA_F_NESTED, b"".join(attributes))


def iterate_attrs(buffer: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Attributes from ``offset`` on in order, types without their flag bits.

    Raises ``NetlinkError`` (EBADMSG) when a length does not fit the buffer.
    """
    end = len(buffer)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(buffer, offset)
        if length < 4 or offset + length > end:
            raise NetlinkError("netlink attribute", errno.EBADMSG, f"length {length} at offset {offset} of {end}")
        yield kind & NLA_TYPE_MASK, buffer[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def parse_attrs(buffer: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, the last of each type; for repeated types (lists) use ``iterate_attrs``."""
    return dict(iterate_attrs(buffer, offset))


def split_messages(buffer: bytes) -> Iterator[bytes]:
    """The messages of one datagram, each with its header.  A broken tail is left out."""
    offset, end = 0, len(buffer)
    while offset + HEADER_LENGTH <= end:
        (length,) = _U32.unpack_from(buffer, offset)
        if length < HEADER_LENGTH or offset + length > end:
            return
        yield buffer[offset : offset + length]
        offset += (length + 3) & ~3


def message_type(msg: bytes) -> int:
    """The ``nlmsg_type`` of a whole message."""
    kind: int = _U16.unpack_from(msg, 4)[0]
    return kind


def parse_error(msg: bytes, what: str = "netlink") -> NetlinkError | None:
    """The error an NLMSG_ERROR (or NLMSG_DONE) message carries, None for an acknowledgement.

    With NETLINK_EXT_ACK the kernel's own sentence is the reason.
    """
    code: int = _ERROR.unpack_from(msg, HEADER_LENGTH)[0] if len(msg) >= HEADER_LENGTH + 4 else 0
    if code >= 0:
        return None
    reason = os.strerror(-code)
    kind, flags = struct.unpack_from("=HH", msg, 4)
    if flags & NLM_F_ACK_TLVS:
        offset = HEADER_LENGTH + 4
        if kind == NLMSG_ERROR:
            (original,) = _U32.unpack_from(msg, offset)
            offset += HEADER_LENGTH if flags & NLM_F_CAPPED else (original + 3) & ~3
        text = parse_attrs(msg, offset).get(NLMSGERR_ATTR_MSG)
        if text:
            reason = f"{reason}: {text.rstrip(bytes(1)).decode(errors='replace')}"
    return NetlinkError(what, -code, reason)


def _open(protocol: int, netns: int | str | None) -> socket.socket:
    def make() -> socket.socket:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)

    sock = make() if netns is None else call_in_netns(netns, make)
    sock.setblocking(False)
    for force, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, WANTED_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain, WANTED_BUFFER)
    return sock


class NetlinkSocket:
    """A request socket of one protocol family.

    ``netns`` (a descriptor or a path) opens it in that network namespace; it stays there for its life.  The ``_now``
    methods never wait and are for worker threads; the others take turns under a lock and yield between sends.
    Use it as a context manager, or call ``close``.
    """

    def __init__(self, protocol: int = NETLINK_ROUTE, *, netns: int | str | None = None) -> None:
        self.protocol = protocol
        self._sock = _open(protocol, netns)
        self._sock.bind((0, 0))
        self.port: int = self._sock.getsockname()[0]
        """This socket's netlink port, the sender in the notifications its requests cause."""
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._sock.setsockopt(SOL_NETLINK, option, 1)
        if protocol == NETLINK_ROUTE:
            self._sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 1
        self._lock = asyncio.Lock()
        self.receive_buffer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        self.send_buffer = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self.max_batch = max(1, min(MAX_BATCH, self.receive_buffer // _ANSWER_COST))
        self.max_bytes = self.send_buffer - 1024
        """The largest send the kernel takes from this socket, in bytes."""

    def __enter__(self) -> NetlinkSocket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    async def request(
        self, messages: Sequence[bytes], *, atomic: bool = False, what: str = "netlink"
    ) -> list[NetlinkError | None]:
        """Carry out ``messages`` in order; the answer for each: None, or the error the kernel gave.

        They are cut into sends of ``max_batch`` messages, each acknowledged once; one that fails does not stop the
        next.  ``atomic`` puts all in one send (an nfnetlink batch) and leaves the ACK flags as the caller set them.
        Raises ``NetlinkError`` when the socket itself fails: EMSGSIZE (larger than ``max_bytes``) or ENOBUFS (answers
        lost; what was done is unknown).
        """
        async with self._lock:
            if atomic:
                return self._exchange(messages, acknowledge_last=False, what=what)
            results: list[NetlinkError | None] = []
            for start, end in self._chunks(messages):
                if start:
                    await asyncio.sleep(0)
                results += self._exchange(messages[start:end], acknowledge_last=True, what=what)
            return results

    def request_now(
        self, messages: Sequence[bytes], *, atomic: bool = False, what: str = "netlink"
    ) -> list[NetlinkError | None]:
        """``request`` for a worker thread that has this socket to itself."""
        if atomic:
            return self._exchange(messages, acknowledge_last=False, what=what)
        results: list[NetlinkError | None] = []
        for start, end in self._chunks(messages):
            results += self._exchange(messages[start:end], acknowledge_last=True, what=what)
        return results

    def execute_now(self, msg: bytes, what: str) -> None:
        """One message that must succeed; raises its ``NetlinkError`` beginning with ``what``."""
        error = self._exchange([msg], acknowledge_last=True, what=what)[0]
        if error is not None:
            raise error

    async def dump(self, msg: bytes, what: str = "netlink dump") -> list[bytes]:
        """The payloads (after ``nlmsghdr``) of all messages the dump request ``msg`` yields, consistent: a dump the
        kernel marks as interrupted is asked again."""
        async with self._lock:
            for _ in range(_DUMP_ATTEMPTS):
                found: list[bytes] = []
                for part in self._dump(msg, what):
                    if part is None:
                        break
                    found += part
                    await asyncio.sleep(0)
                else:
                    return found
        raise NetlinkError(what, errno.EAGAIN, f"the table changed during each of {_DUMP_ATTEMPTS} reads")

    def dump_now(self, msg: bytes, what: str = "netlink dump") -> list[bytes]:
        """``dump`` for a worker thread that has this socket to itself."""
        for _ in range(_DUMP_ATTEMPTS):
            found: list[bytes] = []
            for part in self._dump(msg, what):
                if part is None:
                    break
                found += part
            else:
                return found
        raise NetlinkError(what, errno.EAGAIN, f"the table changed during each of {_DUMP_ATTEMPTS} reads")

    def query_now(self, msg: bytes, what: str = "netlink") -> list[bytes]:
        """Send one request that is answered with data; the payloads of the answers.  Raises ``NetlinkError``."""
        first = self._send([msg])
        found: list[bytes] = []
        for answer in self._drain():
            _, kind, _, seq, _ = HEADER.unpack_from(answer)
            if seq != first:
                continue
            if kind == NLMSG_ERROR:
                error = parse_error(answer, what)
                if error is not None:
                    raise error
            elif kind > NLMSG_OVERRUN:
                found.append(answer[HEADER_LENGTH:])
        return found

    async def query(self, msg: bytes, what: str = "netlink") -> list[bytes]:
        """``query_now`` in its turn."""
        async with self._lock:
            return self.query_now(msg, what)

    def _chunks(self, messages: Sequence[bytes]) -> Iterator[tuple[int, int]]:
        start = size = 0
        for index, msg in enumerate(messages):
            if index > start and (index - start >= self.max_batch or size + len(msg) > self.max_bytes):
                yield start, index
                start, size = index, 0
            size += (len(msg) + 3) & ~3
        if start < len(messages):
            yield start, len(messages)

    def _send(self, messages: Sequence[bytes], *, acknowledge_last: bool = False, what: str = "netlink") -> int:
        """Number and send; the sequence number of the first."""
        first = self._sequence
        self._sequence = (first + len(messages)) & 0x7FFFFFFF or 1
        data = bytearray().join(msg + _PADDING[len(msg) & 3] for msg in messages)
        offset = last = 0
        for index, msg in enumerate(messages):
            _U32.pack_into(data, offset + 8, first + index)
            last = offset
            offset += (len(msg) + 3) & ~3
        if acknowledge_last:
            (flags,) = _U16.unpack_from(data, last + 6)
            _U16.pack_into(data, last + 6, flags | NLM_F_ACK)
        try:
            self._sock.send(data)
        except OSError as error:
            raise NetlinkError(what, error.errno or errno.EIO, error.strerror or str(error)) from None
        return first

    def _exchange(self, messages: Sequence[bytes], *, acknowledge_last: bool, what: str) -> list[NetlinkError | None]:
        results: list[NetlinkError | None] = [None] * len(messages)
        if not messages:
            return results
        first = self._send(messages, acknowledge_last=acknowledge_last, what=what)
        for answer in self._drain(what):
            _, kind, _, seq, _ = HEADER.unpack_from(answer)
            if kind == NLMSG_ERROR and 0 <= seq - first < len(results):
                # nfnetlink may name one message twice; the first error is the cause
                results[seq - first] = results[seq - first] or parse_error(answer, what)
        return results

    def _drain(self, what: str = "netlink") -> Iterator[bytes]:
        """Every message now in the receive queue."""
        while True:
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                raise NetlinkError(what, error.errno or errno.EIO, error.strerror or str(error)) from None
            yield from split_messages(data)

    def _dump(self, msg: bytes, what: str) -> Iterator[list[bytes] | None]:
        """Payloads datagram by datagram; None at the end of a dump that was interrupted."""
        (flags,) = _U16.unpack_from(msg, 6)
        request = bytearray(msg)
        _U16.pack_into(request, 6, flags | NLM_F_DUMP)
        sequence = self._send([bytes(request)], what=what)
        interrupted = False
        while True:
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except OSError as error:
                raise NetlinkError(what, error.errno or errno.EIO, error.strerror or str(error)) from None
            part: list[bytes] = []
            offset, end = 0, len(data)
            while offset + HEADER_LENGTH <= end:
                length, kind, flags, seq, _ = HEADER.unpack_from(data, offset)
                if length < HEADER_LENGTH or offset + length > end:
                    break
                if seq == sequence:
                    interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        failure = parse_error(data[offset : offset + length], what)
                        if failure is not None:
                            raise failure
                        yield part
                        if interrupted:
                            yield None
                        return
                    part.append(data[offset + HEADER_LENGTH : offset + length])
                offset += (length + 3) & ~3
            yield part


class Subscription:
    """A socket that has joined multicast groups (``RTNLGRP_*`` numbers) of ``protocol``."""

    def __init__(self, protocol: int, groups: Iterable[int], *, netns: int | str | None = None) -> None:
        self._sock = _open(protocol, netns)
        self._sock.bind((0, 0))
        for group in groups:
            self._sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def ignore_port(self, port: int) -> None:
        """From now on leave out, in the kernel, notifications of changes that netlink port ``port`` asked for."""
        # Load nlmsg_pid as the filter machine sees it (big-endian), compare, drop or take whole.
        (swapped,) = struct.unpack(">I", _U32.pack(port))
        program = b"".join(
            struct.pack("=HBBI", *instruction)
            for instruction in ((0x20, 0, 0, 12), (0x15, 0, 1, swapped), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
        )
        buffer = ctypes.create_string_buffer(program)
        filter_header = struct.pack("@HP", 4, ctypes.addressof(buffer))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_header)

    async def receive(self, limit: int = 64) -> tuple[list[bytes], bool]:
        """Wait, then take what is there, at most ``limit`` datagrams: the messages, and whether some were lost."""
        await _readable(self._sock)
        messages: list[bytes] = []
        lost = False
        for _ in range(limit):
            try:
                data = self._sock.recv(RECEIVE_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise NetlinkError("netlink notifications", error.errno or errno.EIO, str(error)) from None
                lost = True
                continue
            messages += split_messages(data)
        return messages, lost


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    remove: Callable[[int], bool] = loop.remove_reader
    descriptor = sock.fileno()
    loop.add_reader(descriptor, wake)
    try:
        await ready
    finally:
        remove(descriptor)
