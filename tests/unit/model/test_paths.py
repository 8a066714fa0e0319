"""Key paths: Calico's texts, and every key comes back from its text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calico_node.model import (
    BlockAffinityKey,
    BlockKey,
    GlobalConfigKey,
    HostConfigKey,
    HostEndpointKey,
    IPPoolKey,
    Key,
    NetworkSetKey,
    PolicyKey,
    ProfileLabelsKey,
    ProfileRulesKey,
    ReadyFlagKey,
    ResourceKey,
    TierKey,
    WireguardKey,
    WorkloadEndpointKey,
)
from calico_node.model.paths import key_path, parse_key_path

VECTORS: list[tuple[Key, str]] = [
    (PolicyKey("GlobalNetworkPolicy", "", "foo"), "/calico/v1/policy/GlobalNetworkPolicy//foo"),
    (PolicyKey("NetworkPolicy", "ns", "foo"), "/calico/v1/policy/NetworkPolicy/ns/foo"),
    (TierKey("default"), "/calico/v1/policy/tier/default/metadata"),
    (ProfileRulesKey("kns.a"), "/calico/v1/policy/profile/kns.a/rules"),
    (ProfileLabelsKey("kns.a"), "/calico/v1/policy/profile/kns.a/labels"),
    (
        WorkloadEndpointKey("h", "k8s", "ns/pod", "eth0"),
        "/calico/v1/host/h/workload/k8s/ns%2fpod/endpoint/eth0",
    ),
    (HostEndpointKey("h", "eth0"), "/calico/v1/host/h/endpoint/eth0"),
    (NetworkSetKey("ns/name"), "/calico/v1/netset/ns%2fname"),
    (IPPoolKey("10.0.0.0/16"), "/calico/v1/ipam/v4/pool/10.0.0.0-16"),
    (IPPoolKey("fd00::/48"), "/calico/v1/ipam/v6/pool/fd00::-48"),
    (BlockKey("192.168.0.0/26"), "/calico/ipam/v2/assignment/ipv4/block/192.168.0.0-26"),
    (BlockAffinityKey("192.168.0.0/26", "h"), "/calico/ipam/v2/host/h/ipv4/block/192.168.0.0-26"),
    (
        BlockAffinityKey("fd00::/122", "load-balancer", "virtual"),
        "/calico/ipam/v2/virtual/load-balancer/ipv6/block/fd00::-122",
    ),
    (HostConfigKey("h", "IpInIpTunnelAddr"), "/calico/v1/host/h/config/IpInIpTunnelAddr"),
    (GlobalConfigKey("ClusterGUID"), "/calico/v1/config/ClusterGUID"),
    (ReadyFlagKey(), "/calico/v1/Ready"),
    (WireguardKey("h"), "/calico/v1/host/h/wireguard"),
]


@pytest.mark.parametrize(("key", "path"), VECTORS)
def test_paths_are_calicos(key: Key, path: str) -> None:
    assert key_path(key) == path
    assert parse_key_path(path) == key


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("ns%2fknp.default.x", PolicyKey("KubernetesNetworkPolicy", "ns", "knp.default.x")),
        ("ns%2fstaged:knp.default.x", PolicyKey("StagedKubernetesNetworkPolicy", "ns", "knp.default.x")),
        ("ns%2fstaged:x", PolicyKey("StagedNetworkPolicy", "ns", "x")),
        ("ns%2fx", PolicyKey("NetworkPolicy", "ns", "x")),
        ("staged:x", PolicyKey("StagedGlobalNetworkPolicy", "", "x")),
        ("kcnp.x", PolicyKey("KubernetesClusterNetworkPolicy", "", "kcnp.x")),
        ("x", PolicyKey("GlobalNetworkPolicy", "", "x")),
    ],
)
def test_policy_paths_of_older_releases_are_read(name: str, key: PolicyKey) -> None:
    assert parse_key_path(f"/calico/v1/policy/tier/T/policy/{name}") == key


def test_a_resource_needs_its_plural() -> None:
    key = ResourceKey("Node", "", "n")
    assert key_path(key, "nodes") == "/calico/resources/v3/projectcalico.org/nodes/n"
    with pytest.raises(ValueError, match="plural"):
        key_path(key)


@pytest.mark.parametrize("path", ["", "/", "/calico/v1/nothing", "/calico/v1/ipam/v4/pool/x-y", "/calico/v1/Ready/x"])
def test_other_paths_are_nobodys(path: str) -> None:
    assert parse_key_path(path) is None


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), min_size=1, max_size=12)


@given(names, names, names)
def test_escaped_names_come_back(workload: str, endpoint: str, orchestrator: str) -> None:
    for key in (
        WorkloadEndpointKey("host", orchestrator, workload, endpoint),
        HostEndpointKey("host", endpoint),
        NetworkSetKey(workload),
        ProfileRulesKey(workload),
    ):
        assert parse_key_path(key_path(key)) == key
