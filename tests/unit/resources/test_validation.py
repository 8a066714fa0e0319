"""Defaults and rules of every kind: what is filled in, what is refused, and what the refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from calico_node.errors import ValidationError
from calico_node.resources import KINDS, Resource, apply_defaults, from_dict, to_dict, validate
from calico_node.resources.rules import parse_peer_ip


def make(kind: str, spec: dict[str, Any], *, name: str = "default", namespace: str = "", **metadata: Any) -> Resource:
    namespaced = KINDS[kind].namespaced
    meta = {"name": name, **({"namespace": namespace or "prod"} if namespaced or namespace else {}), **metadata}
    return from_dict({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": meta, "spec": spec})


def checked(kind: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """The spec as it would be stored."""
    resource = make(kind, spec, **metadata)
    apply_defaults(resource)
    validate(resource)
    stored: dict[str, Any] = to_dict(resource)["spec"]
    return stored


def refused(kind: str, spec: dict[str, Any], **metadata: Any) -> ValidationError:
    resource = make(kind, spec, **metadata)
    apply_defaults(resource)
    with pytest.raises(ValidationError) as caught:
        validate(resource)
    assert caught.value.resource.startswith(f"{kind}(")
    return caught.value


def rule(**members: Any) -> dict[str, Any]:
    return {"ingress": [{"action": "Allow", **members}]}


# Defaults


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ["Ingress"]),
        ({"ingress": [{"action": "Allow"}]}, ["Ingress"]),
        ({"egress": [{"action": "Allow"}]}, ["Egress"]),
        ({"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]}, ["Ingress", "Egress"]),
        ({"types": ["Egress"], "ingress": [{"action": "Allow"}]}, ["Egress"]),
    ],
)
@pytest.mark.parametrize("kind", ["NetworkPolicy", "GlobalNetworkPolicy", "StagedNetworkPolicy"])
def test_a_policys_types_follow_its_rules(kind: str, spec: dict[str, Any], types: list[str]) -> None:
    stored = checked(kind, spec)
    assert stored["types"] == types
    assert stored["tier"] == "default"
    assert stored.get("stagedAction") == ("Set" if kind.startswith("Staged") else None)


def test_a_pools_defaults_and_canonical_cidr() -> None:
    assert checked("IPPool", {"cidr": "192.168.0.0/16"}) == {
        "cidr": "192.168.0.0/16",
        "vxlanMode": "Never",
        "ipipMode": "Never",
        "blockSize": 26,
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
        "assignmentMode": "Automatic",
    }
    stored = checked("IPPool", {"cidr": "FD00:10:0::/64", "allowedUses": ["Workload"]})
    assert (stored["cidr"], stored["blockSize"], stored["allowedUses"]) == ("fd00:10::/64", 122, ["Workload"])


def test_other_defaults() -> None:
    assert checked("Tier", {}, name="t") == {"order": 1000000, "defaultAction": "Deny"}
    assert checked("Tier", {"order": 1000}, name="kube-admin") == {"order": 1000, "defaultAction": "Pass"}
    assert checked("BGPConfiguration", {}) == {
        "logSeverityScreen": "Info",
        "serviceLoadBalancerAggregation": "Enabled",
    }
    felix = checked(
        "FelixConfiguration", {"bpfConnectTimeLoadBalancingEnabled": True, "dataplaneWatchdogTimeout": "1500ms"}
    )
    assert felix["bpfConnectTimeLoadBalancing"] == "Enabled"
    assert felix["bpfHostNetworkedNATWithoutCTLB"] == "Disabled"
    assert felix["dataplaneWatchdogTimeout"] == "1.5s"
    assert felix["nftablesMode"] == "Auto"
    assert checked("FelixConfiguration", {})["floatingIPs"] == "Disabled"
    assert checked("IPAMConfiguration", {}) == {
        "strictAffinity": False,
        "autoAllocateBlocks": True,
        "maxBlocksPerHost": 0,
    }
    assert checked(
        "KubeControllersConfiguration", {"controllers": {"node": {}, "loadBalancer": {}, "policyMigration": {}}}
    ) == {
        "healthChecks": "Enabled",
        "prometheusMetricsPort": 9094,
        "controllers": {
            "node": {"leakGracePeriod": "15m0s"},
            "loadBalancer": {"assignIPs": "AllServices"},
            "policyMigration": {"enabled": "Enabled"},
        },
    }
    assert checked("StagedKubernetesNetworkPolicy", {"podSelector": {}, "egress": [{}]})["policyTypes"] == [
        "Ingress",
        "Egress",
    ]


# Rules


@pytest.mark.parametrize(
    "members",
    [
        {"protocol": "TCP", "destination": {"ports": [80, "8000:8010", "http"]}},
        {"protocol": 132, "source": {"notPorts": [1]}},
        {"destination": {"ports": ["http"]}},
        {"protocol": "ICMP", "icmp": {"type": 8, "code": 0}},
        {"notICMP": {"type": 8}},
        {"protocol": "ICMPv6", "ipVersion": 6},
        {"protocol": 255},
        {"source": {"nets": ["10.0.0.0/8", "192.168.0.1"], "notNets": ["10.1.0.0/16"]}},
        {"source": {"nets": ["0.0.0.0/0"]}},
        {"source": {"namespaceSelector": "global()"}},
        {"source": {"namespaceSelector": "global( )", "selector": "has(x)"}},
        {"source": {"services": {"name": "web"}, "ports": [80]}, "protocol": "TCP"},
        {"source": {"serviceAccounts": {"names": ["a"], "selector": "role == 'x'"}}},
        {"http": {"methods": ["GET"], "paths": [{"exact": "/a"}, {"prefix": "/b"}]}, "protocol": "TCP"},
        {"metadata": {"annotations": {"a": "b"}}},
    ],
)
def test_rules_that_are_allowed(members: dict[str, Any]) -> None:
    checked("NetworkPolicy", rule(**members))


@pytest.mark.parametrize(
    ("members", "field", "reason"),
    [
        ({"action": "allow"}, "action", "one of Allow, Deny, Log, Pass"),
        ({"action": ""}, "action", "is required"),
        ({"ipVersion": 5}, "ipVersion", "4 or 6"),
        ({"protocol": "tcp"}, "protocol", "one of ICMP"),
        ({"protocol": 256}, "protocol", "1 to 255"),
        ({"notProtocol": "0"}, "notProtocol", "1 to 255"),
        ({"destination": {"ports": [80]}}, "destination.ports[0]", "protocol must be TCP, UDP or SCTP"),
        ({"protocol": "ICMP", "source": {"notPorts": ["1:2"]}}, "source.notPorts[0]", "TCP, UDP or SCTP"),
        ({"protocol": "UDPLite", "source": {"ports": ["http"]}}, "source.ports[0]", "TCP, UDP or SCTP"),
        ({"protocol": "TCP", "source": {"ports": [0]}}, "source.ports[0]", "1 to 65535"),
        ({"source": {"ports": ["Http"]}}, "source.ports[0]", "at most 15"),
        ({"source": {"ports": ["a" * 16]}}, "source.ports[0]", "at most 15"),
        ({"icmp": {"type": 8}}, "icmp", "needs protocol ICMP"),
        ({"protocol": "ICMP", "icmp": {"code": 0}}, "icmp.code", "needs a type"),
        ({"protocol": "ICMP", "icmp": {"type": 255}}, "icmp.type", "0 to 254"),
        ({"protocol": "ICMP", "ipVersion": 6}, "protocol", "contradicts ipVersion 6"),
        ({"notProtocol": 58, "ipVersion": 4}, "notProtocol", "contradicts ipVersion 4"),
        ({"source": {"nets": ["10.0.0.1/8"]}}, "source.nets[0]", "did you mean 10.0.0.0/8"),
        ({"source": {"nets": ["10.0.0.0/33"]}}, "source.nets[0]", "not a valid CIDR"),
        ({"source": {"nets": ["10.0.0.0/255.0.0.0"]}}, "source.nets[0]", "not a valid CIDR"),
        (
            {"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["fd00::/8"]}},
            "destination.notNets[0]",
            "IP version",
        ),
        ({"ipVersion": 6, "source": {"nets": ["10.0.0.0/8"]}}, "source.nets[0]", "ipVersion 6"),
        ({"source": {"notNets": ["::/0"]}}, "source.notNets[0]", "nothing to match"),
        ({"source": {"selector": "a = 'b'"}}, "source.selector", "invalid selector at position 2"),
        ({"source": {"notSelector": "has(a"}}, "source.notSelector", "invalid selector"),
        ({"source": {"selector": "global()"}}, "source.selector", r"global\(\) cannot"),
        ({"source": {"namespaceSelector": "global() || has(a)"}}, "source.namespaceSelector", "alone"),
        ({"source": {"namespaceSelector": "(global())"}}, "source.namespaceSelector", "alone"),
        ({"source": {"serviceAccounts": {"selector": "x"}}}, "source.serviceAccounts.selector", "invalid selector"),
        ({"destination": {"services": {"name": "web"}}}, "destination.services", "destination of an egress"),
        (
            {"source": {"services": {"name": "web"}, "selector": "has(a)"}},
            "source.selector",
            "combined with services",
        ),
        ({"source": {"services": {"name": ""}}}, "source.services.name", "is required"),
        ({"action": "Deny", "http": {"methods": ["GET"]}}, "http", "needs action Allow"),
        ({"protocol": "UDP", "http": {"methods": ["GET"]}}, "http", "needs protocol TCP"),
        ({"http": {"methods": ["GET", "GET"]}}, "http.methods", "twice"),
        ({"http": {"paths": [{"exact": "/a", "prefix": "/b"}]}}, "http.paths[0]", "exactly one"),
        ({"http": {"paths": [{"exact": "a"}]}}, "http.paths[0]", "start with"),
        ({"source": {"nets": ["10.0.0.0/8"] * 257}}, "source.nets", "at most 256"),
    ],
)
def test_rules_that_are_refused(members: dict[str, Any], field: str, reason: str) -> None:
    error = refused("NetworkPolicy", rule(**members))
    assert error.field == f"spec.ingress[0].{field}"
    with pytest.raises(ValidationError, match=reason):
        raise error


def test_an_egress_rule_to_a_service() -> None:
    egress = {"egress": [{"action": "Allow", "destination": {"services": {"name": "web"}}}]}
    checked("NetworkPolicy", egress)
    error = refused("GlobalNetworkPolicy", egress)
    assert error.field == "spec.egress[0].destination.services.namespace"
    egress["egress"][0]["protocol"] = "TCP"
    egress["egress"][0]["destination"]["ports"] = [80]  # type: ignore[index]
    assert refused("NetworkPolicy", egress).field == "spec.egress[0].destination.ports"
    assert (
        refused("NetworkPolicy", {"egress": [{"action": "Allow", "http": {"methods": ["GET"]}}]}).field
        == "spec.egress[0].http"
    )


# Kinds


ADVERTISED = {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["a", "1:2:3"]}]}
POOL = {"cidr": "192.168.0.0/16"}

REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str, str]] = [
    ("NetworkPolicy", {}, {"name": "a.b.c"}, "metadata.name", "at most one"),
    ("NetworkPolicy", {}, {"name": "A"}, "metadata.name", "DNS name"),
    ("NetworkPolicy", {}, {"name": "a", "labels": {"-": "x"}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"name": "a", "labels": {"a": "x y"}}, "metadata.labels", "not a valid label value"),
    ("NetworkPolicy", {}, {"name": "a", "annotations": {"a b": ""}}, "metadata.annotations", "not a valid key"),
    ("NetworkPolicy", {"selector": "a"}, {}, "spec.selector", "invalid selector at position 1"),
    ("NetworkPolicy", {"selector": "global()"}, {}, "spec.selector", "global"),
    ("NetworkPolicy", {"selector": "a == '" + "x" * 1024 + "'"}, {}, "spec.selector", "1024"),
    ("NetworkPolicy", {"serviceAccountSelector": "x"}, {}, "spec.serviceAccountSelector", "invalid selector"),
    ("NetworkPolicy", {"types": ["Ingress", "Ingress"]}, {}, "spec.types", "twice"),
    ("NetworkPolicy", {"types": ["ingress"]}, {}, "spec.types[0]", "Ingress, Egress"),
    ("NetworkPolicy", {"performanceHints": ["Fast"]}, {}, "spec.performanceHints[0]", "AssumeNeeded"),
    ("GlobalNetworkPolicy", {}, {"namespace": "x"}, "metadata.namespace", "not namespaced"),
    ("GlobalNetworkPolicy", {"namespaceSelector": "global()"}, {}, "spec.namespaceSelector", "global"),
    ("GlobalNetworkPolicy", {"doNotTrack": True}, {}, "spec.applyOnForward", "doNotTrack"),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "doNotTrack": True, "applyOnForward": True},
        {},
        "spec.preDNAT",
        "doNotTrack",
    ),
    (
        "GlobalNetworkPolicy",
        {"preDNAT": True, "applyOnForward": True, "egress": [{"action": "Allow"}]},
        {},
        "spec.egress",
        "preDNAT",
    ),
    ("StagedNetworkPolicy", {"stagedAction": "Delete", "selector": "has(a)"}, {}, "spec.selector", "Delete"),
    ("StagedGlobalNetworkPolicy", {"stagedAction": "Remove"}, {}, "spec.stagedAction", "Set, Delete"),
    ("Tier", {"order": 5}, {}, "spec.order", "always 1000000"),
    ("Tier", {"defaultAction": "Deny"}, {"name": "kube-baseline"}, "spec.defaultAction", "always Pass"),
    ("Tier", {"defaultAction": "Allow"}, {"name": "t"}, "spec.defaultAction", "Deny, Pass"),
    ("Tier", {}, {"name": "a.b"}, "metadata.name", "one DNS label"),
    ("NetworkSet", {"nets": ["x"]}, {}, "spec.nets[0]", "not a valid CIDR"),
    ("GlobalNetworkSet", {}, {"labels": {"projectcalico.org/namespace": "x"}}, "metadata.labels", "set by Calico"),
    ("Profile", {"egress": [{"action": "Accept"}]}, {}, "spec.egress[0].action", "Allow"),
    ("Profile", {"labelsToApply": {"a": "?"}}, {}, "spec.labelsToApply", "label value"),
    ("IPPool", {}, {}, "spec.cidr", "required"),
    ("IPPool", {"cidr": "192.168.0.1/16"}, {}, "spec.cidr", "did you mean 192.168.0.0/16"),
    ("IPPool", {"cidr": "169.254.1.0/24"}, {}, "spec.cidr", "link-local"),
    ("IPPool", {"cidr": "fe80::/64"}, {}, "spec.cidr", "link-local"),
    ("IPPool", {**POOL, "ipipMode": "Always", "vxlanMode": "Always"}, {}, "spec.vxlanMode", "both"),
    ("IPPool", {"cidr": "fd00::/64", "ipipMode": "Always"}, {}, "spec.ipipMode", "IPv4"),
    ("IPPool", {**POOL, "ipipMode": "always"}, {}, "spec.ipipMode", "Never, Always"),
    ("IPPool", {**POOL, "blockSize": 19}, {}, "spec.blockSize", "20 to 32"),
    ("IPPool", {"cidr": "fd00::/64", "blockSize": 64}, {}, "spec.blockSize", "116 to 128"),
    ("IPPool", {"cidr": "10.0.0.0/27"}, {}, "spec.cidr", "smaller than one block"),
    ("IPPool", {**POOL, "nodeSelector": "x"}, {}, "spec.nodeSelector", "invalid selector"),
    ("IPPool", {**POOL, "allowedUses": ["LoadBalancer", "Workload"]}, {}, "spec.allowedUses", "combined"),
    ("IPPool", {**POOL, "allowedUses": ["LoadBalancer"], "nodeSelector": "has(a)"}, {}, "spec.nodeSelector", "all"),
    ("IPPool", {**POOL, "allowedUses": ["LoadBalancer"], "ipipMode": "Always"}, {}, "spec.ipipMode", "Never"),
    (
        "IPPool",
        {**POOL, "allowedUses": ["LoadBalancer"], "disableBGPExport": True},
        {},
        "spec.disableBGPExport",
        "set",
    ),
    ("IPPool", {**POOL, "namespaceSelector": "all()"}, {}, "spec.namespaceSelector", "Tunnel"),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.0/40"]}, {}, "spec.reservedCIDRs[0]", "CIDR"),
    ("IPAMConfiguration", {"maxBlocksPerHost": -1}, {}, "spec.maxBlocksPerHost", "0 to 1000000"),
    ("IPAMConfiguration", {}, {"name": "other"}, "metadata.name", "named default"),
    ("Node", {"bgp": {}}, {}, "spec.bgp", "empty"),
    ("Node", {"bgp": {"ipv4Address": "10.0.0.300"}}, {}, "spec.bgp.ipv4Address", "IPv4"),
    ("Node", {"bgp": {"ipv4Address": "fd00::1/64"}}, {}, "spec.bgp.ipv4Address", "IPv4"),
    ("Node", {"vxlanTunnelMACAddr": "x"}, {}, "spec.vxlanTunnelMACAddr", "MAC"),
    ("HostEndpoint", {"interfaceName": "eth0"}, {}, "spec.node", "required"),
    ("HostEndpoint", {"node": "n"}, {}, "spec", "interfaceName or expectedIPs"),
    ("HostEndpoint", {"node": "n", "interfaceName": "a" * 16}, {}, "spec.interfaceName", "15"),
    (
        "HostEndpoint",
        {"node": "n", "interfaceName": "*", "ports": [{"name": "a", "protocol": "ICMP", "port": 1}]},
        {},
        "spec.ports[0].protocol",
        "TCP, UDP or SCTP",
    ),
    ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.0/24"]}, {}, "spec.ipNetworks[0]", "/32"),
    (
        "WorkloadEndpoint",
        {"ipNetworks": ["10.0.0.1/32"], "ipNATs": [{"internalIP": "10.0.0.2", "externalIP": "1.1.1.1"}]},
        {},
        "spec.ipNATs[0].internalIP",
        "not among",
    ),
    ("WorkloadEndpoint", {"ports": [{"protocol": "TCP", "port": 80}]}, {}, "spec.ports[0].name", "required"),
    ("WorkloadEndpoint", {"qosControls": {"dscp": 64}}, {}, "spec.qosControls.dscp", "0 to 63"),
    ("BGPConfiguration", {}, {"name": "x"}, "metadata.name", "node."),
    ("BGPConfiguration", {"asNumber": 1}, {"name": "node.a"}, "spec.asNumber", "only on"),
    ("BGPConfiguration", {"listenPort": 70000}, {}, "spec.listenPort", "65535"),
    (
        "BGPConfiguration",
        {"nodeToNodeMeshEnabled": False, "nodeMeshMaxRestartTime": "10s"},
        {},
        "spec.nodeMeshMaxRestartTime",
        "disabled",
    ),
    ("BGPConfiguration", {"communities": [{"name": "a", "value": "1:1"}]}, {}, "spec.communities", "no use"),
    ("BGPConfiguration", {"ignoredInterfaces": ["*"]}, {}, "spec.ignoredInterfaces[0]", "alone"),
    (
        "BGPConfiguration",
        {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["70000:1"]}]},
        {},
        "spec.prefixAdvertisements[0].communities[0]",
        "neither",
    ),
    ("BGPPeer", {"node": "a", "nodeSelector": "all()"}, {}, "spec.nodeSelector", "node"),
    ("BGPPeer", {"peerIP": "10.0.0.1:0"}, {}, "spec.peerIP", "IP address"),
    ("BGPPeer", {"peerIP": "10.0.0.1", "peerSelector": "all()"}, {}, "spec.peerIP", "peerSelector"),
    ("BGPPeer", {"asNumber": 5, "peerSelector": "all()"}, {}, "spec.asNumber", "peerSelector"),
    ("BGPPeer", {"localWorkloadSelector": "all()"}, {}, "spec.asNumber", "required"),
    ("BGPPeer", {"keepOriginalNextHop": True, "nextHopMode": "Auto"}, {}, "spec.keepOriginalNextHop", "nextHopMode"),
    ("BGPPeer", {"reachableBy": "10.0.0.1"}, {}, "spec.reachableBy", "peerIP"),
    ("BGPPeer", {"peerIP": "fd00::1", "reachableBy": "10.0.0.1"}, {}, "spec.reachableBy", "IP version"),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "cidr": "10.0.0.0/8"}]},
        {},
        "spec.exportV4[0].matchOperator",
        "together",
    ),
    (
        "BGPFilter",
        {"importV6": [{"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In"}]},
        {},
        "spec.importV6[0].cidr",
        "IPv6",
    ),
    ("BGPFilter", {"exportV4": [{"action": "Deny"}]}, {}, "spec.exportV4[0].action", "Accept, Reject"),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "operations": [{}]}]},
        {},
        "spec.exportV4[0].operations[0]",
        "one of",
    ),
    ("FelixConfiguration", {"nodeSelector": "all()"}, {}, "spec.nodeSelector", "default"),
    ("FelixConfiguration", {"chainInsertMode": "Prepend"}, {}, "spec.chainInsertMode", "Append, Insert"),
    ("FelixConfiguration", {"healthPort": 65536}, {}, "spec.healthPort", "65535"),
    ("FelixConfiguration", {"natOutgoingAddress": "fd00::1"}, {}, "spec.natOutgoingAddress", "IPv4"),
    ("FelixConfiguration", {"routeTableRanges": [{"min": 5, "max": 4}]}, {}, "spec.routeTableRanges[0].max", "below"),
    ("FelixConfiguration", {"logPrefix": "a!"}, {}, "spec.logPrefix", "match"),
    (
        "FelixConfiguration",
        {"failsafeInboundHostPorts": [{"protocol": "tcp", "port": 22}]},
        {},
        "spec.failsafeInboundHostPorts[0].protocol",
        "TCP",
    ),
    ("FelixConfiguration", {"reportingInterval": "1500ms"}, {}, "spec.reportingInterval", "no fraction"),
    ("FelixConfiguration", {"wireguardKeepAlive": "-5s"}, {}, "spec.wireguardKeepAlive", "whole numbers"),
    ("FelixConfiguration", {"xdpRefreshInterval": "5us"}, {}, "spec.xdpRefreshInterval", "whole numbers"),
    (
        "FelixConfiguration",
        {"liveMigrationRouteConvergenceTime": "-1s"},
        {},
        "spec.liveMigrationRouteConvergenceTime",
        "numbers of h",
    ),
    (
        "FelixConfiguration",
        {"healthTimeoutOverrides": [{"name": "a", "timeout": "-1s"}]},
        {},
        "spec.healthTimeoutOverrides[0].timeout",
        "negative",
    ),
    ("FelixConfiguration", {"iptablesMarkMask": 2**32}, {}, "spec.iptablesMarkMask", "4294967295"),
    ("FelixConfiguration", {"kubeNodePortRanges": ["http"]}, {}, "spec.kubeNodePortRanges[0]", "number or range"),
    ("FelixConfiguration", {"kubeNodePortRanges": [1, 2, 3, 4, 5, 6, 7, 8]}, {}, "spec.kubeNodePortRanges", "7"),
    ("FelixConfiguration", {"istioDSCPMark": "EF2"}, {}, "spec.istioDSCPMark", "0 to 63"),
    ("FelixConfiguration", {"routeTableRange": {"min": 0, "max": 250}}, {}, "spec.routeTableRange.min", "1 to 250"),
    ("FelixConfiguration", {"routeTableRanges": [{"min": 1, "max": 70000}]}, {}, "spec.routeTableRanges", "65535"),
    ("FelixConfiguration", {"bpfLogFilters": {"a b": "x"}}, {}, "spec.bpfLogFilters", "interface"),
    ("FelixConfiguration", {"externalNodesList": ["fd00::/8"]}, {}, "spec.externalNodesList[0]", "IPv4"),
    ("FelixConfiguration", {"openstackRegion": "a" * 47}, {}, "spec.openstackRegion", "46"),
    ("IPAMConfiguration", {"maxBlocksPerHost": 1000001}, {}, "spec.maxBlocksPerHost", "0 to 1000000"),
    ("IPAMConfiguration", {"ipCooldownSeconds": 1201}, {}, "spec.ipCooldownSeconds", "0 to 1200"),
    ("IPAMConfiguration", {"kubeVirtVMAddressPersistence": "On"}, {}, "spec.kubeVirtVMAddressPersistence", "Enabled"),
    ("IPReservation", {"reservedCIDRs": ["10.0.0.1"]}, {}, "spec.reservedCIDRs[0]", "no prefix length"),
    ("CalicoNodeStatus", {"node": "a", "updatePeriodSeconds": 86401}, {}, "spec.updatePeriodSeconds", "86400"),
    ("CalicoNodeStatus", {"classes": []}, {}, "spec.node", "required"),
    (
        "KubeControllersConfiguration",
        {"controllers": {"node": {"hostEndpoint": {"templates": [{"labels": {"a": "?"}}]}}}},
        {},
        "spec.controllers.node.hostEndpoint.templates[0].labels",
        "label value",
    ),
    (
        "KubeControllersConfiguration",
        {"controllers": {"loadBalancer": {"assignIPs": "None"}}},
        {},
        "spec.controllers.loadBalancer.assignIPs",
        "AllServices",
    ),
    ("KubeControllersConfiguration", {"prometheusMetricsPort": 65536}, {}, "spec.prometheusMetricsPort", "65535"),
    ("BGPConfiguration", {"ipv4NormalRoutePriority": 2**31 - 1}, {}, "spec.ipv4NormalRoutePriority", "2147483646"),
    ("BGPConfiguration", {"localWorkloadPeeringIPV6": "10.0.0.1"}, {}, "spec.localWorkloadPeeringIPV6", "IPv6"),
    ("BGPPeer", {"ttlSecurity": 256}, {}, "spec.ttlSecurity", "255"),
    ("BGPPeer", {"numAllowedLocalASNumbers": 2**31}, {}, "spec.numAllowedLocalASNumbers", "2147483647"),
    ("BGPPeer", {"localWorkloadSelector": "all()", "peerIP": "1.1.1.1"}, {}, "spec.localWorkloadSelector", "peerIP"),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "prefixLength": {"min": 1}}]},
        {},
        "spec.exportV4[0].prefixLength",
        "needs cidr",
    ),
    (
        "BGPFilter",
        {
            "exportV4": [
                {"action": "Accept", "cidr": "10.0.0.0/8", "matchOperator": "In", "prefixLength": {"max": 33}}
            ]
        },
        {},
        "spec.exportV4[0].prefixLength.max",
        "0 to 32",
    ),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "communities": {"values": ["1:1", "1:2"]}}]},
        {},
        "spec.exportV4[0].communities.values",
        "exactly one",
    ),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Reject", "operations": [{"setPriority": {"value": 1}}]}]},
        {},
        "spec.exportV4[0].action",
        "Accept",
    ),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "operations": [{"prependASPath": {"prefix": [1] * 11}}]}]},
        {},
        "spec.exportV4[0].operations[0].prependASPath.prefix",
        "at most 10",
    ),
    (
        "BGPFilter",
        {"exportV4": [{"action": "Accept", "interface": "a" * 16}]},
        {},
        "spec.exportV4[0].interface",
        "15",
    ),
    ("NetworkPolicy", {"ingress": [{"action": "Allow"}] * 1025}, {}, "spec.ingress", "at most 1024"),
    ("NetworkPolicy", rule(source={"nets": ["10.0.0.0/8"] * 257}), {}, "spec.ingress[0].source.nets", "at most 256"),
    (
        "NetworkPolicy",
        rule(protocol="TCP", source={"ports": [1] * 51}),
        {},
        "spec.ingress[0].source.ports",
        "at most 50",
    ),
    ("NetworkPolicy", rule(http={"methods": ["GET"] * 21}), {}, "spec.ingress[0].http.methods", "at most 20"),
    (
        "NetworkPolicy",
        {},
        {"annotations": {f"k{n}": "é" * 32768 for n in range(4)}},
        "metadata.annotations",
        "larger than 262144 bytes",
    ),
    ("NetworkPolicy", {}, {"labels": {"a" * 64: ""}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"labels": {"a/b/c": ""}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"labels": {"/b": ""}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"labels": {"A.b/c": ""}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"labels": {"é": ""}}, "metadata.labels", "not a valid key"),
    ("NetworkPolicy", {}, {"labels": {"a": "b" * 64}}, "metadata.labels", "not a valid label value"),
    ("NetworkPolicy", {}, {"creationTimestamp": "yesterday"}, "metadata.creationTimestamp", "must be a time"),
    ("NetworkPolicy", {}, {"creationTimestamp": "2026-02-30T10:00:00Z"}, "metadata.creationTimestamp", "a time"),
    ("NetworkPolicy", {}, {"namespace": "a.b"}, "metadata.namespace", "DNS label"),
    (
        "StagedKubernetesNetworkPolicy",
        {"stagedAction": "Delete", "podSelector": {"matchLabels": {"a": "b"}}},
        {},
        "spec.podSelector",
        "Delete",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}},
        {},
        "spec.podSelector.matchExpressions[0].values",
        "needs some",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Near"}]}},
        {},
        "spec.podSelector.matchExpressions[0].operator",
        "DoesNotExist",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"ingress": [{"from": [{}]}]},
        {},
        "spec.ingress[0].from[0]",
        "needs podSelector",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]},
        {},
        "spec.egress[0].to[0].ipBlock",
        "combined",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]},
        {},
        "spec.egress[0].to[0].ipBlock.except[0]",
        "within",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"ingress": [{"ports": [{"protocol": "ICMP"}]}]},
        {},
        "spec.ingress[0].ports[0].protocol",
        "SCTP",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"ingress": [{"ports": [{"port": 80, "endPort": 79}]}]},
        {},
        "spec.ingress[0].ports[0].endPort",
        "below",
    ),
    (
        "StagedKubernetesNetworkPolicy",
        {"ingress": [{"ports": [{"port": "http", "endPort": 79}]}]},
        {},
        "spec.ingress[0].ports[0].endPort",
        "numeric",
    ),
    ("LiveMigration", {"target": {"selector": "a"}}, {}, "spec.target.selector", "invalid selector"),
    (
        "LiveMigration",
        {"source": {"workload": {}, "workloadEndpoint": {}}},
        {},
        "spec.source.workloadEndpoint",
        "combined",
    ),
    ("ClusterInformation", {}, {"name": "x"}, "metadata.name", "default"),
    ("KubeControllersConfiguration", {"healthChecks": "yes"}, {}, "spec.healthChecks", "Enabled"),
    ("CalicoNodeStatus", {"node": "a", "classes": ["All"]}, {}, "spec.classes[0]", "Agent"),
    ("NetworkPolicy", {"performanceHints": ["AssumeNeededOnEveryNode"] * 2}, {}, "spec.performanceHints", "twice"),
    (
        "GlobalNetworkPolicy",
        {"performanceHints": ["AssumeNeededOnEveryNode"] * 2},
        {},
        "spec.performanceHints",
        "twice",
    ),
    (
        "NetworkPolicy",
        {"ingress": [{"action": "Allow", "http": {"paths": [{"exact": "/" * 1025}]}}]},
        {},
        "spec.ingress[0].http.paths[0].exact",
        "1024",
    ),
    (
        "NetworkPolicy",
        {"ingress": [{"action": "Allow", "source": {"services": {"name": "a" * 254}}}]},
        {},
        "spec.ingress[0].source.services.name",
        "253",
    ),
    ("CalicoNodeStatus", {"node": "a", "updatePeriodSeconds": 1}, {}, "spec.classes", "required"),
    ("CalicoNodeStatus", {"node": "a", "classes": ["BGP", "BGP"]}, {}, "spec.classes", "twice"),
    ("CalicoNodeStatus", {"node": "a", "classes": ["BGP"]}, {}, "spec.updatePeriodSeconds", "required"),
    (
        "KubeControllersConfiguration",
        {"controllers": {"policyMigration": {"enabled": "On"}}},
        {},
        "spec.controllers.policyMigration.enabled",
        "Enabled",
    ),
    (
        "FelixConfiguration",
        {"bpfConntrackTimeouts": {"udpTimeout": "1 m"}},
        {},
        "spec.bpfConntrackTimeouts.udpTimeout",
        "Auto or a duration",
    ),
    ("BlockAffinity", {"state": "confirmed", "node": "a", "cidr": "10.0.0.1/26"}, {}, "spec.cidr", "host bits"),
]


@pytest.mark.parametrize(("kind", "spec", "metadata", "field", "reason"), REFUSED)
def test_refused(kind: str, spec: dict[str, Any], metadata: dict[str, Any], field: str, reason: str) -> None:
    error = refused(kind, spec, **metadata)
    assert error.field == field
    with pytest.raises(ValidationError, match=reason):
        raise error


@pytest.mark.parametrize(
    ("kind", "spec", "metadata"),
    [
        ("NetworkPolicy", {}, {"name": "tier.name"}),
        ("NetworkPolicy", {}, {"name": "knp.default.a.b.c"}),
        ("NetworkPolicy", {}, {"name": "a", "labels": {"a.b/c": "", "x": "Y_z.1"}}),
        ("GlobalNetworkPolicy", {"preDNAT": True, "applyOnForward": True, **rule()}, {}),
        ("StagedNetworkPolicy", {"stagedAction": "Delete", "tier": "x"}, {}),
        ("StagedKubernetesNetworkPolicy", {"stagedAction": "Delete"}, {}),
        ("Tier", {"order": 1000000, "defaultAction": "Deny"}, {}),
        ("NetworkSet", {"nets": ["10.0.0.1", "10.0.0.5/8", "fd00::/8"]}, {}),
        ("IPPool", {"cidr": "10.0.0.0/27", "disabled": True}, {}),
        ("IPPool", {**POOL, "allowedUses": ["LoadBalancer"]}, {}),
        ("IPPool", {**POOL, "allowedUses": ["Workload"], "namespaceSelector": "has(a)"}, {}),
        ("Node", {"bgp": {"ipv4Address": "10.0.0.5/24", "asNumber": "1.1"}}, {}),
        ("HostEndpoint", {"node": "n", "expectedIPs": ["10.0.0.1"]}, {}),
        ("WorkloadEndpoint", {"ipNetworks": ["10.0.0.1/32", "fd00::1/128"]}, {}),
        ("WorkloadEndpoint", {"ports": [{"protocol": "TCP", "port": 80, "hostPort": 8}]}, {}),
        ("WorkloadEndpoint", {}, {"name": ""}),
        ("BGPConfiguration", {"prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": ["1:2:3"]}]}, {}),
        ("BGPConfiguration", {"communities": [{"name": "a", "value": "1:1"}], **ADVERTISED}, {}),
        ("BGPConfiguration", {"logSeverityScreen": "debug"}, {"name": "node.a"}),
        ("BGPPeer", {"peerIP": "[fd00::1]:1790", "asNumber": 64512, "reachableBy": "fd00::2"}, {}),
        ("BGPPeer", {"peerSelector": "has(rr)", "nodeSelector": "all()"}, {}),
        ("FelixConfiguration", {"nodeSelector": "has(gpu)"}, {"name": "gpu"}),
        ("FelixConfiguration", {"reportingInterval": "1h0m30s", "iptablesLockProbeInterval": "50ms"}, {}),
        ("FelixConfiguration", {"liveMigrationRouteConvergenceTime": "1.5s", "dataplaneWatchdogTimeout": "2µs"}, {}),
        ("FelixConfiguration", {"iptablesMarkMask": 2**32 - 1, "istioDSCPMark": "AF43"}, {}),
        ("BGPFilter", {"importV4": [{"action": "Reject", "interface": "*"}]}, {}),
        ("NetworkPolicy", {}, {"creationTimestamp": "2026-08-01T10:00:00.123+02:00", "annotations": {"A.B/c": "é"}}),
        ("NetworkPolicy", {}, {"annotations": {"k": "x" * (256 * 1024 - 1)}}),
        ("StagedKubernetesNetworkPolicy", {"ingress": [{}], "egress": [{"ports": [{"protocol": "SCTP"}]}]}, {}),
        ("LiveMigration", {}, {}),
        ("FelixConfiguration", {"bpfConntrackTimeouts": {"tcpSynSent": "Auto", "udpTimeout": "1m"}}, {}),
        ("FelixConfiguration", {"failsafeInboundHostPorts": [], "natPortRange": "1000:2000"}, {}),
        ("CalicoNodeStatus", {"node": "a", "classes": ["BGP", "Agent"], "updatePeriodSeconds": 0}, {}),
    ],
)  # fmt: skip
def test_allowed(kind: str, spec: dict[str, Any], metadata: dict[str, Any]) -> None:
    checked(kind, spec, **metadata)


def test_an_empty_status_is_written_where_calico_writes_it() -> None:
    assert to_dict(make("CalicoNodeStatus", {"node": "n"}))["status"] == {
        "lastUpdated": None,
        "agent": {"birdV4": {}, "birdV6": {}},
        "bgp": {
            "numberEstablishedV4": 0,
            "numberNotEstablishedV4": 0,
            "numberEstablishedV6": 0,
            "numberNotEstablishedV6": 0,
        },
        "routes": {},
    }
    for kind in ("Node", "Tier", "KubeControllersConfiguration"):
        assert to_dict(make(kind, {}))["status"] == {}
    assert to_dict(make("KubeControllersConfiguration", {}))["spec"] == {"controllers": {}}
    assert "status" not in to_dict(make("IPPool", {}))


def test_a_namespaced_kind_needs_a_namespace() -> None:
    resource = make("NetworkPolicy", {}, name="p")
    resource.metadata.namespace = ""
    with pytest.raises(ValidationError, match=r"metadata.namespace: is required"):
        validate(resource)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ("10.0.0.1", None)),
        ("10.0.0.1:1790", ("10.0.0.1", 1790)),
        ("fd00::1", ("fd00::1", None)),
        ("[fd00::1]", ("fd00::1", None)),
        ("[fd00::1]:179", ("fd00::1", 179)),
    ],
)
def test_a_peers_address(text: str, expected: tuple[str, int | None]) -> None:
    address, port = parse_peer_ip(text)
    assert (str(address), port) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "10.0.0.1:", "10.0.0.1:65536", "[10.0.0.1]:5", "[fd00::1", "[fd00::1]x", "fe80::1%eth0"]
)
def test_not_a_peers_address(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        parse_peer_ip(text)
