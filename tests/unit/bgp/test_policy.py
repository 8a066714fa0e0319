"""Calico's export, import and kernel rules, and BGPFilters."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from calico_node.plugins.bgp.packet import Attributes, Segment
from calico_node.plugins.bgp.policy import (
    Communities,
    ExportTo,
    Filter,
    FilterRule,
    Operation,
    PolicyConfig,
    Pool,
    export_route,
    import_route,
    kernel_route,
)
from calico_node.plugins.bgp.prefix import parse_prefix
from calico_node.plugins.bgp.rib import PREFERENCE, Origin, Path, PathKey

NORMAL = 2147482623
POLICY = PolicyConfig(
    pools=(Pool(parse_prefix("10.77.0.0/16")),),
    blocks=((parse_prefix("10.77.1.0/26"), "confirmed"),),
    subnet=parse_prefix("172.31.0.0/24"),
)
IBGP = ExportTo(ibgp=True, local_as=64512, source="172.31.0.1")
EBGP = ExportTo(ibgp=False, local_as=64512, source="172.31.0.1")


def kernel(metric: int = 1024, device: str = "cali1", gateway: str = "") -> Path:
    return Path(
        PathKey("kernel"), Origin.KERNEL, PREFERENCE[Origin.KERNEL], metric=metric, device=device, gateway=gateway
    )


def static() -> Path:
    return Path(PathKey("static"), Origin.STATIC, PREFERENCE[Origin.STATIC], blackhole=True)


def bgp(ebgp: bool = True, **attributes: Any) -> Path:
    values = {"next_hop": "172.31.0.9", "local_pref": 100, **attributes}
    return Path(PathKey("p"), Origin.BGP, 100, Attributes(**values), ebgp=ebgp, peer_id=9)


def export(
    text: str, path: Path, to: ExportTo = IBGP, policy: PolicyConfig = POLICY, device: str | None = None
) -> Attributes | None:
    return export_route(policy, to, parse_prefix(text), path, path.device if device is None else device)


def test_the_block_is_announced_with_the_priority_as_local_pref() -> None:
    assert export("10.77.1.0/26", static()) == Attributes(next_hop="172.31.0.1", local_pref=NORMAL)


def test_to_the_outside_our_as_stands_in_the_path_and_local_pref_does_not() -> None:
    assert export("10.77.1.0/26", static(), EBGP) == Attributes(
        next_hop="172.31.0.1", as_path=(Segment(2, (64512,)),)
    )


@pytest.mark.parametrize(
    ("metric", "local_pref"),
    [(1024, None), (2000, None), (1023, 2147482624), (512, 2147483135), (0, None)],
)
def test_workloads_of_the_block_are_announced_only_when_elevated(metric: int, local_pref: int | None) -> None:
    found = export("10.77.1.5/32", kernel(metric))
    assert (found.local_pref if found else None) == local_pref


def test_a_metric_of_zero_elevates_only_what_is_not_a_workloads_own_route() -> None:
    found = export("10.77.1.5/32", kernel(0, device="eth0", gateway="172.31.0.5"))
    assert found is not None
    assert found.local_pref == 2147483647
    assert found.next_hop == "172.31.0.5"


def test_a_borrowed_address_is_announced_by_itself() -> None:
    for metric in (1024, 0):
        found = export("10.77.9.9/32", kernel(metric))
        assert found is not None
        assert found.local_pref == NORMAL
        assert found.next_hop == "172.31.0.1"


def test_blocks_that_are_being_given_up_no_longer_hide_their_parts() -> None:
    policy = evolve(POLICY, blocks=((parse_prefix("10.77.1.0/26"), "pendingDeletion"),))
    assert export("10.77.1.5/32", kernel(), policy=policy) is not None


@pytest.mark.parametrize("text", ["10.78.0.0/24", "0.0.0.0/0", "172.31.0.0/24"])
def test_what_is_outside_every_pool_stays_here(text: str) -> None:
    assert export(text, kernel(device="eth0")) is None


def test_pools_may_forbid_export() -> None:
    policy = evolve(POLICY, pools=(Pool(parse_prefix("10.77.0.0/16"), disable_export=True),))
    assert export("10.77.1.0/26", static(), policy=policy) is None


@pytest.mark.parametrize(
    ("device", "internal", "external"),
    [
        ("vxlan.calico", False, True),
        ("wireguard.cali", False, True),
        ("tunl0", False, True),
        ("bpfin.cali", False, False),
        ("eth0", True, True),
    ],
)
def test_tunnel_routes_do_not_go_to_internal_peers(device: str, internal: bool, external: bool) -> None:
    path = kernel(device=device)
    assert (export("10.77.9.0/26", path) is not None) == internal
    assert (export("10.77.9.0/26", path, EBGP) is not None) == external


def test_tunl0_routes_are_announced_where_bgp_owns_ipip() -> None:
    assert export("10.77.9.0/26", kernel(device="tunl0"), policy=evolve(POLICY, owns_ipip=True)) is not None


def test_service_ranges_are_announced() -> None:
    policy = evolve(POLICY, statics=(parse_prefix("10.96.0.0/12"),))
    assert export("10.96.0.0/12", static(), policy=policy) is not None
    assert export("10.96.0.10/32", static(), policy=policy) is not None


def test_internal_routes_are_passed_on_only_by_a_reflector() -> None:
    path = bgp(ebgp=False)
    assert export("10.77.5.0/26", path) is None
    to = evolve(IBGP, rr_client=True, cluster_id=7)
    found = export("10.77.5.0/26", path, to)
    assert found == Attributes(next_hop="172.31.0.9", local_pref=100, originator_id=9, cluster_list=(7,))


def test_external_routes_keep_their_next_hop_inside() -> None:
    found = export("10.77.5.0/26", bgp(as_path=(Segment(2, (65000,)),), med=5))
    assert found == Attributes(next_hop="172.31.0.9", local_pref=100, as_path=(Segment(2, (65000,)),), med=5)
    found = export("10.77.5.0/26", bgp(as_path=(Segment(2, (65000,)),), med=5), EBGP)
    assert found == Attributes(next_hop="172.31.0.1", as_path=(Segment(2, (64512, 65000)),))
    found = export("10.77.5.0/26", bgp(), evolve(EBGP, next_hop_keep=True))
    assert found is not None
    assert found.next_hop == "172.31.0.9"
    found = export("10.77.5.0/26", bgp(), evolve(IBGP, next_hop_self=True))
    assert found is not None
    assert found.next_hop == "172.31.0.1"


@pytest.mark.parametrize(
    ("community", "internal", "external"),
    [
        (0xFFFFFF01, True, False),
        (0xFFFFFF02, False, False),
        (0xFFFFFF03, True, False),
        (0xFFFF0006, False, False),
        (5, True, True),
    ],
)
def test_well_known_communities(community: int, internal: bool, external: bool) -> None:
    path = bgp(communities=(community,))
    assert (export("10.77.5.0/26", path) is not None) == internal
    assert (export("10.77.5.0/26", path, EBGP) is not None) == external


def test_prefix_advertisements_add_their_communities() -> None:
    policy = evolve(POLICY, communities=(Communities(parse_prefix("10.77.0.0/16"), (7, 5), ((1, 2, 3),)),))
    found = export("10.77.1.0/26", static(), policy=policy)
    assert found is not None
    assert (found.communities, found.large_communities) == ((5, 7), ((1, 2, 3),))
    assert export("10.77.1.5/32", kernel(), policy=policy) is None


class TestImport:
    def test_everything_is_accepted(self) -> None:
        prefix = parse_prefix("0.0.0.0/0")
        assert import_route(POLICY, (), False, prefix, Attributes(local_pref=7)) == (Attributes(local_pref=100), 100)
        assert import_route(POLICY, (), True, prefix, Attributes()) == (Attributes(local_pref=100), 100)

    @pytest.mark.parametrize(("local_pref", "preference"), [(NORMAL, 100), (NORMAL + 1, 200), (2147483135, 200)])
    def test_elevated_routes_are_preferred(self, local_pref: int, preference: int) -> None:
        attributes = Attributes(local_pref=local_pref)
        assert import_route(POLICY, (), True, parse_prefix("10.0.0.1/32"), attributes) == (attributes, preference)

    def test_a_filter_that_accepts_ends_the_rules(self) -> None:
        rules = Filter("f", imports=(FilterRule(accept=True, operations=(Operation(priority=512),)),))
        found = import_route(POLICY, (rules,), True, parse_prefix("10.0.0.1/32"), Attributes(local_pref=100))
        assert found == (Attributes(local_pref=2147483135), 100)


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (FilterRule(False), True),
        (FilterRule(False, prefix=parse_prefix("10.77.1.0/26"), operator="Equal"), True),
        (FilterRule(False, prefix=parse_prefix("10.77.1.0/26"), operator="NotEqual"), False),
        (FilterRule(False, prefix=parse_prefix("10.77.0.0/16"), operator="Equal"), False),
        (FilterRule(False, prefix=parse_prefix("10.77.0.0/16"), operator="In"), True),
        (FilterRule(False, prefix=parse_prefix("10.77.0.0/16"), operator="NotIn"), False),
        (FilterRule(False, prefix=parse_prefix("10.0.0.0/8"), operator="In", lengths=(26, 32)), True),
        (FilterRule(False, prefix=parse_prefix("10.0.0.0/8"), operator="In", lengths=(27, 32)), False),
        (FilterRule(False, remote_only=True), True),
        (FilterRule(False, interface="eth*"), True),
        (FilterRule(False, interface="cali*"), False),
        (FilterRule(False, ibgp=True), True),
        (FilterRule(False, ibgp=False), False),
        (FilterRule(False, standard=5), True),
        (FilterRule(False, standard=6), False),
        (FilterRule(False, large=(1, 2, 3)), True),
        (FilterRule(False, large=(1, 2, 4)), False),
        (FilterRule(False, as_path_prefix=(65001,)), True),
        (FilterRule(False, as_path_prefix=(65001, 65002)), True),
        (FilterRule(False, as_path_prefix=(65002,)), False),
        (FilterRule(False, priority=1024), True),
        (FilterRule(False, priority=1000), False),
        (FilterRule(False, ibgp=True, standard=6), False),
    ],
)
def test_filter_conditions(rule: FilterRule, matches: bool) -> None:
    path = bgp(
        local_pref=NORMAL,
        communities=(5,),
        large_communities=((1, 2, 3),),
        as_path=(Segment(2, (65001, 65002)),),
    )
    to = evolve(IBGP, filters=(Filter("f", exports=(rule,)),))
    assert (export("10.77.1.0/26", path, to, device="eth0") is None) == matches


def test_the_first_matching_rule_decides() -> None:
    first = Filter("a", exports=(FilterRule(True, prefix=parse_prefix("10.78.0.0/16"), operator="In"),))
    second = Filter("b", exports=(FilterRule(False),))
    to = evolve(IBGP, filters=(first, second))
    assert export("10.78.3.0/24", kernel(device="eth0"), to) is not None
    assert export("10.77.1.0/26", static(), to) is None


class TestKernel:
    @pytest.mark.parametrize(
        ("pool", "owns_ipip", "owns_no_encap", "next_hop", "accept"),
        [
            (Pool(parse_prefix("10.77.0.0/16")), False, True, "172.31.0.9", True),
            (Pool(parse_prefix("10.77.0.0/16")), False, False, "172.31.0.9", False),
            (Pool(parse_prefix("10.77.0.0/16"), vxlan_mode="always"), True, True, "172.31.0.9", False),
            (Pool(parse_prefix("10.77.0.0/16"), vxlan_mode="cross-subnet"), True, True, "172.31.0.9", False),
            (Pool(parse_prefix("10.77.0.0/16"), ipip_mode="cross-subnet"), False, True, "172.31.0.9", False),
            (Pool(parse_prefix("10.77.0.0/16"), ipip_mode="cross-subnet"), True, True, "172.31.0.9", True),
            (Pool(parse_prefix("10.77.0.0/16"), ipip_mode="cross-subnet"), True, True, "172.31.1.9", False),
            (Pool(parse_prefix("10.77.0.0/16"), ipip_mode="always"), True, True, "172.31.0.9", False),
            (Pool(parse_prefix("10.66.0.0/16"), vxlan_mode="always"), False, False, "172.31.0.9", True),
        ],
    )
    def test_who_programs_a_pools_routes(
        self, pool: Pool, owns_ipip: bool, owns_no_encap: bool, next_hop: str, accept: bool
    ) -> None:
        policy = evolve(POLICY, pools=(pool,), owns_ipip=owns_ipip, owns_no_encap=owns_no_encap)
        path = bgp(next_hop=next_hop, local_pref=NORMAL)
        verdict = kernel_route(policy, parse_prefix("10.77.5.0/26"), path, parse_prefix(next_hop))
        assert verdict.accept is accept
        assert verdict.pool is (None if accept else pool)
        assert verdict.metric == 1024

    def test_metrics(self) -> None:
        prefix, near = parse_prefix("10.77.5.0/26"), parse_prefix("172.31.0.9")
        assert kernel_route(POLICY, prefix, bgp(), near).metric == 2147483547
        assert kernel_route(POLICY, prefix, bgp(local_pref=2147483135), near).metric == 512
        assert kernel_route(POLICY, prefix, bgp(local_pref=4294967295), near).metric == 0
        assert kernel_route(POLICY, prefix, static(), None).metric == 0

    def test_services_and_wireguard_peers_are_left_out(self) -> None:
        policy = evolve(POLICY, rejected=(parse_prefix("10.96.0.0/12"),), wireguard_hops=frozenset({"172.31.0.9"}))
        assert not kernel_route(policy, parse_prefix("10.96.0.0/12"), static(), None).accept
        near = parse_prefix("172.31.0.9")
        assert not kernel_route(policy, parse_prefix("10.77.5.0/26"), bgp(), near).accept
