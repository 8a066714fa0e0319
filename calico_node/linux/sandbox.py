"""A user namespace in which an ordinary user is root, and the loopback of a new network namespace."""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from calico_node.linux.namespaces import CLONE_NEWNET, CLONE_NEWUSER, unshare

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1


def enter_user_namespace() -> None:
    """Make a user namespace in which the caller's own user and group are root, and enter it.

    The process must have a single thread.  Raises ``OSError`` where the kernel or its policy refuses.
    """
    uid, gid = os.getuid(), os.getgid()
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def raise_loopback() -> None:
    """Set ``lo`` of the calling thread's network namespace up.  Raises ``OSError``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, _SIOCGIFFLAGS, asked))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | _IFF_UP))


def enter_private_network() -> None:
    """Give the process an own network namespace and raise ``lo`` in it.

    That this works is the only proof that namespaces may be used here: some systems let ``unshare`` itself through
    and refuse everything afterwards.  Raises ``OSError``.
    """
    unshare(CLONE_NEWNET)
    raise_loopback()
