"""Desired routes depend on the present pools, blocks, nodes and endpoints alone, not on the way there."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.dataplanes.contract import Route, RouteType, WorkloadEndpointID, WorkloadEndpointUpdate
from calico_node.model import AllocationAttribute, AllocationBlock, IPPool
from calico_node.plugins.felix.calc.routes import BlockRoute, NodeAddresses, RouteResolver
from calico_node.plugins.felix.desired import DesiredRoutes, RouteSettings

BLOCKS = ("10.0.0.0/30", "10.0.0.4/30", "10.1.0.0/32", "fd00::/126")
POOLS = ("10.0.0.0/16", "10.0.0.0/24", "10.1.0.0/16", "fd00::/64")
NODES = ("me", "near", "far")

pools = st.builds(
    IPPool,
    st.sampled_from(POOLS),
    ipip_mode=st.sampled_from(("", "always", "cross-subnet")),
    vxlan_mode=st.sampled_from(("", "", "cross-subnet")),
)
blocks = st.builds(
    AllocationBlock,
    st.sampled_from(BLOCKS),
    st.sampled_from((None, "virtual:lb", *(f"host:{node}" for node in NODES))),
    st.lists(st.sampled_from((None, 0, 1, 9)), max_size=6).map(tuple),
    st.just((AllocationAttribute("a", {"node": "near"}), AllocationAttribute("b", {"node": "me"}))),
)
addresses = st.builds(
    NodeAddresses,
    st.sampled_from(("172.30.0.1/24", "172.30.0.2/24", "172.31.0.3/24", "")),
    st.sampled_from(("fd01::1/64", "fd01::2/64", "")),
)
OPERATIONS = st.one_of(
    st.tuples(st.just("set_pool"), st.sampled_from(POOLS), st.none() | pools),
    st.tuples(st.just("set_block"), st.sampled_from(BLOCKS), st.none() | blocks),
    st.tuples(st.just("set_node"), st.sampled_from(NODES), st.none() | addresses),
)


def drain(resolver: RouteResolver, table: dict[str, BlockRoute]) -> None:
    while resolver.step(2):
        pass
    for dst, route in resolver.take().routes.items():
        if route is None:
            table.pop(dst, None)
        else:
            table[dst] = route


@settings(max_examples=200, deadline=None)
@given(st.lists(OPERATIONS, max_size=25), st.sampled_from(("EnabledIPIPOnly", "Enabled", "Disabled")))
def test_block_routes_depend_on_contents_alone(operations: list[Any], mode: str) -> None:
    resolver, table = RouteResolver("me"), dict[str, BlockRoute]()
    for number, (operation, key, value) in enumerate(operations):
        getattr(resolver, operation)(key, value)
        if number % 3 == 0:
            drain(resolver, table)
    resolver.set_program_cluster_routes(mode)
    drain(resolver, table)

    fresh, expected = RouteResolver("me"), dict[str, BlockRoute]()
    fresh.set_program_cluster_routes(mode)
    for operation, key, value in {
        (operation, key): (operation, key, value) for operation, key, value in operations
    }.values():
        getattr(fresh, operation)(key, value)
    drain(fresh, expected)
    assert table == expected
    assert resolver.missing == fresh.missing
    assert all(
        route.gateway in ("", "172.30.0.1", "172.30.0.2", "172.31.0.3", "fd01::1", "fd01::2")
        for route in table.values()
    )


def endpoint(name: str, *nets: str, interface: str = "") -> WorkloadEndpointUpdate:
    return WorkloadEndpointUpdate(WorkloadEndpointID("k8s", name, "eth0"), interface or f"cali{name}", ipv4_nets=nets)


def test_address_on_two_endpoints_goes_to_one_and_then_the_other() -> None:
    routes = DesiredRoutes()
    first, second = endpoint("a", "10.0.0.1/32"), endpoint("b", "10.0.0.1/32")
    routes.set_endpoint(second.id, second)
    routes.set_endpoint(first.id, first)
    (route,), removed = routes.take()
    assert (route.device, removed) == ("calia", [])
    routes.set_endpoint(first.id, None)
    (route,), removed = routes.take()
    assert (route.device, removed) == ("calib", [])
    routes.set_endpoint(second.id, None)
    assert routes.take() == ([], ["10.0.0.1/32"])


def test_workload_beats_block_on_one_prefix() -> None:
    routes = DesiredRoutes()
    routes.set_blocks({"10.0.0.1/32": BlockRoute("10.0.0.1/32", "172.30.0.2")})
    pod = endpoint("a", "10.0.0.1/32")
    routes.set_endpoint(pod.id, pod)
    assert [route.device for route in routes.take()[0]] == ["calia"]
    routes.set_endpoint(pod.id, None)
    assert routes.take() == ([Route("10.0.0.1/32", gateways=("172.30.0.2",), protocol=80)], [])


def test_settings_reach_routes_already_stated() -> None:
    routes = DesiredRoutes()
    pod = endpoint("a", "10.0.0.1/32")
    routes.set_endpoint(pod.id, pod)
    routes.set_blocks({"10.0.0.0/26": BlockRoute("10.0.0.0/26")})
    routes.take()
    routes.set_settings(RouteSettings(protocol=99, metric4=7, source4="172.30.0.1"))
    assert routes.take()[0] == [
        Route("10.0.0.1/32", device="calia", scope_link=True, protocol=99, metric=7, source="172.30.0.1"),
        Route("10.0.0.0/26", RouteType.BLACKHOLE, protocol=99),
    ]
    assert routes.take() == ([], [])
