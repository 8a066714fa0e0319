"""Tiers, policies, staged policies, profiles and network sets."""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

from typing import Any, ClassVar

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Struct, always, leading, lst, mapping, opt, plain, req
from calico_node.resources.kubernetes_rules import EgressRule, IngressRule, LabelSelector
from calico_node.resources.meta import Resource
from calico_node.resources.scalars import PORT, PROTOCOL, check_port, check_protocol

MAX_RULES = 1024
MAX_NETS = 256
MAX_PORTS = 50

_ACTIONS = checks.one_of("Allow", "Deny", "Log", "Pass")
_SELECTOR = checks.all_of(checks.at_most_long(1024), checks.scoped_selector)
_TYPES = checks.one_of("Ingress", "Egress")
_HINTS = checks.one_of("AssumeNeededOnEveryNode")


@define(kw_only=True)
class ServiceMatch(Struct):
    """A Kubernetes Service; the namespace defaults to the policy's."""

    name: str = req(check=checks.at_most_long(253))
    namespace: str | None = opt(check=checks.at_most_long(253))


@define(kw_only=True)
class ServiceAccountMatch(Struct):
    """Service accounts by names, by selector on their labels, or both."""

    names: list[str] = lst()
    selector: str | None = opt(check=checks.scoped_selector)


@define(kw_only=True)
class EntityRule(Struct):
    """One side of a rule; all criteria present must hold."""

    nets: list[str] = lst(each=checks.strict_cidr, limit=MAX_NETS)
    selector: str | None = opt(check=checks.scoped_selector)
    namespace_selector: str | None = opt(check=checks.namespace_selector)
    services: ServiceMatch | None = opt()
    ports: list[str | int] = lst(each=check_port, codec=PORT, limit=MAX_PORTS)
    not_nets: list[str] = lst(each=checks.strict_cidr, limit=MAX_NETS)
    not_selector: str | None = opt(check=checks.scoped_selector)
    not_ports: list[str | int] = lst(each=check_port, codec=PORT, limit=MAX_PORTS)
    service_accounts: ServiceAccountMatch | None = opt()


@define(kw_only=True)
class ICMPFields(Struct):
    """ICMP type, and code within it."""

    type: int | None = opt(check=checks.between(0, 254))
    code: int | None = opt(check=checks.between(0, 255))


@define(kw_only=True)
class HTTPPath(Struct):
    """Exactly one of the two."""

    exact: str | None = opt(check=checks.at_most_long(1024))
    prefix: str | None = opt(check=checks.at_most_long(1024))


@define(kw_only=True)
class HTTPMatch(Struct):
    """Methods and paths of a request; each list, where given, must match."""

    methods: list[str] = lst(limit=20)
    paths: list[HTTPPath] = lst(limit=20)


@define(kw_only=True)
class RuleMetadata(Struct):
    """Annotations of a rule; they change nothing."""

    annotations: dict[str, str] = mapping()


@define(kw_only=True)
class Rule(Struct):
    """One rule of a policy or profile."""

    action: str = req(check=_ACTIONS)
    ip_version: int | None = opt("ipVersion")
    protocol: str | int | None = opt(codec=PROTOCOL, check=check_protocol)
    icmp: ICMPFields | None = opt()
    not_protocol: str | int | None = opt(codec=PROTOCOL, check=check_protocol)
    not_icmp: ICMPFields | None = opt("notICMP")
    source: EntityRule | None = opt(zero=True)
    destination: EntityRule | None = opt(zero=True)
    http: HTTPMatch | None = opt()
    metadata: RuleMetadata | None = opt()


@define(kw_only=True)
class PolicySpec(Struct):
    """What every kind of Calico policy has.  ``order`` None means after all numbers."""

    tier: str | None = opt()
    order: float | None = opt()
    ingress: list[Rule] = lst(limit=MAX_RULES)
    egress: list[Rule] = lst(limit=MAX_RULES)
    selector: str | None = opt(check=_SELECTOR)
    types: list[str] = lst(each=_TYPES)


@define(kw_only=True)
class NetworkPolicySpec(PolicySpec):
    service_account_selector: str | None = opt(check=checks.scoped_selector)
    performance_hints: list[str] = lst(each=_HINTS)


@define(kw_only=True)
class GlobalNetworkPolicySpec(PolicySpec):
    do_not_track: bool | None = opt(zero=True)
    pre_dnat: bool | None = opt("preDNAT", zero=True)
    apply_on_forward: bool | None = opt(zero=True)
    service_account_selector: str | None = opt(check=checks.scoped_selector)
    namespace_selector: str | None = opt(check=checks.scoped_selector)
    performance_hints: list[str] = lst(each=_HINTS)


_STAGED_ACTION = checks.one_of("Set", "Delete", "Learn", "Ignore")


@define(kw_only=True, field_transformer=leading("staged_action"))
class StagedNetworkPolicySpec(NetworkPolicySpec):
    staged_action: str | None = opt(check=_STAGED_ACTION)


@define(kw_only=True, field_transformer=leading("staged_action"))
class StagedGlobalNetworkPolicySpec(GlobalNetworkPolicySpec):
    staged_action: str | None = opt(check=_STAGED_ACTION)


@define(kw_only=True)
class StagedKubernetesNetworkPolicySpec(Struct):
    """The fields of a Kubernetes NetworkPolicy, kept as plain JSON."""

    staged_action: str | None = opt(check=_STAGED_ACTION)
    pod_selector: dict[str, Any] = plain(LabelSelector, always=True)
    ingress: list[Any] = lst(shape=IngressRule)
    egress: list[Any] = lst(shape=EgressRule)
    policy_types: list[str] = lst(each=_TYPES)


@define(kw_only=True)
class Condition(Struct):
    """A condition as Kubernetes writes it."""

    type: str | None = opt()
    status: str | None = opt()
    observed_generation: int | None = opt()
    last_transition_time: str | None = opt(check=checks.timestamp)
    reason: str | None = opt()
    message: str | None = opt()


@define(kw_only=True)
class ConditionsStatus(Struct):
    """Conditions, kept as plain JSON."""

    conditions: list[Any] = lst(shape=Condition)


@define(kw_only=True)
class NetworkPolicy(Resource):
    kind: ClassVar[str] = "NetworkPolicy"
    spec: NetworkPolicySpec = always(NetworkPolicySpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class GlobalNetworkPolicy(Resource):
    kind: ClassVar[str] = "GlobalNetworkPolicy"
    spec: GlobalNetworkPolicySpec = always(GlobalNetworkPolicySpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class StagedNetworkPolicy(Resource):
    kind: ClassVar[str] = "StagedNetworkPolicy"
    spec: StagedNetworkPolicySpec = always(StagedNetworkPolicySpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class StagedGlobalNetworkPolicy(Resource):
    kind: ClassVar[str] = "StagedGlobalNetworkPolicy"
    spec: StagedGlobalNetworkPolicySpec = always(StagedGlobalNetworkPolicySpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class StagedKubernetesNetworkPolicy(Resource):
    kind: ClassVar[str] = "StagedKubernetesNetworkPolicy"
    spec: StagedKubernetesNetworkPolicySpec = always(StagedKubernetesNetworkPolicySpec)
    status: ConditionsStatus | None = opt()


@define(kw_only=True)
class TierSpec(Struct):
    """``order`` None sorts last; ``default_action`` is Deny or Pass."""

    order: float | None = opt()
    default_action: str | None = opt(check=checks.one_of("Deny", "Pass"))


@define(kw_only=True)
class Tier(Resource):
    kind: ClassVar[str] = "Tier"
    spec: TierSpec = always(TierSpec)
    status: ConditionsStatus = always(ConditionsStatus)


@define(kw_only=True)
class NetworkSetSpec(Struct):
    nets: list[str] = lst(each=checks.cidr)


@define(kw_only=True)
class NetworkSet(Resource):
    kind: ClassVar[str] = "NetworkSet"
    spec: NetworkSetSpec = always(NetworkSetSpec)


@define(kw_only=True)
class GlobalNetworkSet(Resource):
    kind: ClassVar[str] = "GlobalNetworkSet"
    spec: NetworkSetSpec = always(NetworkSetSpec)


@define(kw_only=True)
class ProfileSpec(Struct):
    """``labels_to_apply`` are inherited by endpoints that list the profile; an endpoint's own label wins."""

    ingress: list[Rule] = lst(limit=MAX_RULES)
    egress: list[Rule] = lst(limit=MAX_RULES)
    labels_to_apply: dict[str, str] = mapping(check=checks.labels, shared=True)


@define(kw_only=True)
class Profile(Resource):
    kind: ClassVar[str] = "Profile"
    spec: ProfileSpec = always(ProfileSpec)
