"""Valid documents of every kind which together have every field of every class: seeds of tests and of the fuzzer."""

from __future__ import annotations

from typing import Any

from calico_node.resources.felix import FelixConfigurationSpec
from calico_node.resources.fields import Fault, Struct
from calico_node.resources.kinds import KINDS
from calico_node.resources.structure import Plan, plan_of
from calico_node.resources.validation import check_struct

NAMESPACED = {info.kind for info in KINDS.values() if info.namespaced}
TIME = "2026-08-01T10:00:00Z"


def document(kind: str, spec: dict[str, Any], *, name: str = "default", **body: Any) -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": "prod"} if kind in NAMESPACED else {}), **body.pop("metadata", {})}
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": metadata, "spec": spec, **body}


RULES: list[dict[str, Any]] = [
    {
        "action": "Allow",
        "ipVersion": 4,
        "protocol": "TCP",
        "notProtocol": 17,
        "source": {
            "nets": ["10.0.0.0/8"],
            "notNets": ["10.1.0.0/16"],
            "selector": "role == 'fe' && has(x)",
            "notSelector": "role in {'a', 'b'}",
            "namespaceSelector": "name starts with 'pr'",
            "ports": [80, "8000:8010", "http"],
            "notPorts": [8005],
            "serviceAccounts": {"names": ["a", "b"], "selector": "role == 'x'"},
        },
        "destination": {"nets": ["10.2.0.0/16"], "ports": [443]},
        "metadata": {"annotations": {"why": "ü <&>"}},
    },
    {"action": "Deny", "protocol": "ICMP", "icmp": {"type": 8, "code": 0}, "notICMP": {"type": 3, "code": 1}},
    {"action": "Log", "protocol": 132, "source": {"namespaceSelector": "global()"}},
    {"action": "Pass", "destination": {"ports": ["metrics"]}},
]
INGRESS: list[dict[str, Any]] = [
    *RULES,
    {"action": "Allow", "http": {"methods": ["GET"], "paths": [{"exact": "/a"}, {"prefix": "/b"}]}},
    {"action": "Allow", "source": {"services": {"name": "web", "namespace": "prod"}}},
]
EGRESS: list[dict[str, Any]] = [
    *RULES,
    {"action": "Allow", "destination": {"services": {"name": "db", "namespace": "prod"}}},
]
POLICY: dict[str, Any] = {
    "tier": "default",
    "order": 10.5,
    "ingress": INGRESS,
    "egress": EGRESS,
    "selector": "app == 'web'",
    "types": ["Ingress", "Egress"],
    "serviceAccountSelector": "has(role)",
    "performanceHints": ["AssumeNeededOnEveryNode"],
}
GLOBAL = {**POLICY, "namespaceSelector": "has(team)"}
UNTRACKED = {"doNotTrack": True, "preDNAT": False, "applyOnForward": True, "ingress": RULES, "egress": RULES}
BEFORE_DNAT = {"preDNAT": True, "applyOnForward": True, "ingress": RULES}
LABELS = {"matchLabels": {"app": "web"}, "matchExpressions": [{"key": "a/b", "operator": "In", "values": ["x"]}]}
PORTS = [{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}]
PEERS: list[dict[str, Any]] = [
    {"podSelector": LABELS, "namespaceSelector": {}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
]
STAGED_KUBERNETES = {
    "stagedAction": "Set",
    "podSelector": LABELS,
    "ingress": [{"from": PEERS, "ports": PORTS}],
    "egress": [{"to": PEERS, "ports": PORTS}],
    "policyTypes": ["Ingress", "Egress"],
}
FILTER: list[dict[str, Any]] = [
    {
        "action": "Accept",
        "source": "RemotePeers",
        "interface": "eth*",
        "peerType": "eBGP",
        "communities": {"values": ["65000:1"]},
        "asPathPrefix": [64512, "1.1"],
        "priority": 5,
        "operations": [
            {"addCommunity": {"value": "1:2:3"}},
            {"prependASPath": {"prefix": [64512]}},
            {"setPriority": {"value": 7}},
        ],
    },
    {"action": "Reject", "interface": "*"},
]
V4 = [
    *FILTER,
    {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"min": 8, "max": 32}},
]
V6 = [*FILTER, {"action": "Accept", "cidr": "fd00::/8", "matchOperator": "NotIn", "prefixLength": {"max": 128}}]
PASSWORD = {"secretKeyRef": {"name": "bgp", "key": "password", "optional": True}}
CONDITION = {
    "type": "Ready",
    "status": "True",
    "observedGeneration": 1,
    "lastTransitionTime": TIME,
    "reason": "OK",
    "message": "",
}
DAEMON = {
    "state": "Ready",
    "version": "1",
    "routerID": "10.0.0.1",
    "lastBootTime": "now",
    "lastReconfigurationTime": "",
}
SESSION = {"peerIP": "10.0.0.2", "type": "NodeMesh", "state": "Established", "since": "10:00"}
ROUTE = {
    "type": "FIB",
    "destination": "10.0.0.0/26",
    "gateway": "10.0.0.2",
    "interface": "eth0",
    "learnedFrom": {"sourceType": "BGPPeer", "peerIP": "10.0.0.2"},
}
QOS = {
    f"{way}{what}": 1_000_000
    for way in ("ingress", "egress")
    for what in ("Bandwidth", "Burst", "Peakrate", "Minburst", "PacketRate", "PacketBurst", "MaxConnections")
}
CONTROLLERS: dict[str, Any] = {
    "logSeverityScreen": "Info",
    "healthChecks": "Enabled",
    "etcdV3CompactionPeriod": "10m0s",
    "prometheusMetricsPort": 9094,
    "debugProfilePort": 6060,
    "controllers": {
        "node": {
            "reconcilerPeriod": "5m0s",
            "syncLabels": "Enabled",
            "leakGracePeriod": "15m0s",
            "hostEndpoint": {
                "autoCreate": "Enabled",
                "createDefaultHostEndpoint": "Disabled",
                "templates": [
                    {
                        "generateName": "x",
                        "interfaceCIDRs": ["10.0.0.0/8"],
                        "interfacePattern": "eth.*",
                        "labels": {"a": "b"},
                        "annotations": {"c": "d"},
                        "nodeSelector": "has(a)",
                    }
                ],
            },
        },
        **{
            name: {"reconcilerPeriod": "5m0s"}
            for name in ("policy", "workloadEndpoint", "serviceAccount", "namespace")
        },
        "loadBalancer": {"assignIPs": "RequestedServicesOnly"},
        "policyMigration": {"enabled": "Disabled"},
    },
}
METADATA = {
    "generateName": "x",
    "selfLink": "/x",
    "uid": "5f6c0d6e-6d0e-4e0b-9c6c-0a1b2c3d4e5f",
    "resourceVersion": "17",
    "generation": 2,
    "creationTimestamp": TIME,
    "deletionTimestamp": "2026-08-01T10:00:00.5+02:00",
    "deletionGracePeriodSeconds": 30,
    "labels": {"a.b/c": "D_e.f"},
    "annotations": {"A.b/c": "any text at all: ü <&>\u2028"},
    "ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": True, "blockOwnerDeletion": False}
    ],
    "finalizers": ["projectcalico.org/x"],
    "managedFields": [
        {
            "manager": "kubectl",
            "operation": "Update",
            "apiVersion": "projectcalico.org/v3",
            "time": TIME,
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:spec": {}},
            "subresource": "status",
        }
    ],
}
_CANDIDATES: tuple[Any, ...] = (
    True, 100, "90s", "Auto", "Enabled", "Info", "Accept", "Drop", "Strict", "fd00::1", "10.0.0.1", "10.0.0.0/24",
    "has(a)", "5/minute", "Insert", "NoClientCert", "Any", "WorkloadIPs", "IPPoolsOnly", "PodsAndLoadBalancers",
    "All", "TC", "DSR", "Debug", "Userspace", "TCP", "DoubleIfFull", "HostAddress", "Continuous", "DoNothing", "EF",
    {}, [],
)  # fmt: skip


def felix_spec() -> dict[str, Any]:
    """Every field of FelixConfiguration, each with the first candidate that its own check takes."""
    special: dict[str, Any] = {
        "featureGates": "A=b,C=d",
        "routeTableRange": {"min": 1, "max": 250},
        "routeTableRanges": [{"min": 1, "max": 250}],
        "healthTimeoutOverrides": [{"name": "int_dataplane", "timeout": "30s"}],
        "failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22, "net": "10.0.0.0/8"}],
        "failsafeOutboundHostPorts": [],
        "externalNodesList": ["10.9.0.0/16"],
        "kubeNodePortRanges": [80, "30000:32767"],
        "bpfConntrackTimeouts": dict.fromkeys(plan_of(_timeouts()), "Auto"),
        "bpfDSROptoutCIDRs": ["10.0.0.0/8"],
        "bpfExcludeCIDRsFromNAT": ["10.0.0.0/8"],
        "bpfForceTrackPacketsFromIfaces": ["docker+"],
        "bpfLogFilters": {"eth0": "tcp"},
        "deviceRouteSourceAddress": "10.0.0.1",
        "natOutgoingAddress": "10.0.0.1",
        "deviceRouteSourceAddressIPv6": "fd00::1",
        "openstackRegion": "region",
        "natPortRange": "1000:2000",
    }
    plans = plan_of(FelixConfigurationSpec)
    return {name: special[name] if name in special else _candidate(plan) for name, plan in plans.items()}


def _timeouts() -> type[Struct]:
    element = plan_of(FelixConfigurationSpec)["bpfConntrackTimeouts"].element
    assert element is not None
    return element


def _candidate(plan: Plan) -> Any:
    for value in _CANDIDATES:
        spec = FelixConfigurationSpec()
        try:
            setattr(spec, plan.attribute, plan.read(value, True))
            check_struct(spec)
        except Fault:
            continue
        return value
    raise AssertionError(f"no candidate fits {plan.name}")


def without(spec: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in spec.items() if name not in names}


FELIX = felix_spec()

DOCUMENTS: list[dict[str, Any]] = [
    document("NetworkPolicy", POLICY, name="web", metadata=METADATA, status={"conditions": [CONDITION]}),
    document("GlobalNetworkPolicy", GLOBAL, name="web", status={"conditions": [CONDITION]}),
    document("GlobalNetworkPolicy", UNTRACKED, name="tier.untracked"),
    document("GlobalNetworkPolicy", BEFORE_DNAT, name="dnat"),
    document("StagedNetworkPolicy", {**POLICY, "stagedAction": "Learn"}, status={"conditions": [CONDITION]}),
    document("StagedNetworkPolicy", {"stagedAction": "Delete", "tier": "x"}),
    document("StagedGlobalNetworkPolicy", {**GLOBAL, "stagedAction": "Set"}, status={"conditions": [CONDITION]}),
    document("StagedGlobalNetworkPolicy", {**UNTRACKED, "stagedAction": "Ignore"}),
    document("StagedKubernetesNetworkPolicy", STAGED_KUBERNETES, status={"conditions": [CONDITION]}),
    document("Tier", {"order": 5, "defaultAction": "Pass"}, name="t", status={"conditions": [CONDITION]}),
    document("NetworkSet", {"nets": ["10.0.0.1", "10.0.0.5/8", "fd00::/8"]}),
    document("GlobalNetworkSet", {"nets": ["10.0.0.0/8"]}),
    document("Profile", {"ingress": RULES, "egress": RULES, "labelsToApply": {"a": "b"}}, name="kns.prod"),
    document(
        "IPPool",
        {
            "cidr": "192.168.0.0/16",
            "vxlanMode": "CrossSubnet",
            "ipipMode": "Never",
            "natOutgoing": True,
            "disabled": True,
            "disableBGPExport": True,
            "blockSize": 26,
            "nodeSelector": "has(a)",
            "namespaceSelector": "has(b)",
            "allowedUses": ["Workload"],
            "assignmentMode": "Manual",
        },
        status={"conditions": [CONDITION]},
    ),
    document("IPPool", {"cidr": "10.9.0.0/24", "allowedUses": ["LoadBalancer"]}),
    document("IPPool", {"cidr": "fd00::/64"}),
    document("IPReservation", {"reservedCIDRs": ["10.0.0.0/30", "fd00::1/128"]}),
    document(
        "IPAMConfiguration",
        {
            "strictAffinity": True,
            "autoAllocateBlocks": False,
            "maxBlocksPerHost": 20,
            "kubeVirtVMAddressPersistence": "Disabled",
            "ipCooldownSeconds": 60,
        },
    ),
    document(
        "BlockAffinity",
        {"state": "confirmed", "node": "n", "type": "host", "cidr": "10.0.0.0/26", "deleted": "false"},
    ),
    document(
        "BGPConfiguration",
        {
            "logSeverityScreen": "Info",
            "nodeToNodeMeshEnabled": True,
            "asNumber": "1.1",
            "serviceLoadBalancerIPs": [{"cidr": "10.1.0.0/16"}],
            "serviceExternalIPs": [{"cidr": "10.2.0.0/16"}],
            "serviceClusterIPs": [{"cidr": "10.3.0.0/16"}],
            "serviceLoadBalancerAggregation": "Disabled",
            "communities": [{"name": "a", "value": "1:1"}],
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a", "1:2:3"]}],
            "listenPort": 179,
            "nodeMeshPassword": PASSWORD,
            "nodeMeshMaxRestartTime": "2m0s",
            "bindMode": "NodeIP",
            "ignoredInterfaces": ["eth*", "lo"],
            "localWorkloadPeeringIPV4": "10.0.0.1",
            "localWorkloadPeeringIPV6": "fd00::1",
            "programClusterRoutes": "EnabledIPIPOnly",
            "ipv4NormalRoutePriority": 1024,
            "ipv6NormalRoutePriority": 1024,
        },
    ),
    document(
        "BGPPeer",
        {
            "node": "n",
            "peerIP": "10.0.0.1:1790",
            "asNumber": "65000",
            "password": PASSWORD,
            "sourceAddress": "None",
            "maxRestartTime": "2m0s",
            "keepaliveTime": "30s",
            "numAllowedLocalASNumbers": 1,
            "ttlSecurity": 255,
            "reachableBy": "10.0.0.9",
            "filters": ["f"],
            "reversePeering": "Manual",
            "nextHopMode": "Keep",
            "localASNumber": 64513,
        },
    ),
    document("BGPPeer", {"nodeSelector": "has(a)", "peerSelector": "has(rr)", "keepOriginalNextHop": True}),
    document("BGPPeer", {"localWorkloadSelector": "has(a)", "asNumber": 5}),
    document("BGPFilter", {"exportV4": V4, "importV4": V4, "exportV6": V6, "importV6": V6}),
    document(
        "CalicoNodeStatus",
        {"node": "n", "classes": ["Agent", "BGP", "Routes"], "updatePeriodSeconds": 10},
        status={
            "lastUpdated": TIME,
            "agent": {"birdV4": DAEMON, "birdV6": DAEMON},
            "bgp": {
                "numberEstablishedV4": 1,
                "numberNotEstablishedV4": 0,
                "numberEstablishedV6": 0,
                "numberNotEstablishedV6": 0,
                "peersV4": [SESSION],
                "peersV6": [SESSION],
            },
            "routes": {"routesV4": [ROUTE], "routesV6": [ROUTE]},
        },
    ),
    document(
        "ClusterInformation",
        {
            "clusterGUID": "9a3b5c7d1e2f4a6b8c0d1e2f3a4b5c6d",
            "clusterType": "k8s,bgp",
            "calicoVersion": "v3.33.0",
            "datastoreReady": True,
            "variant": "Calico",
        },
    ),
    document(
        "KubeControllersConfiguration",
        CONTROLLERS,
        status={"runningConfig": CONTROLLERS, "environmentVars": {"LOG_LEVEL": "info"}},
    ),
    document("FelixConfiguration", without(FELIX, "routeTableRange"), name="gpu"),
    document("FelixConfiguration", without(FELIX, "routeTableRanges", "nodeSelector"), name="node.a"),
    document(
        "Node",
        {
            "bgp": {
                "asNumber": 64512,
                "ipv4Address": "10.0.0.5/24",
                "ipv6Address": "fd00::5/64",
                "ipv4IPIPTunnelAddr": "192.168.0.1",
                "routeReflectorClusterID": "1.0.0.1",
            },
            "ipv4VXLANTunnelAddr": "192.168.0.2",
            "vxlanTunnelMACAddr": "66:cf:23:df:22:07",
            "ipv6VXLANTunnelAddr": "fd00::2",
            "vxlanTunnelMACAddrV6": "66:cf:23:df:22:08",
            "orchRefs": [{"nodeName": "n", "orchestrator": "k8s"}],
            "wireguard": {"interfaceIPv4Address": "10.0.0.7", "interfaceIPv6Address": "fd00::7"},
            "addresses": [{"address": "10.0.0.5/24", "type": "CalicoNodeIP"}],
            "interfaces": [{"name": "eth0", "addresses": ["10.0.0.5"]}],
        },
        status={
            "wireguardPublicKey": "jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY=",
            "wireguardPublicKeyV6": "jlkVyQYooZYzI2wFfNhSZez5eWh44yfq1wKVjLvSXgY=",
            "podCIDRs": ["10.0.0.0/24"],
        },
    ),
    document(
        "HostEndpoint",
        {
            "node": "n",
            "interfaceName": "eth0",
            "expectedIPs": ["10.0.0.1"],
            "profiles": ["p"],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        },
    ),
    document(
        "WorkloadEndpoint",
        {
            "orchestrator": "k8s",
            "workload": "w",
            "node": "node-1",
            "containerID": "c0ffee",
            "pod": "web-0",
            "endpoint": "eth0",
            "serviceAccountName": "default",
            "ipNetworks": ["192.168.0.5/32", "fd00::5/128"],
            "ipNATs": [{"internalIP": "192.168.0.5", "externalIP": "1.1.1.1"}],
            "ipv4Gateway": "10.0.0.1",
            "ipv6Gateway": "fd00::1",
            "profiles": ["kns.prod"],
            "interfaceName": "cali0d7763386da",
            "mac": "ee:ee:ee:ee:ee:ee",
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 8080, "hostPort": 80, "hostIP": "10.0.0.1"},
                {"name": "", "protocol": 17, "port": 53, "hostPort": 53, "hostIP": ""},
            ],
            "allowSpoofedSourcePrefixes": ["10.0.0.0/8"],
            "qosControls": {**QOS, "dscp": "AF11"},
        },
        name="node--1-k8s-web--0-eth0",
    ),
    document(
        "LiveMigration",
        {
            "source": {"workload": {"hostname": "a", "orchestratorID": "k8s", "workloadID": "prod/vm"}},
            "target": {"selector": "vm == 'x'"},
        },
    ),
    document(
        "LiveMigration",
        {
            "source": {
                "workloadEndpoint": {
                    "hostname": "a",
                    "orchestratorID": "k8s",
                    "workloadID": "prod/vm",
                    "endpointID": "eth0",
                }
            },
            "target": {"workloadEndpoint": {"hostname": "b"}},
        },
    ),
]
