"""The parts of a Kubernetes NetworkPolicy (networking.k8s.io/v1), by the API server's rules.

A StagedKubernetesNetworkPolicy keeps these parts as plain JSON; the classes here say what that JSON must read as.
"""

# ruff: noqa: RUF009 - the calls in class bodies declare fields (calico_node.resources.fields)

import ipaddress
from typing import Any

from attrs import define

from calico_node.resources import checks
from calico_node.resources.fields import Codec, Fault, Struct, lst, mapping, opt, req
from calico_node.resources.scalars import check_port_name


@define(kw_only=True)
class LabelRequirement(Struct):
    """One of a label selector's matchExpressions."""

    key: str = req(check=checks.qualified_name)
    operator: str = req(check=checks.one_of("In", "NotIn", "Exists", "DoesNotExist"))
    values: list[str] = lst(each=checks.label_value)

    def fault(self) -> Fault | None:
        if bool(self.values) == (self.operator in ("In", "NotIn")):
            return None
        return Fault(f"operator {self.operator} " + ("takes none" if self.values else "needs some"), path="values")


@define(kw_only=True)
class LabelSelector(Struct):
    """All of its parts must hold; without any it selects everything."""

    match_labels: dict[str, str] = mapping(check=checks.labels)
    match_expressions: list[LabelRequirement] = lst()


@define(kw_only=True)
class IPBlock(Struct):
    """Addresses of ``cidr`` without those of ``except``."""

    cidr: str = req(check=checks.cidr_with_length)
    excluded: list[str] = lst("except", each=checks.cidr_with_length)

    def fault(self) -> Fault | None:
        whole = ipaddress.ip_network(self.cidr, strict=False)
        for index, text in enumerate(self.excluded):
            part = ipaddress.ip_network(text, strict=False)
            if part.version != whole.version or part == whole or not part.subnet_of(whole):  # type: ignore[arg-type]
                return Fault(f"must lie strictly within {self.cidr}", text, f"except[{index}]")
        return None


@define(kw_only=True)
class PolicyPeer(Struct):
    pod_selector: LabelSelector | None = opt()
    namespace_selector: LabelSelector | None = opt()
    ip_block: IPBlock | None = opt("ipBlock")

    def fault(self) -> Fault | None:
        pods = self.pod_selector is not None or self.namespace_selector is not None
        if self.ip_block is not None and pods:
            return Fault("cannot be combined with podSelector or namespaceSelector", path="ipBlock")
        if self.ip_block is None and not pods and not self.extra:
            return Fault("needs podSelector, namespaceSelector or ipBlock")
        return None


def _read_port(raw: Any) -> int | str:
    if isinstance(raw, str) or (isinstance(raw, int) and not isinstance(raw, bool)):
        return raw
    raise Fault("must be a port number or a port name", raw)


def _check_port(value: int | str) -> str | None:
    if isinstance(value, str):
        return check_port_name(value)
    return None if 1 <= value <= 65535 else "port must be 1 to 65535"


@define(kw_only=True)
class PolicyPort(Struct):
    """A port, a name, a range to ``end_port``, or all ports of a protocol; the protocol defaults to TCP."""

    protocol: str | None = opt(check=checks.one_of("TCP", "UDP", "SCTP"))
    port: int | str | None = opt(codec=Codec(_read_port), check=_check_port)
    end_port: int | None = opt(check=checks.between(1, 65535))

    def fault(self) -> Fault | None:
        if self.end_port is None:
            return None
        if not isinstance(self.port, int):
            return Fault("needs a numeric port", self.end_port, "endPort")
        return Fault(f"is below port {self.port}", self.end_port, "endPort") if self.end_port < self.port else None


@define(kw_only=True)
class IngressRule(Struct):
    ports: list[PolicyPort] = lst()
    peers: list[PolicyPeer] = lst("from")


@define(kw_only=True)
class EgressRule(Struct):
    ports: list[PolicyPort] = lst()
    peers: list[PolicyPeer] = lst("to")
