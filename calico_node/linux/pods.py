"""A pod's veth pair, addresses, routes and sysctls.

All of it is synchronous netlink in one worker thread per call: the thread enters the pod's namespace, so the pod's
sysctls are at /proc/sys there, and holds one socket on either side.  The host's route is made exactly as Felix wants
it, so that nobody has to change it afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

from calico_node.errors import CNIError, NetlinkError
from calico_node.linux.namespaces import CLONE_NEWNET, open_own_netns, run_in_thread, setns
from calico_node.linux.netlink import NETLINK_ROUTE, NetlinkSocket
from calico_node.linux.rtnetlink import (
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RTN_UNICAST,
    RTPROT_BOOT,
    Link,
    NextHop,
    Path,
    add_address,
    delete_link,
    encoder,
    family_of,
    get_addresses,
    get_link,
    get_routes,
    new_veth,
    pack_address,
    pack_prefix,
    permanent_neighbour,
    read_address,
    read_link,
    read_route,
    set_link,
)
from calico_node.linux.sysctl import try_write_sysctl, write_sysctl

HOST_MAC = "ee:ee:ee:ee:ee:ee"
GATEWAY_IPV4 = "169.254.1.1"
"""On no interface anywhere: the host's proxy ARP answers for it.

The kernel answers only while it has a route to it on another interface (a default route, mostly); so that a pod works
on a host without one, and sends its first packet without asking, it gets a permanent entry for ``HOST_MAC`` too.
"""
GATEWAY_IPV6 = "fe80::ecee:eeff:feee:eeee"
"""The link-local address that follows from ``HOST_MAC``."""
CONCURRENCY = 16
"""Pods wired at once; the kernel takes them one by one under its RTNL lock anyway."""
_LINK_LOCAL_TIMEOUT = 0.5

CNI_INTERNAL = 999
CNI_INVALID_NETNS = 8
"""The CNI code of Calico's plugin for its own failures."""

T = TypeVar("T")


class PodPlan(NamedTuple):
    """What a pod gets; fields as in ``dataplanes.contract.PodInterface``."""

    interface: str
    host_interface: str
    addresses: tuple[str, ...]
    mtu: int = 0
    mac: str = ""
    allow_ip_forwarding: bool = False
    metric: int = 1024
    queues: int = 1

    @property
    def ipv4(self) -> bool:
        return any(":" not in address for address in self.addresses)

    @property
    def ipv6(self) -> bool:
        return any(":" in address for address in self.addresses)


class _Sides(NamedTuple):
    host: NetlinkSocket
    pod: NetlinkSocket | None
    host_fd: int


async def add_pod(netns_fd: int, plan: PodPlan, *, host_netns: int | None = None) -> str:
    """Wire the pod in the namespace ``netns_fd``; the MAC of its side.

    A host interface of the wanted name is stale and replaced.  Raises ``CNIError``; then nothing is left behind.
    """
    return await _in_thread(netns_fd, lambda fd: _add(_given(fd), plan, host_netns))


async def check_pod(netns_fd: int, plan: PodPlan, *, host_netns: int | None = None) -> None:
    """Raise ``CNIError`` naming what is missing of the pod's wiring."""
    await _in_thread(netns_fd, lambda fd: _check(_given(fd), plan, host_netns))


async def delete_pod(
    netns_fd: int | None, interface: str, host_interface: str, *, host_netns: int | None = None
) -> None:
    """Remove the pair, by either end that is there; nothing there is success."""
    await _in_thread(netns_fd, lambda fd: _delete(fd, interface, host_interface, host_netns))


def _given(fd: int | None) -> int:
    assert fd is not None
    return fd


async def _in_thread(netns_fd: int | None, fn: Callable[[int | None], T]) -> T:
    # The thread outlives a cancelled call, and its caller closes the descriptor then: so it works on its own.
    own = os.dup(netns_fd) if netns_fd is not None else None

    def body() -> T:
        try:
            return fn(own)
        finally:
            if own is not None:
                os.close(own)

    try:
        return await run_in_thread(body)
    except NetlinkError as error:
        raise CNIError(CNI_INTERNAL, str(error)) from error
    except OSError as error:
        raise CNIError(CNI_INTERNAL, f"{error.strerror}: {error.filename or ''}".rstrip(": ")) from error


@contextlib.contextmanager
def _sides(netns_fd: int | None, host_netns: int | None, *, must: bool = True) -> Iterator[_Sides]:
    """Sockets on both sides; on return the calling thread is in the pod's namespace (or the host's, if None).

    Raises ``CNIError`` for a namespace that cannot be a pod's; it counts as None unless ``must``.
    """
    with contextlib.ExitStack() as stack:
        if host_netns is not None:
            setns(host_netns, CLONE_NEWNET)
        host_fd = open_own_netns()
        stack.callback(os.close, host_fd)
        host = stack.enter_context(NetlinkSocket(NETLINK_ROUTE))
        pod = None
        if netns_fd is not None and (fault := _enter(netns_fd, host_fd)):
            if must:
                raise CNIError(CNI_INVALID_NETNS, fault)
        elif netns_fd is not None:
            pod = stack.enter_context(NetlinkSocket(NETLINK_ROUTE))
        yield _Sides(host, pod, host_fd)


def _enter(netns_fd: int, host_fd: int) -> str:
    """Move into the pod's namespace; or why it cannot be a pod's."""
    if os.path.samestat(os.fstat(netns_fd), os.fstat(host_fd)):
        # An ADD would take the host's default route, a DEL its eth0.
        return "CNI_NETNS is the network namespace of the node itself"
    try:
        setns(netns_fd, CLONE_NEWNET)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return "CNI_NETNS is not a network namespace"
    return ""


def _find(sock: NetlinkSocket, name: str) -> Link | None:
    try:
        return read_link(sock.query_now(get_link(name), f"interface {name}")[0])
    except NetlinkError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _add(netns_fd: int, plan: PodPlan, host_netns: int | None) -> str:
    with _sides(netns_fd, host_netns) as (host, pod, host_fd):
        assert pod is not None
        stale = _find(host, plan.host_interface)
        if stale is not None:
            host.execute_now(delete_link(stale.ifindex), f"remove stale {plan.host_interface}")
        host.execute_now(
            new_veth(
                plan.host_interface,
                plan.interface,
                peer_netns=netns_fd,
                mac=HOST_MAC,
                peer_mac=plan.mac,
                mtu=plan.mtu,
                queues=plan.queues,
            ),
            f"make {plan.host_interface} with {plan.interface} in the pod",
        )
        try:
            return _configure(host, pod, netns_fd, host_fd, plan)
        except BaseException:
            link = _find(host, plan.host_interface)
            if link is not None:
                host.request_now([delete_link(link.ifindex)])
            raise


def _configure(host: NetlinkSocket, pod: NetlinkSocket, netns_fd: int, host_fd: int, plan: PodPlan) -> str:
    near, far = _find(host, plan.host_interface), _find(pod, plan.interface)
    if near is None or far is None:
        raise CNIError(CNI_INTERNAL, f"{plan.host_interface} vanished while the pod was being connected")
    _pod_sysctls(plan)
    setns(host_fd, CLONE_NEWNET)
    _host_sysctls(plan)
    host.execute_now(set_link(near.ifindex, up=True), f"raise {plan.host_interface}")
    messages = [set_link(far.ifindex, up=True)]
    paths = _pod_paths(far.ifindex)
    if plan.ipv4:
        messages += [encoder(socket.AF_INET, path).replace(pack_prefix(prefix)) for prefix, path in paths[:2]]
        messages.append(permanent_neighbour(far.ifindex, GATEWAY_IPV4, HOST_MAC))
    messages += [add_address(far.ifindex, address) for address in plan.addresses]
    _all(pod.request_now(messages, what=f"{plan.interface} in the pod"))
    if plan.ipv6:
        _await_link_local(host, near)
        prefix, path = paths[2]
        pod.execute_now(encoder(socket.AF_INET6, path).replace(pack_prefix(prefix)), "IPv6 default route in the pod")
    _host_routes(host, near, plan)
    # Read back: the kernel chose the MAC where none was asked for.
    return far.mac


def _pod_paths(ifindex: int) -> tuple[tuple[str, Path], ...]:
    """IPv4: the gateway on the link, the default route by it; IPv6: the default route by the host's link-local."""
    return (
        (f"{GATEWAY_IPV4}/32", Path(RTN_UNICAST, RT_SCOPE_LINK, RTPROT_BOOT, 0, (NextHop(b"", ifindex),))),
        (
            "0.0.0.0/0",
            Path(RTN_UNICAST, RT_SCOPE_UNIVERSE, RTPROT_BOOT, 0, (NextHop(pack_address(GATEWAY_IPV4), ifindex),)),
        ),
        (
            "::/0",
            Path(RTN_UNICAST, RT_SCOPE_UNIVERSE, RTPROT_BOOT, 1024, (NextHop(pack_address(GATEWAY_IPV6), ifindex),)),
        ),
    )


def _all(answers: list[NetlinkError | None]) -> None:
    for error in answers:
        if error is not None:
            raise error


def _pod_sysctls(plan: PodPlan) -> None:
    """Called in the pod's namespace, before its interface is up."""
    forwarding = int(plan.allow_ip_forwarding)
    if plan.ipv4:
        write_sysctl("net/ipv4/ip_forward", forwarding)
    if plan.ipv6:
        for scope in ("all", "default", "lo", plan.interface):
            write_sysctl(f"net/ipv6/conf/{scope}/disable_ipv6", 0)
        write_sysctl(f"net/ipv6/conf/{plan.interface}/accept_dad", 0)
        write_sysctl("net/ipv6/conf/all/forwarding", forwarding)


def _host_sysctls(plan: PodPlan) -> None:
    """Called in the host's namespace; ``rp_filter`` is Felix's to set."""
    name = plan.host_interface
    try_write_sysctl(f"net/ipv6/conf/{name}/accept_ra", 0)
    if plan.ipv4:
        write_sysctl(f"net/ipv4/conf/{name}/route_localnet", 1)
        # At the default of 0.8 s the pod's first packet would wait that long for an ARP answer.
        try_write_sysctl(f"net/ipv4/neigh/{name}/proxy_delay", 0)
        write_sysctl(f"net/ipv4/conf/{name}/proxy_arp", 1)
        write_sysctl(f"net/ipv4/conf/{name}/forwarding", 1)
    if plan.ipv6:
        write_sysctl(f"net/ipv6/conf/{name}/accept_dad", 0)
        write_sysctl(f"net/ipv6/conf/{name}/disable_ipv6", 0)
        write_sysctl(f"net/ipv6/conf/{name}/proxy_ndp", 1)
        write_sysctl(f"net/ipv6/conf/{name}/forwarding", 1)


def _await_link_local(host: NetlinkSocket, near: Link) -> None:
    """The pod's IPv6 gateway is the host side's link-local address: wait until it can answer."""
    deadline = time.monotonic() + _LINK_LOCAL_TIMEOUT
    while True:
        for payload in host.dump_now(get_addresses(socket.AF_INET6, near.ifindex), "read addresses"):
            address = read_address(payload)
            if address is not None and address.address.startswith(f"{GATEWAY_IPV6}/") and not address.tentative:
                return
        if time.monotonic() > deadline:
            raise CNIError(CNI_INTERNAL, f"{near.name} got no IPv6 link-local address {GATEWAY_IPV6}")
        time.sleep(0.005)


def _host_path(near: Link, plan: PodPlan, prefix: bytes) -> Path:
    scope = RT_SCOPE_LINK if len(prefix) == 5 else RT_SCOPE_UNIVERSE
    return Path(RTN_UNICAST, scope, RTPROT_BOOT, plan.metric, (NextHop(b"", near.ifindex),))


def _host_routes(host: NetlinkSocket, near: Link, plan: PodPlan) -> None:
    prefixes = [pack_prefix(address) for address in plan.addresses]
    answers = host.request_now(
        [encoder(family_of(prefix), _host_path(near, plan, prefix)).add(prefix) for prefix in prefixes]
    )
    for address, prefix, error in zip(plan.addresses, prefixes, answers, strict=True):
        if error is None:
            continue
        if error.errno != errno.EEXIST:
            raise NetlinkError(f"route {address} to {near.name}", error.errno, str(error))
        present = _route(host, prefix, plan.metric)
        if present is not None and all(hop.ifindex == near.ifindex for hop in present.hops):
            continue
        index = present.hops[0].ifindex if present is not None and present.hops else 0
        raise CNIError(
            CNI_INTERNAL, f"route {address} already exists for an interface other than {near.name!r}: index {index}"
        )


def _route(sock: NetlinkSocket, prefix: bytes, metric: int) -> Path | None:
    for payload in sock.dump_now(get_routes(family_of(prefix)), "read routes"):
        route = read_route(payload)
        if route is not None and route[0] == prefix and route[1].metric == metric:
            return route[1]
    return None


def _check(netns_fd: int, plan: PodPlan, host_netns: int | None) -> None:
    with _sides(netns_fd, host_netns) as (host, pod, _):
        assert pod is not None
        near, far = _find(host, plan.host_interface), _find(pod, plan.interface)
        for link, name, place in ((near, plan.host_interface, "on the host"), (far, plan.interface, "in the pod")):
            if link is None:
                raise CNIError(CNI_INTERNAL, f"interface {name} is missing {place}")
            if not link.up:
                raise CNIError(CNI_INTERNAL, f"interface {name} is down {place}")
        assert near is not None
        assert far is not None
        held = {
            address.address
            for payload in pod.dump_now(get_addresses(0, far.ifindex), "read addresses")
            if (address := read_address(payload)) is not None
        }
        for wanted in plan.addresses:
            if wanted not in held:
                raise CNIError(CNI_INTERNAL, f"address {wanted} is missing on {plan.interface}")
            present = _route(host, pack_prefix(wanted), plan.metric)
            if present is None or all(hop.ifindex != near.ifindex for hop in present.hops):
                raise CNIError(CNI_INTERNAL, f"route {wanted} to {plan.host_interface} is missing")


def _delete(netns_fd: int | None, interface: str, host_interface: str, host_netns: int | None) -> None:
    with _sides(netns_fd, host_netns, must=False) as (host, pod, _):
        for sock, name in ((host, host_interface), (pod, interface)):
            if sock is None or not name:
                continue
            link = _find(sock, name)
            if link is None:
                continue
            error = sock.request_now([delete_link(link.ifindex)], what=f"remove {name}")[0]
            if error is not None and error.errno != errno.ENODEV:
                raise error
