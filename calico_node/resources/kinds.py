"""Every kind of the v3 API: its plural, scope, class and the names calicoctl takes for it."""

from collections.abc import Mapping
from functools import cached_property
from importlib import import_module
from types import MappingProxyType
from typing import cast

from attrs import frozen

from calico_node.resources.meta import Resource

TIERED_KINDS = frozenset(("NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy", "StagedGlobalNetworkPolicy"))
"""The policy kinds that carry a tier."""


@frozen
class KindInfo:
    """``names`` are calicoctl's (lower case; empty: calicoctl does not know the kind); ``module`` holds the class."""

    kind: str
    plural: str
    namespaced: bool
    module: str
    names: tuple[str, ...] = ()

    @cached_property
    def cls(self) -> type[Resource]:
        """The class; its module is imported on first use."""
        return cast(type[Resource], getattr(import_module(f"calico_node.resources.{self.module}"), self.kind))


def _kind(
    kind: str, plural: str, module: str, short: str = "", *, namespaced: bool = False, ctl: bool = True
) -> KindInfo:
    names = (kind.lower(), plural, *short.split()) if ctl else ()
    return KindInfo(kind, plural, namespaced, module, names)


_ALL = (
    _kind("BGPConfiguration", "bgpconfigurations", "bgp", "bgpconfig bgpconfigs"),
    _kind("BGPFilter", "bgpfilters", "bgp", "bgpf bgpfs bf bfs"),
    _kind("BGPPeer", "bgppeers", "bgp", "bgpp bgpps bp bps"),
    _kind("BlockAffinity", "blockaffinities", "ippool", ctl=False),
    _kind("CalicoNodeStatus", "caliconodestatuses", "bgp", "nodestatus nodestatuses"),
    _kind("ClusterInformation", "clusterinformations", "cluster", "clusterinfo clusterinfos"),
    _kind("FelixConfiguration", "felixconfigurations", "felix", "felixconfig felixconfigs"),
    _kind("GlobalNetworkPolicy", "globalnetworkpolicies", "policy", "gnp gnps"),
    _kind("GlobalNetworkSet", "globalnetworksets", "policy", "gnetsets"),
    _kind("HostEndpoint", "hostendpoints", "endpoint", "hep heps"),
    _kind("IPAMConfiguration", "ipamconfigurations", "ippool", "ipamconfig ipamconfigs"),
    _kind("IPPool", "ippools", "ippool", "ipp ipps pool pools"),
    _kind("IPReservation", "ipreservations", "ippool", "reservation reservations"),
    _kind(
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
        "cluster",
        "kubecontrollersconfig kubecontrollersconfigs",
    ),
    _kind("LiveMigration", "livemigrations", "endpoint", namespaced=True, ctl=False),
    _kind("NetworkPolicy", "networkpolicies", "policy", "policy policies np pol pols", namespaced=True),
    _kind("NetworkSet", "networksets", "policy", "netsets", namespaced=True),
    _kind("Node", "nodes", "endpoint", "no nos"),
    _kind("Profile", "profiles", "policy", "pro pros"),
    _kind("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", "policy", "sgnp sgnps"),
    _kind(
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        "policy",
        "stagedkubernetespolicy stagedkubernetespolicies sknp skpol skpols",
        namespaced=True,
    ),
    _kind(
        "StagedNetworkPolicy",
        "stagednetworkpolicies",
        "policy",
        "stagedpolicy stagedpolicies snp spol spols",
        namespaced=True,
    ),
    _kind("Tier", "tiers", "policy"),
    _kind("WorkloadEndpoint", "workloadendpoints", "endpoint", "wep weps", namespaced=True),
)

KINDS: Mapping[str, KindInfo] = MappingProxyType({info.kind: info for info in _ALL})
"""By kind, in alphabetical order."""

_BY_NAME = {name: info for info in _ALL for name in info.names}


def kind_by_name(name: str) -> KindInfo | None:
    """The kind that calicoctl calls ``name`` (any case), None if there is none."""
    return _BY_NAME.get(name.lower())
