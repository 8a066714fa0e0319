"""Network, user, mount and PID namespaces by their system calls.

Python 3.11 has neither ``os.setns`` nor ``os.unshare``; libc's are called through ctypes.  A thread that entered
another network namespace is never reused: each call runs in a thread of its own, which ends with it.  User, mount and
PID namespaces can be entered only while the process has a single thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def setns(fd: int, kind: int = 0) -> None:
    """Move the calling thread into the namespace ``fd`` refers to (setns(2)).  Raises ``OSError``."""
    _call(_libc.setns(fd, kind), "setns")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (unshare(2), CLONE_NEW* flags).  Raises ``OSError``."""
    _call(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, filesystem: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2).  Raises ``OSError`` naming the target."""
    _call(
        _libc.mount(
            source.encode(),
            target.encode(),
            filesystem.encode() or None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        ),
        f"mount {source} on {target}",
    )


def unmount(target: str, flags: int = MNT_DETACH) -> None:
    """umount2(2).  Raises ``OSError`` naming the target."""
    _call(_libc.umount2(target.encode(), flags), f"umount {target}")


def bind_mount(source: str, target: str, *, recursive: bool = False) -> None:
    """Show ``source`` at ``target`` (which must exist and be of the same kind, file or folder)."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))


def set_parent_death_signal(signal: int) -> None:
    """Have the kernel send this process ``signal`` when the thread that forked it ends (prctl PR_SET_PDEATHSIG)."""
    _call(_libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal), 0, 0, 0), "prctl PR_SET_PDEATHSIG")


def open_netns(path: str) -> int:
    """A descriptor for the network namespace at ``path`` (``/run/netns/x``, ``/proc/N/ns/net``)."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def open_own_netns() -> int:
    """A descriptor for the calling thread's network namespace."""
    return open_netns("/proc/thread-self/ns/net")


def netns_id(fd: int) -> tuple[int, int]:
    """What tells one namespace from another: device and inode."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def make_netns() -> int:
    """A new network namespace without a name; it lives as long as the returned descriptor (or a member) does."""

    def make() -> int:
        unshare(CLONE_NEWNET)
        return open_own_netns()

    return call_in_thread(make)


def make_named_netns(path: str) -> int:
    """A new network namespace bound at ``path``, as ``ip netns add`` does; returns a descriptor too.

    Raises ``FileExistsError`` when the path is taken.  ``remove_named_netns`` undoes it.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))

    def make() -> int:
        unshare(CLONE_NEWNET)
        # From the process's mount namespace, which this thread shares: only the network namespace is new.
        bind_mount("/proc/thread-self/ns/net", path)
        return open_own_netns()

    try:
        return call_in_thread(make)
    except BaseException:
        os.unlink(path)
        raise


def remove_named_netns(path: str) -> None:
    """Take the name away; nothing there is success."""
    with contextlib.suppress(OSError):
        unmount(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@contextlib.contextmanager
def netns_descriptor(netns: int | str) -> Iterator[int]:
    """``netns`` as a descriptor; one opened here is closed again."""
    if isinstance(netns, int):
        yield netns
        return
    fd = open_netns(netns)
    try:
        yield fd
    finally:
        os.close(fd)


def call_in_thread(fn: Callable[[], T]) -> T:
    """Run ``fn`` in a thread made for it and wait; its exception is raised here."""
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(fn())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="namespace", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _inside(netns: int | str, fn: Callable[[], T]) -> Callable[[], T]:
    def body() -> T:
        with netns_descriptor(netns) as fd:
            setns(fd, CLONE_NEWNET)
        return fn()

    return body


def call_in_netns(netns: int | str, fn: Callable[[], T]) -> T:
    """Run ``fn`` in the network namespace ``netns`` (descriptor or path) and wait for it.

    For short work: opening a socket, writing a sysctl.  Sockets opened there stay there.
    """
    return call_in_thread(_inside(netns, fn))


async def run_in_netns(netns: int | str, fn: Callable[[], T]) -> T:
    """``call_in_netns`` without holding the event loop.  Cancelling does not stop ``fn``, only the waiting for it;
    the descriptor may be closed at once then."""
    if not isinstance(netns, int):
        return await run_in_thread(_inside(netns, fn))
    own = os.dup(netns)

    def body() -> T:
        try:
            return _inside(own, fn)()
        finally:
            os.close(own)

    return await run_in_thread(body)


async def run_in_thread(fn: Callable[[], T]) -> T:
    """Run ``fn`` in a thread made for it (never one of a pool, so it may change namespaces)."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def body() -> None:
        result: T | None = None
        failure: BaseException | None = None
        try:
            result = fn()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(deliver, result, failure)

    threading.Thread(target=body, name="namespace", daemon=True).start()
    return await future
