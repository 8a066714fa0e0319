"""The v3 API: every kind as an attrs class, with defaults, validation, YAML and JSON.

A class is imported with its module on first use (``from calico_node.resources import IPPool`` works as usual), so
that a command-line tool pays only for the kinds it touches.
"""

from typing import TYPE_CHECKING, Any

from calico_node.resources.api import decode, encode, encode_json, escape_json, from_dict, to_dict
from calico_node.resources.defaults import apply_defaults
from calico_node.resources.documents import Document, expand_lists, load_documents, load_resources
from calico_node.resources.fields import Struct
from calico_node.resources.kinds import KINDS, TIERED_KINDS, KindInfo, kind_by_name
from calico_node.resources.meta import API_VERSION, ObjectMeta, Resource, describe
from calico_node.resources.validation import validate

if TYPE_CHECKING:
    from calico_node.resources.bgp import (
        AddCommunity,
        AgentStatus,
        BGPConfiguration,
        BGPConfigurationSpec,
        BGPFilter,
        BGPFilterSpec,
        BGPPassword,
        BGPPeer,
        BGPPeerSpec,
        BGPStatus,
        CalicoNodeStatus,
        CalicoNodeStatusSpec,
        CalicoNodeStatusStatus,
        Community,
        CommunityMatch,
        DaemonStatus,
        FilterOperation,
        FilterRule,
        PeerStatus,
        PrefixAdvertisement,
        PrefixLength,
        PrependASPath,
        RouteSource,
        RoutesStatus,
        RouteStatus,
        SecretKeyRef,
        ServiceBlock,
        SetPriority,
    )
    from calico_node.resources.cluster import (
        AutoHostEndpoint,
        ClusterInformation,
        ClusterInformationSpec,
        Controller,
        Controllers,
        HostEndpointTemplate,
        KubeControllersConfiguration,
        KubeControllersConfigurationSpec,
        KubeControllersConfigurationStatus,
        LoadBalancerController,
        MigrationController,
        NodeController,
    )
    from calico_node.resources.endpoint import (
        IPNAT,
        EndpointPort,
        HostEndpoint,
        HostEndpointSpec,
        LiveMigration,
        LiveMigrationSource,
        LiveMigrationSpec,
        LiveMigrationTarget,
        Node,
        NodeAddress,
        NodeBGPSpec,
        NodeInterface,
        NodeSpec,
        NodeStatus,
        NodeWireguardSpec,
        OrchRef,
        QoSControls,
        WorkloadEndpoint,
        WorkloadEndpointID,
        WorkloadEndpointPort,
        WorkloadEndpointSpec,
        WorkloadID,
    )
    from calico_node.resources.felix import (
        BPFConntrackTimeouts,
        FelixConfiguration,
        FelixConfigurationSpec,
        HealthTimeoutOverride,
        ProtoPort,
        RouteTableIDRange,
        RouteTableRange,
    )
    from calico_node.resources.ippool import (
        BlockAffinity,
        BlockAffinitySpec,
        IPAMConfiguration,
        IPAMConfigurationSpec,
        IPPool,
        IPPoolSpec,
        IPReservation,
        IPReservationSpec,
    )
    from calico_node.resources.policy import (
        Condition,
        ConditionsStatus,
        EntityRule,
        GlobalNetworkPolicy,
        GlobalNetworkPolicySpec,
        GlobalNetworkSet,
        HTTPMatch,
        HTTPPath,
        ICMPFields,
        NetworkPolicy,
        NetworkPolicySpec,
        NetworkSet,
        NetworkSetSpec,
        PolicySpec,
        Profile,
        ProfileSpec,
        Rule,
        RuleMetadata,
        ServiceAccountMatch,
        ServiceMatch,
        StagedGlobalNetworkPolicy,
        StagedGlobalNetworkPolicySpec,
        StagedKubernetesNetworkPolicy,
        StagedKubernetesNetworkPolicySpec,
        StagedNetworkPolicy,
        StagedNetworkPolicySpec,
        Tier,
        TierSpec,
    )

_MODULES = {
    "bgp": (
        "AddCommunity AgentStatus BGPConfiguration BGPConfigurationSpec BGPFilter BGPFilterSpec BGPPassword "
        "BGPPeer BGPPeerSpec BGPStatus CalicoNodeStatus CalicoNodeStatusSpec CalicoNodeStatusStatus Community "
        "CommunityMatch DaemonStatus FilterOperation FilterRule PeerStatus PrefixAdvertisement PrefixLength "
        "PrependASPath RouteSource RouteStatus RoutesStatus SecretKeyRef ServiceBlock SetPriority"
    ),
    "cluster": (
        "AutoHostEndpoint ClusterInformation ClusterInformationSpec Controller Controllers "
        "HostEndpointTemplate KubeControllersConfiguration KubeControllersConfigurationSpec "
        "KubeControllersConfigurationStatus LoadBalancerController MigrationController NodeController"
    ),
    "endpoint": (
        "EndpointPort HostEndpoint HostEndpointSpec IPNAT LiveMigration LiveMigrationSource LiveMigrationSpec "
        "LiveMigrationTarget Node NodeAddress NodeBGPSpec NodeInterface NodeSpec NodeStatus NodeWireguardSpec "
        "OrchRef QoSControls WorkloadEndpoint WorkloadEndpointID WorkloadEndpointPort WorkloadEndpointSpec "
        "WorkloadID"
    ),
    "felix": (
        "BPFConntrackTimeouts FelixConfiguration FelixConfigurationSpec HealthTimeoutOverride ProtoPort "
        "RouteTableIDRange RouteTableRange"
    ),
    "ippool": (
        "BlockAffinity BlockAffinitySpec IPAMConfiguration IPAMConfigurationSpec IPPool IPPoolSpec "
        "IPReservation IPReservationSpec"
    ),
    "policy": (
        "Condition ConditionsStatus EntityRule GlobalNetworkPolicy GlobalNetworkPolicySpec GlobalNetworkSet "
        "HTTPMatch HTTPPath ICMPFields NetworkPolicy NetworkPolicySpec NetworkSet NetworkSetSpec PolicySpec "
        "Profile ProfileSpec Rule RuleMetadata ServiceAccountMatch ServiceMatch StagedGlobalNetworkPolicy "
        "StagedGlobalNetworkPolicySpec StagedKubernetesNetworkPolicy StagedKubernetesNetworkPolicySpec "
        "StagedNetworkPolicy StagedNetworkPolicySpec Tier TierSpec"
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"calico_node.resources.{module}"), name)
    globals()[name] = value
    return value


__all__ = [
    "API_VERSION",
    "IPNAT",
    "KINDS",
    "TIERED_KINDS",
    "AddCommunity",
    "AgentStatus",
    "AutoHostEndpoint",
    "BGPConfiguration",
    "BGPConfigurationSpec",
    "BGPFilter",
    "BGPFilterSpec",
    "BGPPassword",
    "BGPPeer",
    "BGPPeerSpec",
    "BGPStatus",
    "BPFConntrackTimeouts",
    "BlockAffinity",
    "BlockAffinitySpec",
    "CalicoNodeStatus",
    "CalicoNodeStatusSpec",
    "CalicoNodeStatusStatus",
    "ClusterInformation",
    "ClusterInformationSpec",
    "Community",
    "CommunityMatch",
    "Condition",
    "ConditionsStatus",
    "Controller",
    "Controllers",
    "DaemonStatus",
    "Document",
    "EndpointPort",
    "EntityRule",
    "FelixConfiguration",
    "FelixConfigurationSpec",
    "FilterOperation",
    "FilterRule",
    "GlobalNetworkPolicy",
    "GlobalNetworkPolicySpec",
    "GlobalNetworkSet",
    "HTTPMatch",
    "HTTPPath",
    "HealthTimeoutOverride",
    "HostEndpoint",
    "HostEndpointSpec",
    "HostEndpointTemplate",
    "ICMPFields",
    "IPAMConfiguration",
    "IPAMConfigurationSpec",
    "IPPool",
    "IPPoolSpec",
    "IPReservation",
    "IPReservationSpec",
    "KindInfo",
    "KubeControllersConfiguration",
    "KubeControllersConfigurationSpec",
    "KubeControllersConfigurationStatus",
    "LiveMigration",
    "LiveMigrationSource",
    "LiveMigrationSpec",
    "LiveMigrationTarget",
    "LoadBalancerController",
    "MigrationController",
    "NetworkPolicy",
    "NetworkPolicySpec",
    "NetworkSet",
    "NetworkSetSpec",
    "Node",
    "NodeAddress",
    "NodeBGPSpec",
    "NodeController",
    "NodeInterface",
    "NodeSpec",
    "NodeStatus",
    "NodeWireguardSpec",
    "ObjectMeta",
    "OrchRef",
    "PeerStatus",
    "PolicySpec",
    "PrefixAdvertisement",
    "PrefixLength",
    "PrependASPath",
    "Profile",
    "ProfileSpec",
    "ProtoPort",
    "QoSControls",
    "Resource",
    "RouteSource",
    "RouteStatus",
    "RouteTableIDRange",
    "RouteTableRange",
    "RoutesStatus",
    "Rule",
    "RuleMetadata",
    "SecretKeyRef",
    "ServiceAccountMatch",
    "ServiceBlock",
    "ServiceMatch",
    "SetPriority",
    "StagedGlobalNetworkPolicy",
    "StagedGlobalNetworkPolicySpec",
    "StagedKubernetesNetworkPolicy",
    "StagedKubernetesNetworkPolicySpec",
    "StagedNetworkPolicy",
    "StagedNetworkPolicySpec",
    "Struct",
    "Tier",
    "TierSpec",
    "WorkloadEndpoint",
    "WorkloadEndpointID",
    "WorkloadEndpointPort",
    "WorkloadEndpointSpec",
    "WorkloadID",
    "apply_defaults",
    "decode",
    "describe",
    "encode",
    "encode_json",
    "escape_json",
    "expand_lists",
    "from_dict",
    "kind_by_name",
    "load_documents",
    "load_resources",
    "to_dict",
    "validate",
]
