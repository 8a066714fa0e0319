"""Stored objects to v1 updates: values, conflicts, refusals; the result depends on what is stored, not on the way."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.datastores.kv import KeyValue
from calico_node.datastores.names import resource_key
from calico_node.model import (
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    BlockAffinityKey,
    BlockKey,
    EndpointPort,
    GlobalConfigKey,
    HostConfigKey,
    HostEndpoint,
    HostEndpointKey,
    IPPool,
    IPPoolKey,
    Key,
    NetworkSet,
    NetworkSetKey,
    Policy,
    PolicyKey,
    ProfileLabelsKey,
    ProfileRules,
    ProfileRulesKey,
    ReadyFlagKey,
    ResourceKey,
    Rule,
    Wireguard,
    WireguardKey,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.syncer.processors import SyncerKind, Translator, interest


def document(kind: str, name: str, spec: dict[str, Any], namespace: str = "", **more: Any) -> bytes:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {}), **more.pop("metadata", {})}
    return json.dumps(
        {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec, **more}
    ).encode()


class View:
    """What a consumer of a translator's changes ends up with."""

    def __init__(self, kind: SyncerKind = SyncerKind.FELIX, *, use_pod_cidr: bool = False) -> None:
        self.rejections: list[tuple[str, str | None]] = []
        wanted = interest(kind, "n1", use_pod_cidr=use_pod_cidr)
        self.translator = Translator(wanted, lambda *what: self.rejections.append(what))
        self.values: dict[Key, object] = {}

    def set(self, key: str, value: bytes | None) -> list[Key]:
        stored = None if value is None else KeyValue(key, value, 1, 7)
        changes = self.translator.translate(key, stored)
        for model_key, new in changes:
            if new is None:
                del self.values[model_key]  # a removal of what was never there would be a fault
            else:
                self.values[model_key] = new
        return [model_key for model_key, _ in changes]

    def put(self, kind: str, name: str, spec: dict[str, Any], namespace: str = "", **more: Any) -> list[Key]:
        return self.set(resource_key(kind, name, namespace), document(kind, name, spec, namespace, **more))


def test_workload_endpoint() -> None:
    view = View()
    spec = {
        "orchestrator": "k8s", "node": "n-1", "pod": "web-0", "endpoint": "eth0", "containerID": "c0",
        "serviceAccountName": "sa", "ipNetworks": ["192.168.0.5/32", "fd00::5/128"], "profiles": ["kns.prod"],
        "interfaceName": "cali1", "mac": "ee:ee:ee:ee:ee:ee",
        "ports": [
            {"name": "http", "protocol": "TCP", "port": 80, "hostPort": 0, "hostIP": ""},
            {"name": "", "protocol": "UDP", "port": 53, "hostPort": 53, "hostIP": ""},
            {"name": "dns", "protocol": 17, "port": 53, "hostPort": 0, "hostIP": ""},
        ],
        "ipNATs": [{"internalIP": "192.168.0.5", "externalIP": "1.2.3.4"}],
        "qosControls": {"ingressBandwidth": 1000},
    }  # fmt: skip
    labels = {"app": "web", "pcns.evil": "1", "pcsa.evil": "1", "projectcalico.org/namespace": "prod"}
    view.put("WorkloadEndpoint", "n--1-k8s-web--0-eth0", spec, "prod", metadata={"labels": labels})
    key = WorkloadEndpointKey("n-1", "k8s", "prod/web-0", "eth0")
    endpoint = view.values[key]
    assert isinstance(endpoint, WorkloadEndpoint)
    assert endpoint.labels == {
        "app": "web", "projectcalico.org/namespace": "prod", "projectcalico.org/serviceaccount": "sa",
    }  # fmt: skip
    assert (endpoint.name, endpoint.ipv4_nets, endpoint.ipv6_nets) == ("cali1", ("192.168.0.5/32",), ("fd00::5/128",))
    assert endpoint.ports == (EndpointPort("http", "tcp", 80), EndpointPort("dns", "udp", 53))
    assert endpoint.qos_controls == {"ingress_bandwidth": 1000}
    assert endpoint.ipv4_nat[0].external_ip == "1.2.3.4"
    view.put("WorkloadEndpoint", "n--1-k8s-web--0-eth0", {**spec, "ipNetworks": [], "ipNATs": []}, "prod")
    assert view.values == {}


def test_host_endpoint_and_sets() -> None:
    view = View()
    view.put(
        "HostEndpoint", "eth0-n1", {"node": "n1", "interfaceName": "eth0", "expectedIPs": ["10.0.0.1", "fd00::1"]}
    )
    assert view.values[HostEndpointKey("n1", "eth0-n1")] == HostEndpoint("eth0", ("10.0.0.1",), ("fd00::1",))
    view.put(
        "NetworkSet", "s", {"nets": ["10.1.2.3", "10.0.0.1/8", "10.0.0.0/8"]}, "ns", metadata={"labels": {"a": "b"}}
    )
    assert view.values[NetworkSetKey("ns/s")] == NetworkSet(
        ("10.1.2.3/32", "10.0.0.0/8"), {"a": "b", "projectcalico.org/namespace": "ns"}, ("kns.ns",)
    )
    view.put("GlobalNetworkSet", "s", {"nets": ["fd00::/8"]})
    assert view.values[NetworkSetKey("s")] == NetworkSet(("fd00::/8",))


def test_profile_gives_rules_labels_and_itself() -> None:
    view = View()
    view.put("Profile", "kns.a", {"ingress": [{"action": "Allow"}], "labelsToApply": {"pcns.x": "y"}})
    assert view.values[ProfileRulesKey("kns.a")] == ProfileRules((Rule("allow"),))
    assert view.values[ProfileLabelsKey("kns.a")] == {"pcns.x": "y"}
    assert ResourceKey("Profile", "", "kns.a") in view.values
    view.put("Profile", "kns.a", {})
    assert ProfileLabelsKey("kns.a") not in view.values
    assert view.values[ProfileRulesKey("kns.a")] == ProfileRules()


def test_node_gives_its_hosts_parameters() -> None:
    view = View()
    spec = {
        "bgp": {"ipv4Address": "10.0.0.5/24", "ipv4IPIPTunnelAddr": "192.168.0.1"},
        "ipv4VXLANTunnelAddr": "192.168.0.2",
        "vxlanTunnelMACAddr": "66:cf:23:df:22:07",
        "wireguard": {"interfaceIPv4Address": "192.168.0.3"},
    }
    view.put("Node", "n1", spec, status={"wireguardPublicKey": "jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY="})
    raw = view.values.pop(ResourceKey("Node", "", "n1"))
    assert raw.spec.bgp.ipv4_address == "10.0.0.5/24"  # type: ignore[attr-defined]
    assert view.values == {
        HostConfigKey("n1", "IpInIpTunnelAddr"): "192.168.0.1",
        HostConfigKey("n1", "IPv4VXLANTunnelAddr"): "192.168.0.2",
        HostConfigKey("n1", "VXLANTunnelMACAddr"): "66:cf:23:df:22:07",
        WireguardKey("n1"): Wireguard("192.168.0.3", "jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY="),
    }
    view.put("Node", "n1", {})
    assert set(view.values) == {ResourceKey("Node", "", "n1")}


def test_configuration_is_flattened() -> None:
    view = View()
    spec = {
        "nftablesMode": "Enabled", "routeRefreshInterval": "1m30s", "iptablesLockProbeInterval": "50ms",
        "failsafeInboundHostPorts": [
            {"protocol": "TCP", "port": 22, "net": "10.0.0.0/8"}, {"protocol": "TCP", "port": 22, "net": "fd00::/64"},
        ],
        "failsafeOutboundHostPorts": [], "bpfEnabled": False, "vxlanMTU": 1410, "ipv6Support": True,
        "externalNodesList": ["10.1.0.0/16", "10.2.0.0/16"],
    }  # fmt: skip
    view.put(
        "FelixConfiguration", "default", spec, metadata={"annotations": {"config.projectcalico.org/LogPrefix": "c"}}
    )
    assert {key.name: value for key, value in view.values.items()} == {  # type: ignore[union-attr]
        "NFTablesMode": "Enabled", "RouteRefreshInterval": "90", "IptablesLockProbeIntervalMillis": "50",
        "FailsafeInboundHostPorts": "tcp:10.0.0.0/8:22,tcp:[fd00::/64]:22", "FailsafeOutboundHostPorts": "none",
        "BPFEnabled": "false", "VXLANMTU": "1410", "Ipv6Support": "true", "LogPrefix": "c",
        "ExternalNodesCIDRList": "10.1.0.0/16,10.2.0.0/16",
    }  # fmt: skip
    view.put("FelixConfiguration", "node.n1", {"logSeverityScreen": "Debug"})
    assert view.values[HostConfigKey("n1", "LogSeverityScreen")] == "Debug"
    view.put("FelixConfiguration", "zone-a", {"nodeSelector": "zone == 'a'"})
    assert ResourceKey("FelixConfiguration", "", "zone-a") in view.values
    view.set(resource_key("FelixConfiguration", "default"), None)
    assert not [key for key in view.values if isinstance(key, GlobalConfigKey)]


def test_cluster_information_and_ready_flag() -> None:
    view = View()
    view.put("ClusterInformation", "default", {"clusterGUID": "ab" * 16, "datastoreReady": False})
    assert view.values == {GlobalConfigKey("ClusterGUID"): "ab" * 16, ReadyFlagKey(): False}


def test_ipam_documents() -> None:
    block = {
        "cidr": "192.168.0.0/29", "affinity": "host:n1", "allocations": [0, None, None, None, None, None, None, None],
        "unallocated": [1, 2, 3, 4, 5, 6, 7], "deleted": False, "sequenceNumber": 1785578400000000001,
        "attributes": [{"handle_id": "h", "secondary": {"node": "n1"}}],
    }  # fmt: skip
    view = View(SyncerKind.BGP)
    view.set("/calico/ipam/v2/assignment/ipv4/block/192.168.0.0-29", json.dumps(block).encode())
    expected = AllocationBlock(
        "192.168.0.0/29", "host:n1", (0, *[None] * 7), (AllocationAttribute("h", {"node": "n1"}),)
    )
    assert view.values.pop(BlockKey("192.168.0.0/29")) == expected
    view.set("/calico/ipam/v2/host/n1/ipv4/block/192.168.0.0-29", b"")
    view.set("/calico/ipam/v2/host/n1/ipv6/block/fd00::-122", b'{"state":"pending"}')
    view.set("/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-29", b'{"state":"confirmed","deleted":true}')
    assert view.values == {
        BlockAffinityKey("192.168.0.0/29", "n1"): BlockAffinity("confirmed"),
        BlockAffinityKey("fd00::/122", "n1"): BlockAffinity("pending"),
    }


BLOCK = "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26"
AFFINITY = "/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-26"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (BLOCK, b"null"),
        (BLOCK, b"\xff"),
        (BLOCK, b'{"cidr":"10.0.0.0/99"}'),
        (BLOCK, b'{"cidr":7}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","affinity":7}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","allocations":["x"]}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","allocations":7}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","attributes":[7]}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","attributes":[{"secondary":{"node":{}}}]}'),
        (BLOCK, b'{"cidr":"10.0.0.0/26","attributes":[{"secondary":["node"]}]}'),
        (AFFINITY, b"nonsense"),
        (AFFINITY, b'{"state":7}'),
        (AFFINITY, b"7"),
        ("/calico/ipam/v2/host/n1/ipv4/block/zzz", b'{"state":"confirmed"}'),
        ("/calico/ipam/v2/host/n1/ipv4/block/10.0.0.0-99", b"{}"),
    ],
)
def test_ipam_documents_that_cannot_be_used_count_as_absent(key: str, value: bytes) -> None:
    view = View(SyncerKind.BGP)
    view.set(key, value)
    assert view.values == {}
    assert [title for title, _ in view.rejections] == [key]


def test_two_pools_of_one_cidr_are_settled_by_name() -> None:
    view = View()
    key = IPPoolKey("10.0.0.0/16")
    view.put("IPPool", "b", {"cidr": "10.0.0.0/16", "natOutgoing": True})
    assert view.values[key] == IPPool("10.0.0.0/16", masquerade=True)
    assert view.put("IPPool", "c", {"cidr": "10.0.0.0/16", "disabled": True}) == []
    view.put("IPPool", "a", {"cidr": "10.0.0.0/16", "vxlanMode": "CrossSubnet"})
    assert view.values[key] == IPPool("10.0.0.0/16", vxlan_mode="cross-subnet")
    view.set(resource_key("IPPool", "a"), None)
    assert view.values[key] == IPPool("10.0.0.0/16", masquerade=True)
    view.put("IPPool", "b", {"cidr": "10.1.0.0/16"})
    assert view.values[key] == IPPool("10.0.0.0/16", disabled=True)
    assert IPPoolKey("10.1.0.0/16") in view.values


@pytest.mark.parametrize(
    "value",
    [
        b"not json",
        b"[]",
        document("NetworkPolicy", "p", {"selector": "a =="}, "ns"),
        document("NetworkPolicy", "p", {"ingress": [{"action": "Maybe"}]}, "ns"),
        document("NetworkPolicy", "p", {"ingress": [{"action": "Allow", "source": {"nets": ["1.2.3"]}}]}, "ns"),
        document("NetworkPolicy", "p", {"ingress": "x"}, "ns"),
    ],
)
def test_an_object_that_cannot_be_used_counts_as_absent(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    view = View()
    key = resource_key("NetworkPolicy", "p", "ns")
    good = document("NetworkPolicy", "p", {"selector": "all()"}, "ns")
    view.set(key, good)
    assert PolicyKey("NetworkPolicy", "ns", "p") in view.values
    view.set(key, value)
    view.set(key, value)
    assert view.values == {}
    assert len(caplog.records) == 1
    assert set(view.translator.rejected) == {"NetworkPolicy(ns/p)"}
    view.set(key, good)
    assert PolicyKey("NetworkPolicy", "ns", "p") in view.values
    assert [title for title, _ in view.rejections] == ["NetworkPolicy(ns/p)"] * 2
    assert view.rejections[-1][1] is None


def test_a_staged_kubernetes_policy_is_converted_and_stays_staged() -> None:
    view = View()
    spec = {"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {}}]}]}
    view.put("StagedKubernetesNetworkPolicy", "p", spec, "ns")
    policy = view.values[PolicyKey("StagedKubernetesNetworkPolicy", "ns", "p")]
    assert isinstance(policy, Policy)
    assert (policy.staged_action, policy.order, policy.types) == ("Set", 1000, ("ingress",))
    assert policy.selector == (
        "(projectcalico.org/orchestrator == 'k8s' && app == 'web') && projectcalico.org/namespace == 'ns'"
    )
    view.put("StagedKubernetesNetworkPolicy", "p", {"stagedAction": "Delete", "podSelector": {}}, "ns")
    assert view.values == {}


def test_consumers_get_only_their_kinds() -> None:
    view = View(SyncerKind.BGP)
    view.put("NetworkPolicy", "p", {"selector": "all()"}, "ns")
    view.put("BGPPeer", "peer", {"peerIP": "10.0.0.1", "asNumber": 64512})
    view.put("IPPool", "a", {"cidr": "10.0.0.0/16"})
    assert set(view.values) == {ResourceKey("BGPPeer", "", "peer"), IPPoolKey("10.0.0.0/16")}
    tunnel = View(SyncerKind.TUNNEL_IP_ALLOCATION)
    tunnel.put("Node", "n1", {})
    tunnel.put("Node", "n10", {})
    assert set(tunnel.values) == {ResourceKey("Node", "", "n1")}


def test_keys_of_nobody_are_passed_over() -> None:
    view = View()
    for key in ("/calico/resources/v3/projectcalico.org/unknowns/x", "/calico/resources/v3/projectcalico.org/nodes/"):
        assert view.set(key, b"{}") == []
    assert view.rejections == []


POOLS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "d"]),
        st.sampled_from([None, "10.0.0.0/16", "10.1.0.0/16", "bad"]),
        st.booleans(),
    ),
    max_size=12,
)


@settings(max_examples=100, deadline=None)
@given(POOLS, st.randoms())
def test_the_view_depends_only_on_what_is_stored(history: list[tuple[str, str | None, bool]], random: Any) -> None:
    view = View()
    stored: dict[str, bytes] = {}
    for name, cidr, nat in history:
        key = resource_key("IPPool", name)
        value = None if cidr is None else document("IPPool", name, {"cidr": cidr, "natOutgoing": nat})
        view.set(key, value)
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value
    fresh = View()
    items = list(stored.items())
    random.shuffle(items)
    for key, value in items:
        fresh.set(key, value)
    assert view.values == fresh.values
    assert view.translator.rejected == fresh.translator.rejected


@pytest.mark.parametrize("levels", [600, 100_000])
@pytest.mark.parametrize("where", ["spec", "annotation"])
def test_nesting_beyond_measure_costs_the_object_alone(levels: int, where: str) -> None:
    nested = "[" * levels + "]" * levels
    view = View()
    key = resource_key("GlobalNetworkPolicy", "deep")
    if where == "spec":
        value = document("GlobalNetworkPolicy", "deep", {"odd": "NESTED"}).replace(b'"NESTED"', nested.encode())
    else:
        annotations = {"projectcalico.org/metadata": nested}
        value = document("GlobalNetworkPolicy", "deep", {}, metadata={"annotations": annotations})
    view.set(key, value)
    view.set(resource_key("GlobalNetworkPolicy", "flat"), document("GlobalNetworkPolicy", "flat", {}))
    assert PolicyKey("GlobalNetworkPolicy", "", "flat") in view.values


BLOCKS = "/calico/ipam/v2/assignment/ipv4/block/"


def test_a_block_at_the_key_of_another_takes_nobodys_place() -> None:
    view = View()
    view.set(f"{BLOCKS}10.0.1.0-26", b'{"cidr":"10.0.1.0/26","affinity":"host:n2"}')
    view.set(f"{BLOCKS}10.0.0.0-26", b'{"cidr":"10.0.1.0/26","affinity":"host:n1"}')
    assert view.values == {BlockKey("10.0.1.0/26"): AllocationBlock("10.0.1.0/26", "host:n2")}
    assert [title for title, _ in view.rejections] == [f"{BLOCKS}10.0.0.0-26"]
    view.set(f"{BLOCKS}10.0.0.0-26", b'{"cidr":"10.0.0.0/26"}')
    assert view.rejections[-1] == (f"{BLOCKS}10.0.0.0-26", None)
    assert view.values.keys() == {BlockKey("10.0.0.0/26"), BlockKey("10.0.1.0/26")}


@pytest.mark.parametrize(
    "rest",
    [
        {"allocations": [0], "attributes": []},
        {"allocations": [-1], "attributes": [{}]},
        {"allocations": [None] * 5},
        {"attributes": [{"handle_id": ["h"]}]},
        {"attributes": [{"releasedAt": 7}]},
    ],
)
def test_a_block_whose_parts_do_not_fit_is_left_out(rest: dict[str, Any]) -> None:
    view = View()
    view.set(f"{BLOCKS}10.0.0.0-30", json.dumps({"cidr": "10.0.0.0/30", **rest}).encode())
    assert view.values == {}
    assert [title for title, _ in view.rejections] == [f"{BLOCKS}10.0.0.0-30"]


def test_numbers_of_64_bits_and_null_lists_of_a_block() -> None:
    view = View()
    document = (
        b'{"cidr":"10.0.0.0/30","affinity":null,"allocations":null,"unallocated":null,"attributes":null,'
        b'"sequenceNumber":18446744073709551615,"sequenceNumberForAllocation":null,"deleted":false}'
    )
    view.set(f"{BLOCKS}10.0.0.0-30", document)
    assert view.values == {BlockKey("10.0.0.0/30"): AllocationBlock("10.0.0.0/30")}


def test_the_tunnel_stream_is_not_concerned_with_nodes_of_a_longer_name() -> None:
    view = View(SyncerKind.TUNNEL_IP_ALLOCATION)
    view.set(resource_key("Node", "n10"), b"no document at all")
    view.put("Node", "n1", {})
    assert view.values.keys() == {ResourceKey("Node", "", "n1")}
    assert view.rejections == []


def test_a_stored_object_never_stands_in_for_the_builtin_profile() -> None:
    """Calico's is synthetic: whatever is stored under its name is no part of it, and takes it away least of all."""
    view = View()
    builtin = dict(view.translator.builtin())
    for value in (document("Profile", "projectcalico-default-allow", {}), b"nonsense", None):
        assert view.set(resource_key("Profile", "projectcalico-default-allow"), value) == []
    assert ProfileRulesKey("projectcalico-default-allow") in builtin
    assert view.rejections == []


def test_the_bgp_stream_has_affinities_and_no_blocks() -> None:
    """A block changes with every pod that comes or goes, anywhere; BGP has no use for it."""
    assert not any("assignment" in prefix for prefix in interest(SyncerKind.BGP, "n1").prefixes)


def test_live_migrations_and_bgp_resources_reach_felix_as_they_are() -> None:
    view = View()
    view.put("LiveMigration", "m", {"target": {"selector": "a == 'b'"}}, "ns")
    view.put("BGPPeer", "p", {"peerIP": "10.0.0.9", "asNumber": 64512})
    view.put("BGPConfiguration", "default", {"asNumber": 64512})
    assert view.values.keys() == {
        ResourceKey("LiveMigration", "ns", "m"),
        ResourceKey("BGPPeer", "", "p"),
        ResourceKey("BGPConfiguration", "", "default"),
    }


def test_a_bad_object_is_warned_of_once_a_revision(caplog: pytest.LogCaptureFixture) -> None:
    translator = Translator(interest(SyncerKind.FELIX, "n1"))
    key, bad = resource_key("IPPool", "p"), document("IPPool", "p", {"cidr": "bad"})
    for revision in (7, 7, 8, 8, 9):
        translator.translate(key, KeyValue(key, bad, 1, revision))
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["IPPool(p)"] * 3


POD_CIDRS = {"status": {"podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]}}


def test_with_pod_cidrs_in_use_nodes_stand_for_blocks() -> None:
    view = View(use_pod_cidr=True)
    view.put("Node", "n2", {}, **POD_CIDRS)
    blocks = {cidr: AllocationBlock(cidr, "host:n2") for cidr in ("10.244.1.0/24", "fd00:10:244:1::/64")}
    assert {key.cidr: value for key, value in view.values.items() if isinstance(key, BlockKey)} == blocks
    assert not any("assignment" in prefix for prefix in interest(SyncerKind.FELIX, "n1", use_pod_cidr=True).prefixes)
    view.put("Node", "n2", {})
    assert view.values.keys() == {ResourceKey("Node", "", "n2")}


def test_with_pod_cidrs_in_use_a_node_announces_its_own() -> None:
    view = View(SyncerKind.BGP, use_pod_cidr=True)
    for name in ("n1", "n2"):
        view.put("Node", name, {}, **POD_CIDRS)
    affinities = {
        BlockAffinityKey(cidr, "n1"): BlockAffinity("confirmed") for cidr in POD_CIDRS["status"]["podCIDRs"]
    }
    nodes = {ResourceKey("Node", "", "n1"), ResourceKey("Node", "", "n2")}
    assert {key: value for key, value in view.values.items() if key not in nodes} == affinities
    assert not any("ipam" in prefix for prefix in interest(SyncerKind.BGP, "n1", use_pod_cidr=True).prefixes)


def test_without_pod_cidrs_in_use_they_say_nothing() -> None:
    for kind in (SyncerKind.FELIX, SyncerKind.BGP):
        view = View(kind)
        view.put("Node", "n1", {}, **POD_CIDRS)
        assert view.values.keys() == {ResourceKey("Node", "", "n1")}
