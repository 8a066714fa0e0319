"""The types of Calico's v3 API as facts: every object's members in the order in which Go writes them.

Sources: ``api/pkg/apis/projectcalico/v3`` and ``libcalico-go/lib/apis/internalapi`` of Calico 3.3x, and the CRD
schemas made of them.  A member is ``name:type``; the type may begin with

* ``!``  written even when it is empty (no omitempty),
* ``*``  a pointer: an empty value is written, an absent one is not,
* ``[]`` a list, ``map`` a map of texts; ``0`` an object left out when all of it is empty,

and end in ``{a,b}`` (the values allowed, ``{~a,b}`` in any case) or ``{low..high}``.  The scalar types are string,
bool, int, float, dur (Go's duration), time, port, protocol, asn, dscp and deleted; any other name is a class's.
The order of the last nine FelixConfiguration members and of nodeSelector is not known from a source.
"""

from __future__ import annotations

ENABLED = "{Enabled,Disabled}"
PORT = "{0..65535}"
PRIORITY = "{1..2147483646}"
ACCEPT = "{~Accept,Return}"
DROP = "{~Drop,Reject}"
LOG = "{~Trace,Debug,Info,Warning,Error,Fatal}"
ENCAPSULATION = "{Never,Always,CrossSubnet}"

_POLICY = """
    tier:string order:*float ingress:[]Rule egress:[]Rule selector:string types:[]string{Ingress,Egress}"""
_POLICY_REST = "serviceAccountSelector:string performanceHints:[]string{AssumeNeededOnEveryNode}"
_GLOBAL_REST = f"doNotTrack:bool preDNAT:bool applyOnForward:bool {_POLICY_REST}".replace(
    " performanceHints", " namespaceSelector:string performanceHints"
)
_STAGED = "stagedAction:string{Set,Delete,Learn,Ignore}"
_TIMEOUTS = (
    "creationGracePeriod tcpSynSent tcpEstablished tcpFinsSeen tcpResetSeen udpTimeout genericTimeout icmpTimeout"
)

FACTS: dict[str, str] = {
    "ObjectMeta": """name:string generateName:string namespace:string selfLink:string uid:string
        resourceVersion:string generation:int creationTimestamp:time deletionTimestamp:time
        deletionGracePeriodSeconds:*int labels:map annotations:map ownerReferences:[]OwnerReference
        finalizers:[]string managedFields:[]ManagedFields""",
    "OwnerReference": """apiVersion:string kind:string name:string uid:string controller:*bool
        blockOwnerDeletion:*bool""",
    "ManagedFields": """manager:string operation:string apiVersion:string time:time fieldsType:string fieldsV1:any
        subresource:string""",
    "Condition": """type:string status:string observedGeneration:int lastTransitionTime:time reason:string
        message:string""",
    "ConditionsStatus": "conditions:[]Condition",
    # policy
    "ServiceMatch": "name:!string namespace:string",
    "ServiceAccountMatch": "names:[]string selector:string",
    "EntityRule": """nets:[]string selector:string namespaceSelector:string services:*ServiceMatch ports:[]port
        notNets:[]string notSelector:string notPorts:[]port serviceAccounts:*ServiceAccountMatch""",
    "ICMPFields": "type:*int{0..254} code:*int{0..255}",
    "HTTPPath": "exact:string prefix:string",
    "HTTPMatch": "methods:[]string paths:[]HTTPPath",
    "RuleMetadata": "annotations:map",
    "Rule": """action:!string{Allow,Deny,Log,Pass} ipVersion:*int protocol:*protocol icmp:*ICMPFields
        notProtocol:*protocol notICMP:*ICMPFields source:0EntityRule destination:0EntityRule http:*HTTPMatch
        metadata:*RuleMetadata""",
    "NetworkPolicySpec": f"{_POLICY} {_POLICY_REST}",
    "GlobalNetworkPolicySpec": f"{_POLICY} {_GLOBAL_REST}",
    "StagedNetworkPolicySpec": f"{_STAGED} {_POLICY} {_POLICY_REST}",
    "StagedGlobalNetworkPolicySpec": f"{_STAGED} {_POLICY} {_GLOBAL_REST}",
    "StagedKubernetesNetworkPolicySpec": f"""{_STAGED} podSelector:!LabelSelector ingress:[]IngressRule
        egress:[]EgressRule policyTypes:[]string{{Ingress,Egress}}""",
    "LabelSelector": "matchLabels:map matchExpressions:[]LabelRequirement",
    "LabelRequirement": "key:!string operator:!string{In,NotIn,Exists,DoesNotExist} values:[]string",
    "IngressRule": "ports:[]PolicyPort from:[]PolicyPeer",
    "EgressRule": "ports:[]PolicyPort to:[]PolicyPeer",
    "PolicyPort": "protocol:string{TCP,UDP,SCTP} port:intOrString endPort:*int{1..65535}",
    "PolicyPeer": "podSelector:*LabelSelector namespaceSelector:*LabelSelector ipBlock:*IPBlock",
    "IPBlock": "cidr:!string except:[]string",
    "TierSpec": "order:*float defaultAction:string{Deny,Pass}",
    "NetworkSetSpec": "nets:[]string",
    "ProfileSpec": "ingress:[]Rule egress:[]Rule labelsToApply:map",
    # IPAM
    "IPPoolSpec": f"""cidr:!string vxlanMode:string{ENCAPSULATION} ipipMode:string{ENCAPSULATION} natOutgoing:bool
        disabled:bool disableBGPExport:bool blockSize:int nodeSelector:string namespaceSelector:string
        allowedUses:[]string{{Workload,Tunnel,LoadBalancer}} assignmentMode:string{{Automatic,Manual}}""",
    "IPReservationSpec": "reservedCIDRs:[]string",
    "IPAMConfigurationSpec": f"""strictAffinity:!bool autoAllocateBlocks:!bool maxBlocksPerHost:*int{{0..1000000}}
        kubeVirtVMAddressPersistence:string{ENABLED} ipCooldownSeconds:*int{{0..1200}}""",
    "BlockAffinitySpec": """state:!string{confirmed,pending,pendingDeletion} node:!string type:string{host,virtual}
        cidr:!string deleted:!deleted""",
    # BGP
    "ServiceBlock": "cidr:!string",
    "Community": "name:!string value:!string",
    "PrefixAdvertisement": "cidr:!string communities:[]string",
    "SecretKeyRef": "name:string key:!string optional:*bool",
    "BGPPassword": "secretKeyRef:*SecretKeyRef",
    "BGPConfigurationSpec": f"""logSeverityScreen:string{LOG} nodeToNodeMeshEnabled:*bool asNumber:*asn
        serviceLoadBalancerIPs:[]ServiceBlock serviceExternalIPs:[]ServiceBlock serviceClusterIPs:[]ServiceBlock
        serviceLoadBalancerAggregation:string{ENABLED} communities:[]Community
        prefixAdvertisements:[]PrefixAdvertisement listenPort:int{{1..65535}} nodeMeshPassword:*BGPPassword
        nodeMeshMaxRestartTime:dur bindMode:string{{None,NodeIP}} ignoredInterfaces:[]string
        localWorkloadPeeringIPV4:string localWorkloadPeeringIPV6:string
        programClusterRoutes:string{{Enabled,Disabled,EnabledIPIPOnly,EnabledNoEncapOnly}}
        ipv4NormalRoutePriority:*int{PRIORITY} ipv6NormalRoutePriority:*int{PRIORITY}""",
    "BGPPeerSpec": """node:string nodeSelector:string peerIP:string asNumber:asn localASNumber:*asn
        peerSelector:string keepOriginalNextHop:bool nextHopMode:string{Auto,Self,Keep} password:*BGPPassword
        sourceAddress:string{UseNodeIP,None} maxRestartTime:dur keepaliveTime:dur
        numAllowedLocalASNumbers:*int{0..2147483647} ttlSecurity:*int{0..255} reachableBy:string filters:[]string
        localWorkloadSelector:string reversePeering:string{Auto,Manual}""",
    "BGPFilterSpec": "exportV4:[]FilterRule importV4:[]FilterRule exportV6:[]FilterRule importV6:[]FilterRule",
    "FilterRule": f"""cidr:string prefixLength:*PrefixLength source:string{{RemotePeers}} interface:string
        matchOperator:string{{Equal,NotEqual,In,NotIn}} peerType:string{{eBGP,iBGP}} communities:*CommunityMatch
        asPathPrefix:[]asn priority:*int{PRIORITY} action:!string{{Accept,Reject}} operations:[]FilterOperation""",
    "PrefixLength": "min:*int max:*int",
    "CommunityMatch": "values:![]string",
    "FilterOperation": "addCommunity:*AddCommunity prependASPath:*PrependASPath setPriority:*SetPriority",
    "AddCommunity": "value:!string",
    "PrependASPath": "prefix:![]asn",
    "SetPriority": f"value:!int{PRIORITY}",
    "CalicoNodeStatusSpec": "node:!string classes:[]string{Agent,BGP,Routes} updatePeriodSeconds:*int{0..86400}",
    "CalicoNodeStatusStatus": "lastUpdated:!time agent:!AgentStatus bgp:!BGPStatus routes:!RoutesStatus",
    "AgentStatus": "birdV4:!DaemonStatus birdV6:!DaemonStatus",
    "DaemonStatus": """state:string{Ready,NotReady} version:string routerID:string lastBootTime:string
        lastReconfigurationTime:string""",
    "BGPStatus": """numberEstablishedV4:!int numberNotEstablishedV4:!int numberEstablishedV6:!int
        numberNotEstablishedV6:!int peersV4:[]PeerStatus peersV6:[]PeerStatus""",
    "PeerStatus": """peerIP:string type:string{NodeMesh,NodePeer,GlobalPeer}
        state:string{Idle,Connect,Active,OpenSent,OpenConfirm,Established,Close} since:string""",
    "RoutesStatus": "routesV4:[]RouteStatus routesV6:[]RouteStatus",
    "RouteStatus": """type:string{FIB,RIB} destination:string gateway:string interface:string
        learnedFrom:!RouteSource""",
    "RouteSource": "sourceType:string{Kernel,Static,Direct,NodeMesh,BGPPeer} peerIP:string",
    # endpoints
    "NodeSpec": """bgp:*NodeBGPSpec ipv4VXLANTunnelAddr:string vxlanTunnelMACAddr:string ipv6VXLANTunnelAddr:string
        vxlanTunnelMACAddrV6:string orchRefs:[]OrchRef wireguard:*NodeWireguardSpec addresses:[]NodeAddress
        interfaces:[]NodeInterface""",
    "NodeBGPSpec": """asNumber:*asn ipv4Address:string ipv6Address:string ipv4IPIPTunnelAddr:string
        routeReflectorClusterID:string""",
    "OrchRef": "nodeName:string orchestrator:!string",
    "NodeWireguardSpec": "interfaceIPv4Address:string interfaceIPv6Address:string",
    "NodeAddress": "address:!string type:string{CalicoNodeIP,InternalIP,ExternalIP}",
    "NodeInterface": "name:string addresses:[]string",
    "NodeStatus": "wireguardPublicKey:string wireguardPublicKeyV6:string podCIDRs:[]string",
    "HostEndpointSpec": """node:!string interfaceName:string expectedIPs:[]string profiles:[]string
        ports:[]EndpointPort""",
    "EndpointPort": "name:!string protocol:!protocol port:!int{1..65535}",
    "WorkloadEndpointSpec": """orchestrator:string workload:string node:string containerID:string pod:string
        endpoint:string serviceAccountName:string ipNetworks:[]string ipNATs:[]IPNAT ipv4Gateway:string
        ipv6Gateway:string profiles:[]string interfaceName:string mac:string ports:[]WorkloadEndpointPort
        allowSpoofedSourcePrefixes:[]string qosControls:*QoSControls""",
    "WorkloadEndpointPort": """name:!string protocol:!protocol port:!int{1..65535} hostPort:!int{0..65535}
        hostIP:!string""",
    "IPNAT": "internalIP:!string externalIP:!string",
    "QoSControls": """ingressBandwidth:int ingressBurst:int ingressPeakrate:int ingressMinburst:int
        egressBandwidth:int egressBurst:int egressPeakrate:int egressMinburst:int
        ingressPacketRate:int ingressPacketBurst:int egressPacketRate:int egressPacketBurst:int
        ingressMaxConnections:int egressMaxConnections:int dscp:*dscp""",
    "LiveMigrationSpec": "source:*LiveMigrationSource target:*LiveMigrationTarget",
    "LiveMigrationSource": "workload:*WorkloadID workloadEndpoint:*WorkloadEndpointID",
    "LiveMigrationTarget": "selector:string workloadEndpoint:*WorkloadEndpointID",
    "WorkloadID": "hostname:string orchestratorID:string workloadID:string",
    "WorkloadEndpointID": "hostname:string orchestratorID:string workloadID:string endpointID:string",
    # cluster
    "ClusterInformationSpec": """clusterGUID:string clusterType:string calicoVersion:string datastoreReady:*bool
        variant:string""",
    "KubeControllersConfigurationSpec": f"""
        logSeverityScreen:string{{~None,Debug,Info,Warning,Error,Fatal,Panic}} healthChecks:string{ENABLED}
        etcdV3CompactionPeriod:dur prometheusMetricsPort:*int{PORT} controllers:!Controllers
        debugProfilePort:*int{PORT}""",
    "KubeControllersConfigurationStatus": "runningConfig:*KubeControllersConfigurationSpec environmentVars:map",
    "Controllers": """node:*NodeController policy:*Controller workloadEndpoint:*Controller serviceAccount:*Controller
        namespace:*Controller loadBalancer:*LoadBalancerController policyMigration:*MigrationController""",
    "Controller": "reconcilerPeriod:dur",
    "LoadBalancerController": "assignIPs:string{AllServices,RequestedServicesOnly}",
    "MigrationController": f"enabled:string{ENABLED}",
    "NodeController": f"""reconcilerPeriod:dur syncLabels:string{ENABLED} hostEndpoint:*AutoHostEndpoint
        leakGracePeriod:dur""",
    "AutoHostEndpoint": f"""autoCreate:string{ENABLED} createDefaultHostEndpoint:string{ENABLED}
        templates:[]HostEndpointTemplate""",
    "HostEndpointTemplate": """generateName:string interfaceCIDRs:[]string interfacePattern:string labels:map
        annotations:map nodeSelector:string""",
    # felix
    "ProtoPort": f"protocol:!string{{TCP,UDP,SCTP}} port:!int{PORT} net:string",
    "RouteTableRange": "min:!int{1..250} max:!int{1..250}",
    "RouteTableIDRange": "min:!int{1..} max:!int{1..4294967295}",
    "HealthTimeoutOverride": "name:!string timeout:!dur",
    "BPFConntrackTimeouts": " ".join(f"{name}:string" for name in _TIMEOUTS.split()),
    "FelixConfigurationSpec": f"""nodeSelector:string
        useInternalDataplaneDriver:*bool dataplaneDriver:string dataplaneWatchdogTimeout:dur ipv6Support:*bool
        routeRefreshInterval:dur interfaceRefreshInterval:dur iptablesRefreshInterval:dur
        iptablesPostWriteCheckInterval:dur iptablesLockProbeInterval:dur featureDetectOverride:string
        featureGates:string ipsetsRefreshInterval:dur maxIpsetSize:*int iptablesBackend:string{{~Auto,Legacy,NFT}}
        xdpRefreshInterval:dur netlinkTimeout:dur metadataAddr:string metadataPort:*int{PORT} openstackRegion:string
        interfacePrefix:string interfaceExclude:string chainInsertMode:string{{~Insert,Append}}
        defaultEndpointToHostAction:string{{~Drop,Accept,Return}} iptablesFilterAllowAction:string{ACCEPT}
        iptablesMangleAllowAction:string{ACCEPT} iptablesFilterDenyAction:string{DROP} logPrefix:string
        logActionRateLimit:string logActionRateLimitBurst:*int{{0..9999}} logFilePath:string
        logSeverityFile:string{LOG} logSeverityScreen:string{LOG} logSeveritySys:string{LOG}
        logDebugFilenameRegex:string ipipEnabled:*bool ipipMTU:*int vxlanEnabled:*bool vxlanMTU:*int vxlanMTUV6:*int
        vxlanPort:*int vxlanVNI:*int allowVXLANPacketsFromWorkloads:*bool allowIPIPPacketsFromWorkloads:*bool
        reportingInterval:dur reportingTTL:dur endpointReportingEnabled:*bool endpointReportingDelay:dur
        endpointStatusPathPrefix:string iptablesMarkMask:*int{{0..4294967295}} disableConntrackInvalidCheck:*bool
        healthEnabled:*bool healthHost:*string healthPort:*int{PORT} healthTimeoutOverrides:[]HealthTimeoutOverride
        prometheusMetricsEnabled:*bool prometheusMetricsHost:string prometheusMetricsPort:*int{PORT}
        prometheusGoMetricsEnabled:*bool prometheusProcessMetricsEnabled:*bool prometheusWireGuardMetricsEnabled:*bool
        prometheusMetricsCAFile:string prometheusMetricsCertFile:string prometheusMetricsKeyFile:string
        prometheusMetricsClientAuth:string{{RequireAndVerifyClientCert,RequireAnyClientCert,VerifyClientCertIfGiven,NoClientCert}}
        failsafeInboundHostPorts:*[]ProtoPort failsafeOutboundHostPorts:*[]ProtoPort kubeNodePortRanges:*[]port
        policySyncPathPrefix:string usageReportingEnabled:*bool usageReportingInitialDelay:dur
        usageReportingInterval:dur natPortRange:*port natOutgoingAddress:string
        natOutgoingExclusions:string{{IPPoolsOnly,IPPoolsAndHostIPs}} deviceRouteSourceAddress:string
        deviceRouteSourceAddressIPv6:string deviceRouteProtocol:*int removeExternalRoutes:*bool
        programClusterRoutes:string{{Enabled,Disabled,EnabledIPIPOnly,EnabledNoEncapOnly}}
        ipForwarding:string{ENABLED} externalNodesList:*[]string debugMemoryProfilePath:string
        debugDisableLogDropping:*bool debugSimulateCalcGraphHangAfter:dur debugSimulateDataplaneHangAfter:dur
        debugSimulateDataplaneApplyDelay:dur debugHost:*string debugPort:*int{PORT}
        iptablesNATOutgoingInterfaceFilter:string sidecarAccelerationEnabled:*bool xdpEnabled:*bool
        genericXDPEnabled:*bool nftablesMode:string{{Auto,Disabled,Enabled}}
        nftablesFlowTableOffload:string{{All,Disabled}} nftablesFlowTableDataIfacePattern:string
        nftablesRefreshInterval:dur nftablesFilterAllowAction:string{ACCEPT} nftablesMangleAllowAction:string{ACCEPT}
        nftablesFilterDenyAction:string{DROP} nftablesMarkMask:*int{{0..4294967295}} bpfEnabled:*bool
        bpfDisableUnprivileged:*bool bpfJITHardening:string{{Auto,Strict}} bpfLogLevel:!string{{~Off,Info,Debug}}
        bpfConntrackLogLevel:string{{Off,Debug}} bpfConntrackMode:string{{Auto,Userspace,BPFProgram}}
        bpfConntrackTimeouts:*BPFConntrackTimeouts bpfLogFilters:*map bpfCTLBLogFilter:string
        bpfDataIfacePattern:string bpfL3IfacePattern:string bpfConnectTimeLoadBalancingEnabled:*bool
        bpfConnectTimeLoadBalancing:string{{TCP,Enabled,Disabled}} bpfHostNetworkedNATWithoutCTLB:string{ENABLED}
        bpfExternalServiceMode:string{{~Tunnel,DSR}} bpfDSROptoutCIDRs:*[]string bpfExtToServiceConnmark:*int
        bpfKubeProxyIptablesCleanupEnabled:*bool bpfKubeProxyMinSyncPeriod:dur bpfKubeProxyHealthzPort:*int
        bpfPSNATPorts:*port bpfMapSizeNATFrontend:*int bpfMapSizeNATBackend:*int bpfMapSizeNATAffinity:*int
        bpfMapSizeRoute:*int bpfMapSizeConntrack:*int bpfMapSizePerCpuConntrack:*int
        bpfMapSizeConntrackScaling:string{{~Disabled,DoubleIfFull}} bpfMapSizeConntrackCleanupQueue:*int{{1..}}
        bpfMapSizeIPSets:*int bpfMapSizeIfState:*int bpfHostConntrackBypass:*bool
        bpfEnforceRPF:string{{~Disabled,Strict,Loose}} bpfPolicyDebugEnabled:*bool
        bpfForceTrackPacketsFromIfaces:*[]string bpfDisableGROForIfaces:string bpfExcludeCIDRsFromNAT:*[]string
        bpfExportBufferSizeMB:*int bpfIPFragTimeout:dur bpfIPFragmentReassemblyEnabled:*bool cgroupV2Path:string
        flowLogsPolicyEvaluationMode:string{{None,Continuous}} bpfRedirectToPeer:string{ENABLED}
        bpfAttachType:string{{TC,TCX,Netkit}} flowLogsFlushInterval:dur flowLogsCollectorDebugTrace:*bool
        flowLogsGoldmaneServer:*string flowLogsLocalReporter:string{ENABLED} bpfProfiling:string{ENABLED}
        bpfOverlayHostSourceIP:string{{HostAddress,TunnelAddress}} routeSource:string{{~WorkloadIPs,CalicoIPAM}}
        routeTableRanges:*[]RouteTableIDRange routeTableRange:*RouteTableRange routeSyncDisabled:*bool
        wireguardEnabled:*bool wireguardEnabledV6:*bool wireguardThreadingEnabled:*bool wireguardListeningPort:*int
        wireguardListeningPortV6:*int wireguardRoutingRulePriority:*int wireguardInterfaceName:string
        wireguardInterfaceNameV6:string wireguardMTU:*int wireguardMTUV6:*int wireguardHostEncryptionEnabled:*bool
        wireguardKeepAlive:dur awsSrcDstCheck:string{{DoNothing,Enable,Disable}}
        serviceLoopPrevention:string{{~Drop,Reject,Disabled}} workloadSourceSpoofing:string{{~Disabled,Any}}
        mtuIfacePattern:string floatingIPs:string{ENABLED} windowsManageFirewallRules:string{ENABLED}
        goGCThreshold:*int{{-1..}} goMemoryLimitMB:*int{{-1..}} goMaxProcs:*int{{-1..}} requireMTUFile:*bool
        bpfMaglevMaxEndpointsPerService:*int{{1..3000}} bpfMaglevMaxServices:*int{{1..3000}}
        istioAmbientMode:string{ENABLED} istioDSCPMark:*dscp
        ipv4NormalRoutePriority:*int{PRIORITY} ipv4ElevatedRoutePriority:*int{PRIORITY}
        ipv6NormalRoutePriority:*int{PRIORITY} ipv6ElevatedRoutePriority:*int{PRIORITY}
        liveMigrationRouteConvergenceTime:dur localSubnetL2Reachability:string{{Disabled,PodsAndLoadBalancers}}
        localSubnetL2ReachabilityRefreshInterval:dur""",
}

_PLAIN = "metadata:!ObjectMeta spec:!{kind}Spec"
_BODIES = {
    "Node": f"{_PLAIN} status:!NodeStatus",
    "Tier": f"{_PLAIN} status:!ConditionsStatus",
    "IPPool": f"{_PLAIN} status:*ConditionsStatus",
    "CalicoNodeStatus": f"{_PLAIN} status:!CalicoNodeStatusStatus",
    "KubeControllersConfiguration": f"{_PLAIN} status:!KubeControllersConfigurationStatus",
    "GlobalNetworkSet": "metadata:!ObjectMeta spec:!NetworkSetSpec",
}


def body_of(kind: str) -> str:
    """The members of a resource, by kind."""
    body = _BODIES.get(kind) or (f"{_PLAIN} status:*ConditionsStatus" if kind.endswith("NetworkPolicy") else _PLAIN)
    return body.replace("{kind}", kind)
