"""The files around the database: the lock, the notification file and what file systems can carry them.

SQLite's own locking is not enough for us: releases before 3.51.3 can corrupt a WAL database when two connections
write or checkpoint at once, so opening, writing, checkpointing and closing happen under ``flock`` on ``<db>-lock``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from calico_node.errors import DatastoreError

LOCK_TIMEOUT = 30.0
_FIRST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.002

_FUSE_MAGIC = 0x65735546
_REFUSED_MAGICS = {
    0x6969: "NFS",
    0x01021997: "9p",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
}
# Local file systems that merely happen to be served by FUSE.
_LOCAL_FUSE_TYPES = frozenset({"fuseblk", "fuse.fuse-overlayfs", "fuse.ntfs-3g"})

_libc = ctypes.CDLL(None, use_errno=True)

_IN_MODIFY = 0x2
_IN_ATTRIB = 0x4
_IN_DELETE_SELF = 0x400
_IN_MOVE_SELF = 0x800
_IN_IGNORED = 0x8000


def _leads_to(path: Path, fd: int) -> bool:
    """Whether ``path`` is still the file that is open as ``fd``."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    own = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino)


class FileLock:
    """An exclusive ``flock`` on ``path``, for use by one thread.

    Polls instead of blocking, so that a holder which hangs (a stopped process) becomes an error after ``timeout``
    seconds and not a thread that can never be ended.  A file that was removed is made anew, with what it remembers:
    a lock on a file that nobody else finds would exclude nobody.
    """

    def __init__(self, path: Path, timeout: float = LOCK_TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __enter__(self) -> None:
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _leads_to(self._path, self._fd):
                    return
                self._renew()
                continue
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatastoreError(
                        f"{self._path}: another process has held the lock for more than {self._timeout:.0f} s; "
                        f"`fuser {self._path}` shows which"
                    ) from None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _renew(self) -> None:
        remembers = self.remembers
        try:
            fd = self._open()
        except OSError:  # its folder is gone
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            raise
        os.close(self._fd)
        self._fd = fd
        if remembers:
            self.remember()

    @property
    def remembers(self) -> bool:
        """Whether there has been a database beside this file."""
        return os.fstat(self._fd).st_size > 0

    def remember(self) -> None:
        """Note that there is a database beside this file.  Nothing is noted where the disk is full."""
        with suppress(OSError):
            os.pwrite(self._fd, b"\n", 0)

    def close(self) -> None:
        os.close(self._fd)


# Where a SQLite connection holds a read lock on the file for as long as it is open.
_SHARED_FIRST, _SHARED_SIZE = 0x40000002, 510


def log_files(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Which files are the write-ahead log and its index; None for one that is not there."""
    found: list[tuple[int, int] | None] = []
    for end in ("-wal", "-shm"):
        try:
            status = os.stat(f"{path}{end}")
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def check_log(path: Path) -> None:
    """Under the lock, before opening: raise ``DatastoreError`` where the log was removed below another process.

    What it holds is then in no file that a newcomer finds, and the newcomer's own log would be another one.
    """
    if None not in log_files(path) or not path.is_file():
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _lock_words(fcntl.F_WRLCK))
    finally:
        os.close(fd)
    kind, _, _, _, pid = struct.unpack("hhqqi4x", answer)
    if kind != fcntl.F_UNLCK:
        raise DatastoreError(
            f"{path}: {path.name}-wal or {path.name}-shm was removed while process {pid} has it open; it puts that "
            "right within seconds: try again"
        )


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Meanwhile nobody who closes the store counts as the last one, who would remove the log."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_words(fcntl.F_RDLCK))
        yield
    finally:
        os.close(fd)


def _lock_words(kind: int) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)


class Notifier:
    """The ``<db>-notify`` file: written after each commit, watched by inotify in every process.

    inotify on the WAL itself wakes readers before the commit is visible and never again after it; this file is
    written when the commit can be seen.  ``fileno`` is -1 where the kernel grants no inotify instance (the per-user
    limit): the engine then polls.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.fileno = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fileno >= 0:
            self._watch()

    def _watch(self) -> None:
        mask = _IN_MODIFY | _IN_ATTRIB | _IN_DELETE_SELF | _IN_MOVE_SELF
        if _libc.inotify_add_watch(self.fileno, os.fsencode(self._path), mask) < 0:
            os.close(self.fileno)
            self.fileno = -1

    def notify(self) -> None:
        """Tell every process, this one included, that a commit has become visible."""
        os.pwrite(self._fd, b"\n", 0)

    def drain(self) -> bool:
        """Take all queued inotify events; False when the notification file was replaced or removed."""
        intact = True
        while True:
            try:
                data = os.read(self.fileno, 65536)
            except BlockingIOError:
                return intact
            offset = 0
            while offset < len(data):
                _, mask, _, length = struct.unpack_from("iIII", data, offset)
                offset += 16 + length
                if mask & (_IN_DELETE_SELF | _IN_MOVE_SELF | _IN_IGNORED):
                    intact = False

    def missing(self) -> bool:
        """Whether the path no longer leads to the file this object has open."""
        return not _leads_to(self._path, self._fd)

    def close(self) -> None:
        os.close(self._fd)
        if self.fileno >= 0:
            os.close(self.fileno)


def check_filesystem(directory: Path) -> None:
    """Raise ``DatastoreError`` where shared memory maps and locks do not hold between processes (NFS, 9p, …)."""
    name = _refused_filesystem(_filesystem_magic(directory), directory)
    if name:
        raise DatastoreError(
            f"{directory}: the embedded datastore cannot live on {name}, whose locks and shared memory do not hold "
            "between processes; set CALICO_DATASTORE_PATH to a file on a local disk"
        )


def _filesystem_magic(directory: Path) -> int:
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(directory), buffer) != 0:
        code = ctypes.get_errno()
        raise DatastoreError(f"{directory}: {os.strerror(code or errno.EIO)}")
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF


def _refused_filesystem(magic: int, directory: Path) -> str:
    if magic in _REFUSED_MAGICS:
        return _REFUSED_MAGICS[magic]
    if magic == _FUSE_MAGIC:
        kind = _mount_type(directory.resolve(), Path("/proc/self/mountinfo").read_text())
        if kind not in _LOCAL_FUSE_TYPES:
            return kind
    return ""


def _mount_type(directory: Path, mountinfo: str) -> str:
    """The file system type of the mount that holds ``directory``, from the text of /proc/self/mountinfo."""
    best, kind = "", "fuse"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split(" ")[4].replace("\\040", " ")
        if len(point) >= len(best) and (directory == Path(point) or Path(point) in directory.parents):
            best, kind = point, after.split(" ")[0]
    return kind
