"""Kernel parameters below /proc/sys/net, of the calling thread's network namespace."""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)


def read_sysctl(path: str) -> str:
    """The value of ``path`` (``net/ipv4/ip_forward``), stripped.  Raises ``OSError``."""
    with open(f"/proc/sys/{path}") as file:
        return file.read().strip()


def write_sysctl(path: str, value: int | str) -> None:
    """Write ``path`` unless it has that value: in a user namespace some may be read but not written.

    Raises ``OSError``.
    """
    text = str(value)
    fd = os.open(f"/proc/sys/{path}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.read(fd, 256).strip() == text.encode():
            return
    finally:
        os.close(fd)
    fd = os.open(f"/proc/sys/{path}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def try_write_sysctl(path: str, value: int | str) -> bool:
    """``write_sysctl`` where failing is only worth a line in the log; whether it worked."""
    try:
        write_sysctl(path, value)
    except OSError as error:
        log.debug("sysctl %s = %s: %s", path, value, error.strerror)
        return False
    return True


def prepare_kernel(*, ip_forwarding: bool = True) -> None:
    """What a node's kernel needs: forwarding in both families (FelixConfiguration ipForwarding) and accounting in
    connection tracking.  Raises ``OSError`` when IPv4 forwarding cannot be switched on; the others are tried."""
    if ip_forwarding:
        write_sysctl("net/ipv4/ip_forward", 1)
        try_write_sysctl("net/ipv6/conf/all/forwarding", 1)
    try_write_sysctl("net/netfilter/nf_conntrack_acct", 1)


def configure_workload_interface(
    name: str, *, ipv4: bool = True, ipv6: bool = False, rp_filter: int | None = None
) -> None:
    """The parameters of a workload's host-side interface, each only where it differs.

    ``rp_filter`` None takes ``net.ipv4.conf.default.rp_filter``; 0 belongs to endpoints that may spoof sources.
    Raises ``OSError`` when a mandatory one cannot be written: the endpoint is then not usable.  Blocks for some tens
    of microseconds.
    """
    try_write_sysctl(f"net/ipv6/conf/{name}/accept_ra", 0)
    if ipv4:
        write_sysctl(f"net/ipv4/conf/{name}/route_localnet", 1)
        try_write_sysctl(f"net/ipv4/neigh/{name}/proxy_delay", 0)
        write_sysctl(f"net/ipv4/conf/{name}/proxy_arp", 1)
        write_sysctl(f"net/ipv4/conf/{name}/forwarding", 1)
        if rp_filter is None:
            rp_filter = int(read_sysctl("net/ipv4/conf/default/rp_filter"))
        write_sysctl(f"net/ipv4/conf/{name}/rp_filter", rp_filter)
    if ipv6:
        write_sysctl(f"net/ipv6/conf/{name}/proxy_ndp", 1)
        write_sysctl(f"net/ipv6/conf/{name}/forwarding", 1)
