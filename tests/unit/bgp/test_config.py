"""From stored resources to what a speaker is told."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.errors import ValidationError
from calico_node.model import BlockAffinity, BlockAffinityKey, BlockKey, IPPool, IPPoolKey, ResourceKey
from calico_node.plugins.bgp.config import Configuration, Datastore, build, hash_router_id, parse_community
from calico_node.plugins.bgp.policy import Communities, FilterRule, Operation
from calico_node.plugins.bgp.prefix import number_to_address, parse_prefix
from calico_node.resources import from_dict


def resource(kind: str, name: str, **spec: Any) -> Any:
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}, "spec": spec})


def data(*resources: Any) -> Datastore:
    store = Datastore()
    for each in (resource("Node", "a", bgp={"ipv4Address": "10.0.0.1/24"}), *resources):
        store.apply(ResourceKey(each.kind, "", each.metadata.name), each, "a")
    store.apply(IPPoolKey("10.77.0.0/16"), IPPool("10.77.0.0/16", vxlan_mode="cross-subnet"), "a")
    return store


def built(store: Datastore, version: int = 4, **environ: str) -> Configuration:
    return build(store, "a", version, environ, lambda reference: None)


def test_the_plain_case() -> None:
    store = data(resource("Node", "b", bgp={"ipv4Address": "10.0.0.2/24", "asNumber": 65002}))
    found = built(store)
    assert found.enabled
    assert (found.listen, found.port) == ("", 179)
    assert number_to_address(4, found.speaker.router_id) == "10.0.0.1"
    assert [(p.name, p.asn, p.local_as) for p in found.speaker.peers] == [("Mesh_10_0_0_2", 65002, 64512)]
    policy = found.speaker.policy
    assert policy.normal_priority == 1024
    assert policy.subnet == parse_prefix("10.0.0.0/24")
    assert policy.pools[0].vxlan_mode == "cross-subnet"
    assert (policy.owns_ipip, policy.owns_no_encap) == (False, True)
    assert not built(store, 6).enabled


def test_updates_tell_whether_they_matter() -> None:
    store = data()
    key = BlockAffinityKey("10.77.1.0/26", "a")
    assert store.apply(key, BlockAffinity(), "a")
    assert not store.apply(key, BlockAffinity(), "a")
    assert not store.apply(BlockAffinityKey("10.77.2.0/26", "b"), BlockAffinity(), "a")
    assert not store.apply(BlockAffinityKey("10.77.2.0/26", "a", "virtual"), BlockAffinity(), "a")
    assert not store.apply(BlockKey("10.77.1.0/26"), object(), "a")
    assert not store.apply(ResourceKey("BGPPeer", "", "never-seen"), None, "a")
    assert store.apply(key, None, "a")
    node = resource("Node", "a", bgp={"ipv4Address": "10.0.0.1/24", "ipv4IPIPTunnelAddr": "10.77.0.1"})
    assert not store.apply(ResourceKey("Node", "", "a"), node, "a")


@pytest.mark.parametrize(
    ("cidr", "state", "announced", "originated"),
    [
        ("10.77.1.0/26", "confirmed", True, True),
        ("10.77.1.0/26", "", True, True),
        ("10.77.1.0/26", "pending", False, False),
        ("10.77.1.0/26", "pendingDeletion", True, True),
        ("10.77.1.9/32", "confirmed", True, False),
    ],
)
def test_blocks(cidr: str, state: str, announced: bool, originated: bool) -> None:
    store = data()
    store.apply(BlockAffinityKey(cidr, "a"), BlockAffinity(state), "a")
    speaker = built(store).speaker
    assert ((parse_prefix(cidr), state) in speaker.policy.blocks) == announced
    assert (parse_prefix(cidr) in speaker.blackholes) == originated


@pytest.mark.parametrize(
    ("value", "ipip", "no_encap"),
    [
        (None, False, True),
        ("EnabledNoEncapOnly", False, True),
        ("EnabledIPIPOnly", True, False),
        ("Enabled", True, True),
        ("Disabled", False, False),
    ],
)
def test_who_programs_cluster_routes(value: str | None, ipip: bool, no_encap: bool) -> None:
    spec = {} if value is None else {"programClusterRoutes": value}
    policy = built(data(resource("BGPConfiguration", "default", **spec))).speaker.policy
    assert (policy.owns_ipip, policy.owns_no_encap) == (ipip, no_encap)


def test_the_default_configuration() -> None:
    store = data(
        resource("Node", "b", bgp={"ipv4Address": "10.0.0.2/24"}),
        resource(
            "BGPConfiguration",
            "default",
            asNumber=65000,
            listenPort=1790,
            bindMode="NodeIP",
            ipv4NormalRoutePriority=900,
            nodeMeshMaxRestartTime="1m30s",
            ignoredInterfaces=["eth7"],
            serviceClusterIPs=[{"cidr": "10.96.0.0/12"}],
            serviceExternalIPs=[{"cidr": "10.200.0.0/24"}, {"cidr": "10.200.1.1/32"}],
        ),
    )
    found = built(store)
    assert (found.listen, found.port) == ("10.0.0.1", 1790)
    (peer,) = found.speaker.peers
    assert (peer.local_as, peer.port, peer.restart_time) == (65000, 1790, 90)
    assert found.speaker.ignored_interfaces == ("eth7",)
    policy = found.speaker.policy
    assert policy.normal_priority == 900
    ranges = (parse_prefix("10.96.0.0/12"), parse_prefix("10.200.0.0/24"))
    assert set(policy.statics) == set(policy.rejected) == set(ranges) == set(found.speaker.blackholes)
    assert set(policy.load_balancer) == {parse_prefix("10.200.0.0/24"), parse_prefix("10.200.1.1/32")}


def test_a_nodes_own_configuration() -> None:
    store = data(
        resource("Node", "b", bgp={"ipv4Address": "10.0.0.2/24"}),
        resource("BGPConfiguration", "node.a", listenPort=1791),
        resource("BGPConfiguration", "node.b", listenPort=1792),
    )
    found = built(store)
    assert found.port == 1791
    assert found.speaker.peers[0].port == 1792


def test_communities() -> None:
    store = data(
        resource(
            "BGPConfiguration",
            "default",
            communities=[{"name": "one", "value": "65000:1"}],
            prefixAdvertisements=[{"cidr": "10.77.0.0/16", "communities": ["one", "65000:1:2"]}],
        )
    )
    assert built(store).speaker.policy.communities == (
        Communities(parse_prefix("10.77.0.0/16"), ((65000 << 16) + 1,), ((65000, 1, 2),)),
    )
    for text in ("x", "1:2:3:4", "70000:1", "1"):
        with pytest.raises(ValidationError):
            parse_community(text)


def test_filters() -> None:
    store = data(
        resource(
            "BGPFilter",
            "f",
            exportV4=[
                {
                    "action": "Accept",
                    "cidr": "10.0.0.0/8",
                    "matchOperator": "In",
                    "prefixLength": {"min": 16, "max": 24},
                    "peerType": "eBGP",
                    "operations": [{"setPriority": {"value": 512}}, {"prependASPath": {"prefix": [65001]}}],
                }
            ],
            importV6=[{"action": "Reject"}],
        )
    )
    rules = built(store).speaker.filters["f"]
    assert rules.imports == ()
    assert rules.exports == (
        FilterRule(
            accept=True,
            prefix=parse_prefix("10.0.0.0/8"),
            operator="In",
            lengths=(16, 24),
            ibgp=False,
            operations=(Operation(priority=512), Operation(prepend=(65001,))),
        ),
    )
    assert built(store, 6).speaker.filters["f"].imports == (FilterRule(accept=False),)


def test_a_filter_that_cannot_be_read_lets_nothing_through() -> None:
    store = data(resource("BGPFilter", "f", exportV4=[{"action": "Accept"}]))
    store.unusable_filters |= {"f", "g"}
    filters = built(store).speaker.filters
    assert filters["f"].exports == (FilterRule(accept=True),)  # the readable one that has come counts
    assert filters["g"].imports == filters["g"].exports == (FilterRule(accept=False),)


def test_router_ids() -> None:
    assert number_to_address(4, hash_router_id("kube-master")) == "25.79.212.8"
    found = built(data(), CALICO_ROUTER_ID="hash").speaker.router_id
    assert found == hash_router_id("a")
    assert number_to_address(4, built(data(), CALICO_ROUTER_ID="9.9.9.9").speaker.router_id) == "9.9.9.9"


def test_a_mesh_password_that_cannot_be_read_is_named() -> None:
    store = data(
        resource("BGPConfiguration", "default", nodeMeshPassword={"secretKeyRef": {"name": "n", "key": "k"}})
    )
    assert "nodeMeshPassword" in built(store).rejected["BGPConfiguration(default)"]
