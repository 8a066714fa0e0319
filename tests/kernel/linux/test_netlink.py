"""The netlink socket and namespaces against the kernel."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
from pathlib import Path

import pytest

from calico_node.errors import NetlinkError
from calico_node.linux import namespaces, netlink, rtnetlink
from calico_node.linux.conntrack import flush_conntrack
from calico_node.linux.links import set_static_neighbour, watch_links
from calico_node.linux.sysctl import configure_workload_interface, read_sysctl
from tests.kernel.linux.helpers import ip

PATH = rtnetlink.Path(rtnetlink.RTN_BLACKHOLE, 0, 80, 0)


def test_each_message_of_a_large_batch_has_its_own_answer(netns: int) -> None:
    encoder = rtnetlink.encoder(2, PATH)
    prefixes = [rtnetlink.pack_prefix(f"100.{index >> 8}.{index & 255}.0/24") for index in range(1200)]
    messages = [encoder.add(prefix) for prefix in prefixes]
    messages[700] = encoder.add(prefixes[3])

    async def main() -> list[NetlinkError | None]:
        with netlink.NetlinkSocket(netns=netns) as sock:
            return await sock.request(messages, what="route")

    answers = asyncio.run(main())
    assert [index for index, error in enumerate(answers) if error is not None] == [700]
    error = answers[700]
    assert error is not None
    assert error.errno == errno.EEXIST
    assert ip(netns, "route show type blackhole").count("\n") == 1199


@pytest.mark.parametrize("wanted", [2304, 212_992, netlink.WANTED_BUFFER])
def test_every_message_of_a_batch_may_fail_whatever_the_buffers(
    netns: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """212,992 (net.core.rmem_max) is the most a user namespace gets on a stock Debian."""
    monkeypatch.setattr(netlink, "WANTED_BUFFER", wanted)
    path = rtnetlink.Path(
        rtnetlink.RTN_UNICAST, 0, 12, 0, (rtnetlink.NextHop(rtnetlink.pack_address("10.9.9.9"), 0),)
    )
    add = rtnetlink.encoder(2, path).add(rtnetlink.pack_prefix("100.0.0.0/24"))
    with netlink.NetlinkSocket(netns=netns) as sock:
        answers = sock.request_now([add] * 1500)
        routes = sock.dump_now(rtnetlink.get_routes(2))
    assert [error.errno for error in answers if error is not None] == [errno.ENETUNREACH] * 1500
    assert len(routes) == 1


def test_a_dump_is_whole_and_notifications_leave_out_an_ignored_port(netns: int) -> None:
    async def main() -> None:
        encoder = rtnetlink.encoder(2, PATH)
        with netlink.NetlinkSocket(netns=netns) as own, netlink.NetlinkSocket(netns=netns) as other:
            group = (rtnetlink.RTNLGRP_IPV4_ROUTE,)
            with netlink.Subscription(netlink.NETLINK_ROUTE, group, netns=netns) as subscription:
                subscription.ignore_port(own.port)
                await own.request([encoder.add(rtnetlink.pack_prefix(f"100.64.{n}.0/24")) for n in range(200)])
                await other.request([encoder.add(rtnetlink.pack_prefix("100.65.0.0/24"))])
                messages, lost = await asyncio.wait_for(subscription.receive(), 2)
            assert not lost
            found = [rtnetlink.read_route(msg[netlink.HEADER_LENGTH :]) for msg in messages]
            assert found == [(rtnetlink.pack_prefix("100.65.0.0/24"), PATH)]
            routes = [rtnetlink.read_route(payload) for payload in await own.dump(rtnetlink.get_routes(2))]
            assert sum(route is not None and route[1] == PATH for route in routes) == 201

    asyncio.run(main())


def test_an_overrun_of_notifications_is_said(netns: int) -> None:
    async def main() -> None:
        group = (rtnetlink.RTNLGRP_IPV4_ROUTE,)
        with (
            netlink.NetlinkSocket(netns=netns) as sock,
            netlink.Subscription(netlink.NETLINK_ROUTE, group, netns=netns) as subscription,
        ):
            encoder = rtnetlink.encoder(2, PATH)
            prefixes = [
                rtnetlink.pack_prefix(f"{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}.0/24") for n in range(40000)
            ]
            for start in range(0, len(prefixes), 400):
                sock.request_now([encoder.add(prefix) for prefix in prefixes[start : start + 400]])
            seen, lost = 0, False
            while not lost and seen < len(prefixes):
                messages, lost = await asyncio.wait_for(subscription.receive(), 5)
                seen += len(messages)
            assert lost or seen == len(prefixes)

    asyncio.run(main())


def test_links_come_as_events(netns: int) -> None:
    async def main() -> None:
        views = watch_links(netns=netns)
        view = await anext(views)
        assert {"lo", "eth0", "cali1"} <= view.up
        ip(netns, "link set pod1 down")
        while "cali1" in view.up:
            view = await asyncio.wait_for(anext(views), 2)
        ip(netns, "link del cali1")
        while "cali1" in view.links:
            view = await asyncio.wait_for(anext(views), 2)
        assert "cali1" in view.changed
        await views.aclose()

    asyncio.run(main())


def test_a_workload_interface_gets_its_parameters(netns: int) -> None:
    def read() -> list[str]:
        names = ("route_localnet", "proxy_arp", "forwarding", "rp_filter")
        values = [read_sysctl(f"net/ipv4/conf/cali1/{name}") for name in names]
        return [
            *values,
            read_sysctl("net/ipv4/neigh/cali1/proxy_delay"),
            read_sysctl("net/ipv6/conf/cali1/accept_ra"),
        ]

    def configure() -> list[str]:
        configure_workload_interface("cali1", rp_filter=1)
        return read()

    assert namespaces.call_in_netns(netns, configure) == ["1", "1", "1", "1", "0", "0"]
    with pytest.raises(FileNotFoundError):
        namespaces.call_in_netns(netns, lambda: configure_workload_interface("absent"))


def test_a_static_neighbour_is_permanent(netns: int) -> None:
    asyncio.run(set_static_neighbour("cali1", "10.65.0.1", "02:00:00:00:00:01", netns=netns))
    assert "10.65.0.1 lladdr 02:00:00:00:00:01 PERMANENT" in ip(netns, "neigh show dev cali1")
    with pytest.raises(NetlinkError, match="absent"):
        asyncio.run(set_static_neighbour("absent", "10.65.0.1", "02:00:00:00:00:01", netns=netns))


def _tracked(netns: int) -> int:
    """How many connection-tracking entries the namespace has."""
    with netlink.NetlinkSocket(netlink.NETLINK_NETFILTER, netns=netns) as sock:
        return len(sock.dump_now(netlink.message(1 << 8 | 1, 0, bytes((2, 0, 0, 0)))))


def test_conntrack_entries_of_an_address_go_and_others_stay(netns: int) -> None:
    ip(netns, "addr add 10.65.0.1/32 dev lo;addr add 10.65.0.2/32 dev lo;addr add 10.65.0.3/32 dev lo")
    rules = "table ip calico-test { chain output { type filter hook output priority 0; ct state new accept; }; }"
    nft = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns}", "nft", "-f", "-"]
    subprocess.run(nft, input=rules.encode(), check=True, timeout=10)

    def talk() -> None:
        for source, target in (("10.65.0.1", "10.65.0.3"), ("10.65.0.3", "10.65.0.1"), ("10.65.0.2", "10.65.0.3")):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 0))
                sock.sendto(b"x", (target, 9))

    namespaces.call_in_netns(netns, talk)
    before = _tracked(netns)
    assert before >= 3
    assert flush_conntrack([rtnetlink.pack_address("10.65.0.1")], netns=netns) == 2
    assert _tracked(netns) == before - 2
    many = [rtnetlink.pack_address(f"10.65.1.{n}") for n in range(40)] + [rtnetlink.pack_address("10.65.0.2")]
    assert flush_conntrack(many, netns=netns) == 1
    assert flush_conntrack([rtnetlink.pack_address("fd00::1")], netns=netns) == 0


def test_namespaces_are_made_named_and_entered(tmp_path: Path) -> None:
    path = str(tmp_path / "named")
    fd = namespaces.make_named_netns(path)
    try:
        own = namespaces.open_own_netns()
        inside = namespaces.call_in_netns(path, namespaces.open_own_netns)
        assert namespaces.netns_id(inside) == namespaces.netns_id(fd) != namespaces.netns_id(own)
        assert asyncio.run(namespaces.run_in_netns(fd, lambda: os.listdir("/proc/sys/net/ipv4/conf"))) != []
        with pytest.raises(FileExistsError):
            namespaces.make_named_netns(path)
        for descriptor in (own, inside):
            os.close(descriptor)
    finally:
        namespaces.remove_named_netns(path)
        os.close(fd)
    assert not os.path.exists(path)
    namespaces.remove_named_netns(path)


def test_an_error_inside_a_namespace_comes_out(netns: int) -> None:
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        asyncio.run(namespaces.run_in_netns(netns, fail))
