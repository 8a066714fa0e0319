"""Adoption, drift repair, failure of single objects, and how little is written."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from structlog.testing import capture_logs

from calico_node.dataplanes.contract import (
    ActivePolicyRemove,
    ConfigUpdate,
    DataplaneRule,
    HostEndpointUpdate,
    InSync,
    IPPoolUpdate,
    IPSetDeltaUpdate,
    IPSetRemove,
    IPSetType,
    IPSetUpdate,
    ObjectState,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables.store import Store
from calico_node.model import Port
from tests.kernel.nftables.conftest import ALLOW_ALL, Driver, endpoint, ingress, key, policy
from tests.kernel.nftables.world import Place, World, tcp, tcp_stream

A, B = "10.65.0.1", "10.65.0.2"
WEB = DataplaneRule("allow", protocol="tcp", dst_ports=(Port(80, 80), Port(8000, 8080)), src_ip_set_ids=("s:x",))
CLIENTS = IPSetUpdate("s:x", IPSetType.NET, frozenset({f"{A}/32", "10.66.0.0/16"}))


@pytest.fixture
def pods(world: World) -> tuple[Place, Place]:
    a, b = world.pod("a", A), world.pod("b", B)
    b.listen(80, 81)
    return a, b


def generation(driver: Driver) -> int:
    store = driver.dataplane._store
    assert store is not None
    return store.generation()


def test_unchanged_batches_write_nothing(pods, driver):
    messages = (CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    driver.sync(*messages)
    before = generation(driver)
    applied = driver.sync(*messages)
    assert applied.revision == 2
    driver.apply()
    assert generation(driver) == before


def test_a_new_instance_adopts_what_is_right_and_counters_survive(world, pods, driver):
    a, b = pods
    messages = (CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    driver.sync(*messages)
    assert tcp(a, B, 80)
    counted = world.counters("filter-cali-pi-np/default/web")
    assert counted == [1]
    with tcp_stream(a, b, 8080) as works:
        driver.restart()
        before = generation(driver)
        assert works()
        assert tcp(a, B, 80), "in force before anything is known"
        assert not tcp(a, B, 81)
        assert driver.apply(ALLOW_ALL, *messages).revision == 0, "nothing is done before in-sync"
        driver.apply(InSync())
        assert generation(driver) == before, "nothing was written"
        assert works()
    assert world.counters("filter-cali-pi-np/default/web") == [3]


def test_a_new_instance_changes_only_what_differs_and_cleans_up_after_in_sync(world, pods, driver):
    a, _ = pods
    driver.sync(CLIENTS, policy("web", WEB), policy("old"), endpoint("a"), endpoint("b", ingress("web", "old")))
    assert tcp(a, B, 80)
    driver.restart()
    new = IPSetUpdate("s:y", IPSetType.NET, frozenset({"10.1.0.0/16"}))
    driver.apply(ALLOW_ALL, CLIENTS, new, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    assert "filter-cali-pi-np/default/old" in world.nft("list table ip calico")
    driver.apply(InSync())
    listed = world.nft("list table ip calico")
    assert "old" not in listed
    assert "cali40s-y" in listed
    assert world.counters("filter-cali-pi-np/default/web") == [1], "the web policy's chain was left alone"
    assert tcp(a, B, 80)


def test_endpoints_gone_while_away_are_closed_after_in_sync(world, pods, driver):
    a, _ = pods
    driver.sync(endpoint("a"), endpoint("b"))
    driver.restart()
    driver.sync(endpoint("a"))
    assert not tcp(a, B, 80)
    listed = world.nft("list table ip calico")
    assert "calib" not in listed


def test_table_deleted_by_somebody_else_is_rebuilt(world, pods, driver):
    a, _ = pods
    driver.sync(CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    assert driver.repair(thorough=False) is False
    world.nft("delete table ip calico")
    with capture_logs() as said:
        assert driver.repair(thorough=False) is True
    assert any("deleted the policy tables" in line["event"] for line in said)
    assert tcp(a, B, 80)
    assert not tcp(a, B, 81)
    world.nft("delete table ip calico")
    driver.apply(IPSetDeltaUpdate("s:x", removed=frozenset({f"{A}/32"})))
    assert not tcp(a, B, 80)
    driver.apply(IPSetDeltaUpdate("s:x", added=frozenset({f"{A}/32"})))
    assert tcp(a, B, 80), "an apply alone finds out too"


def test_foreign_changes_are_put_back_without_a_flush(world, pods, driver):
    a, _ = pods
    driver.sync(CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    assert tcp(a, B, 80)
    world.nft("insert rule ip calico filter-cali-tw-calib accept")
    world.nft("add rule ip calico filter-cali-from-wl-dispatch accept")
    world.nft("delete element ip calico cali40s-x { 10.65.0.1 }")
    world.nft("add element ip calico cali40s-x { 10.77.0.0/16 }")
    world.nft("add chain ip calico filter-cali-stranger")
    world.nft("add table ip somebody-else")
    assert driver.repair(thorough=True) is True
    listed = world.nft("list table ip calico")
    assert "stranger" not in listed
    assert "10.77" not in listed
    assert tcp(a, B, 80)
    assert not tcp(a, B, 81)
    assert world.counters("filter-cali-pi-np/default/web") == [2]
    assert "somebody-else" in world.nft("list tables")
    before = generation(driver)
    assert driver.repair(thorough=True) is True
    assert generation(driver) == before


def test_a_rule_that_cannot_be_rendered_closes_its_policy_alone(pods, driver):
    a, _ = pods
    bad = DataplaneRule("allow", dst_ports=(Port(80, 80),))
    applied = driver.sync(
        CLIENTS, policy("web", WEB), policy("bad", bad), endpoint("a"), endpoint("b", ingress("bad", "web"))
    )
    assert applied.status[key("bad")].state is ObjectState.ERROR
    assert "rule 1: ports need protocol" in applied.status[key("bad")].reason
    assert applied.status[endpoint("a").id].state is ObjectState.UP
    assert not tcp(a, B, 80), "closed, not left out"
    applied = driver.apply(policy("bad", DataplaneRule("allow", protocol="tcp", dst_ports=(Port(443, 443),))))
    assert applied.status[key("bad")].state is ObjectState.UP
    assert tcp(a, B, 80)


def test_what_the_kernel_refuses_is_closed_and_the_rest_goes_on(pods, driver):
    a, b = pods
    # Overlapping members break the contract; only the kernel notices.
    broken = IPSetUpdate("s:broken", IPSetType.NET, frozenset({"10.0.0.0/8", "10.65.0.0/24"}))
    applied = driver.sync(
        CLIENTS,
        broken,
        policy("web", WEB),
        policy("broken", DataplaneRule("allow", src_ip_set_ids=("s:broken",))),
        endpoint("a", ingress("broken")),
        endpoint("b", ingress("web")),
    )
    assert applied.status["ipset/s:broken"].state is ObjectState.ERROR
    assert applied.status[key("broken")].state is ObjectState.ERROR
    assert tcp(a, B, 80)
    a.listen(80)
    assert not tcp(b, A, 80)
    applied = driver.apply(IPSetUpdate("s:broken", IPSetType.NET, frozenset({"10.0.0.0/8"})))
    assert applied.status["ipset/s:broken"].state is ObjectState.UP
    assert applied.status[key("broken")].state is ObjectState.UP
    assert tcp(b, A, 80)


def test_members_rules_and_interfaces_that_are_nonsense_are_named(driver):
    applied = driver.sync(
        IPSetUpdate("s:x", IPSetType.NET, frozenset({"10.0.0.1/32", "nonsense"})),
        policy("web", WEB),
        endpoint("b", ingress("web")),
        endpoint("way-too-long-a-name"),
        WorkloadEndpointUpdate(endpoint("e").id, "eth0"),
        HostEndpointUpdate("hep", "eth0"),
    )
    errors = {owner: status.reason for owner, status in applied.status.items() if status.state is ObjectState.ERROR}
    assert "'nonsense' is not a valid CIDR" in errors["ipset/s:x"]
    assert "rule 1: IP set s:x" in errors[key("web")]
    assert "cannot be an interface name" in errors[endpoint("way-too-long-a-name").id]
    assert "does not begin with the workload interface prefix" in errors[endpoint("e").id]
    assert "hep" in errors


def test_endpoint_status_follows_its_interface(driver):
    driver.interfaces("calia")
    applied = driver.sync(endpoint("a"), endpoint("b"))
    assert applied.status[endpoint("a").id].state is ObjectState.UP
    assert applied.status[endpoint("b").id].state is ObjectState.DOWN
    applied = driver.interfaces("calia", "calib", "eth0")
    assert {owner: status.state for owner, status in applied.status.items()} == {endpoint("b").id: ObjectState.UP}


def test_two_endpoints_of_one_interface(driver):
    second = WorkloadEndpointUpdate(endpoint("z").id, "calia", profile_ids=("kns.default",))
    applied = driver.sync(endpoint("a"), second)
    assert applied.status[endpoint("a").id].state is ObjectState.UP
    assert applied.status[second.id].state is ObjectState.ERROR
    applied = driver.apply(WorkloadEndpointRemove(endpoint("a").id))
    assert applied.status[second.id].state is ObjectState.UP


def test_only_what_endpoints_use_is_programmed_and_removal_leaves_nothing(world, driver):
    empty = world.nft("list table ip calico")
    driver.sync(CLIENTS, policy("web", WEB), policy("unused", WEB), endpoint("b", ingress("web")))
    listed = world.nft("list table ip calico")
    assert "pi-np/default/web" in listed
    assert "po-np/default/web" not in listed
    assert "unused" not in listed
    driver.apply(
        WorkloadEndpointRemove(endpoint("b").id),
        ActivePolicyRemove(key("web")),
        ActivePolicyRemove(key("unused")),
        IPSetRemove("s:x"),
    )
    assert world.nft("list table ip calico") == empty


def test_ipv6_of_workloads_is_closed_and_rendered_by_the_same_rules(world, driver):
    driver.sync(
        IPSetUpdate("s:x", IPSetType.NET, frozenset({"fd00::1/128", "10.0.0.1/32"})),
        policy("web", WEB),
        endpoint("b", ingress("web")),
    )
    listed = world.nft("list table ip6 calico")
    assert "tcp dport { 80, 8000-8080 } ip6 saddr @cali60s-x" in listed
    assert "elements = { fd00::1 }" in listed
    assert 'iifname "cali*" counter packets 0 bytes 0 jump filter-cali-from-wl-dispatch' in listed


def test_small_send_buffer_cuts_batches_that_each_stand_alone(world, pods, driver):
    a, _ = pods
    store = driver.dataplane._store
    assert isinstance(store, Store)
    store.max_bytes = 48_000
    members = frozenset({f"10.{x}.{y}.0/24" for x in range(100, 110) for y in range(100)} | {f"{A}/32"})
    more = [endpoint(f"x{number}", ingress("web")) for number in range(60)]
    applied = driver.sync(
        IPSetUpdate("s:x", IPSetType.NET, members),
        policy("web", WEB),
        endpoint("a"),
        endpoint("b", ingress("web")),
        *more,
    )
    assert all(status.state is ObjectState.UP for status in applied.status.values()), applied.status
    assert tcp(a, B, 80)
    assert not tcp(a, B, 81)
    shrunk = IPSetUpdate("s:x", IPSetType.NET, frozenset({"10.100.0.0/16", f"{A}/32"}))
    driver.apply(shrunk)
    assert tcp(a, B, 80)
    assert "10.100.0.0/16" in world.nft("list set ip calico cali40s-x")


class Traffic:
    """A datagram each millisecond to an allowed and to a denied port, while the test changes things."""

    def __init__(self, source: Place, target: Place, allowed: int, denied: int) -> None:
        self.ports = (allowed, denied)
        self.target = target
        self.receivers = [target.socket(socket.SOCK_DGRAM) for _ in self.ports]
        for receiver, port in zip(self.receivers, self.ports, strict=True):
            receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            receiver.bind(("", port))
            receiver.setblocking(False)
        self.source = source
        self.sent = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            for port in self.ports:
                # a new flow each time, so that conntrack lets none through unasked
                with self.source.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
                    sender.sendto(b"x", (self.target.address, port))
            self.sent += 1
            time.sleep(0.001)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def received(self) -> tuple[int, int]:
        counts = []
        for receiver in self.receivers:
            count = 0
            with contextlib.suppress(BlockingIOError):
                while receiver.recv(8):
                    count += 1
            counts.append(count)
        return counts[0], counts[1]


def test_changes_and_restarts_lose_nothing_and_let_nothing_in(world, pods, driver):
    a, b = pods
    allow = DataplaneRule("allow", protocol="udp", dst_ports=(Port(5000, 5000),), src_ip_set_ids=("s:x",))
    messages = (CLIENTS, policy("web", allow), endpoint("a"), endpoint("b", ingress("web")))
    driver.sync(*messages)
    with Traffic(a, b, 5000, 5001) as traffic:
        for round_ in range(8):
            port = 6000 + round_
            rule = DataplaneRule("allow", protocol="udp", dst_ports=(Port(port, port),))
            driver.apply(policy("web", rule, allow))
            driver.apply(policy("more", rule), endpoint("b", ingress("more", "web")))
            driver.apply(IPSetDeltaUpdate("s:x", added=frozenset({f"10.80.{round_}.0/24"})))
            driver.apply(ConfigUpdate({"DefaultEndpointToHostAction": ("Accept", "Drop")[round_ % 2]}))
            driver.restart()
            driver.sync(*messages)
    time.sleep(0.05)
    arrived, leaked = traffic.received()
    assert traffic.sent > 50
    assert arrived == traffic.sent
    assert leaked == 0


def test_a_table_that_cannot_be_adopted_is_made_anew(world, pods, driver):
    a, _ = pods
    driver.sync(CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    driver.runner.run(driver.dataplane.stop())
    world.nft("delete table ip calico")
    world.nft("add table ip calico")
    world.nft("add set ip calico cali40s-x { type inet_service; }")
    world.nft("add chain ip calico filter-FORWARD { type filter hook forward priority 5; }")
    world.nft("add rule ip calico filter-FORWARD tcp dport @cali40s-x drop")
    driver.start()
    assert not tcp(a, B, 80), "closed until known"
    driver.sync(CLIENTS, policy("web", WEB), endpoint("a"), endpoint("b", ingress("web")))
    assert tcp(a, B, 80)
    assert not tcp(a, B, 81)
    assert "priority filter; policy accept" in world.nft("list chain ip calico filter-FORWARD")


def test_the_watch_for_drift_rebuilds_without_being_asked(world, pods, driver):
    a, _ = pods
    driver.sync(endpoint("a"), endpoint("b"))
    world.nft("flush ruleset")
    driver.runner.run(asyncio.sleep(1.3))
    assert tcp(a, B, 80)
    assert "calia" in world.nft("list table ip calico")


def test_a_parameter_that_cannot_be_used_leaves_the_last_good_ones(world, pods, driver):
    a, _ = pods
    driver.sync(ConfigUpdate({"DefaultEndpointToHostAction": "Accept"}), endpoint("a"))
    applied = driver.apply(ConfigUpdate({"VXLANPort": "many"}))
    (status,) = applied.status.values()
    assert status.state is ObjectState.ERROR
    assert "VXLANPort = 'many'" in status.reason
    world.node.listen(7000)
    assert tcp(a, "192.0.2.1", 7000)


def test_a_start_completes_a_table_but_leaves_what_is_there_until_in_sync(world, pods, driver):
    a, _ = pods
    messages = (endpoint("a"), endpoint("b"), IPPoolUpdate("10.65.0.0/16", masquerade=True))
    driver.sync(*messages)
    driver.runner.run(driver.dataplane.stop())
    world.nft("delete chain ip calico filter-INPUT")
    nat = world.nft("list chain ip calico nat-cali-nat-outgoing")
    assert "masquerade" in nat
    driver.start()
    assert "filter-cali-INPUT" in world.nft("list chain ip calico filter-INPUT")
    assert world.nft("list chain ip calico nat-cali-nat-outgoing") == nat
    assert tcp(a, B, 80)
    driver.sync(*messages)
    assert world.nft("list chain ip calico nat-cali-nat-outgoing") == nat
    driver.apply(IPPoolUpdate("10.65.0.0/16", masquerade=False))
    assert "masquerade" not in world.nft("list chain ip calico nat-cali-nat-outgoing")
