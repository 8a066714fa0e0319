"""v3 endpoints, network sets, pools and IPAM documents to the v1 model (libcalico-go ``updateprocessors``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from sys import intern
from typing import Any

import orjson
from attrs import asdict

from calico_node.addresses import canonical_cidr, ip_version
from calico_node.errors import ValidationError
from calico_node.model import (
    AllocationAttribute,
    AllocationBlock,
    BlockAffinity,
    EndpointPort,
    HostEndpoint,
    IPNat,
    IPPool,
    NetworkSet,
    WorkloadEndpoint,
    WorkloadEndpointKey,
)
from calico_node.resources.endpoint_names import parse_workload_endpoint_name
from calico_node.syncer.policy_conversion import (
    NAMESPACE_LABEL,
    NAMESPACE_PREFIX,
    SERVICE_ACCOUNT_LABEL,
    SERVICE_ACCOUNT_PREFIX,
)

_INHERITED = (NAMESPACE_PREFIX, SERVICE_ACCOUNT_PREFIX)
_ENCAPSULATION = {"Always": "always", "CrossSubnet": "cross-subnet"}


@lru_cache(maxsize=16384)
def workload_endpoint_key(namespace: str, name: str) -> WorkloadEndpointKey:
    """Raises ``ValidationError`` for a name that is not of four segments."""
    parts = parse_workload_endpoint_name(name)
    return WorkloadEndpointKey(parts.node, parts.orchestrator, f"{namespace}/{parts.workload}", parts.endpoint)


def workload_endpoint(resource: Any) -> WorkloadEndpoint | None:
    """None for a workload without addresses: it has ended, or is not wired yet."""
    spec, metadata = resource.spec, resource.metadata
    if not spec.ip_networks:
        return None
    nats = [IPNat(nat.internal_ip, nat.external_ip) for nat in spec.ip_nats] if spec.ip_nats else ()
    ipv4_nets = endpoint_nets(spec.ip_networks, 4)
    return WorkloadEndpoint(
        name=spec.interface_name or "",
        mac=spec.mac or "",
        profile_ids=tuple(spec.profiles or ()),
        ipv4_nets=ipv4_nets,
        ipv6_nets=endpoint_nets(spec.ip_networks, 6) if len(ipv4_nets) < len(spec.ip_networks) else (),
        ipv4_nat=tuple([nat for nat in nats if ip_version(nat.internal_ip) == 4]) if nats else (),
        ipv6_nat=tuple([nat for nat in nats if ip_version(nat.internal_ip) == 6]) if nats else (),
        labels=endpoint_labels(metadata.labels, spec.service_account_name),
        ports=_ports([port for port in spec.ports if port.name]) if spec.ports else (),
        generate_name=metadata.generate_name or "",
        allow_spoofed_source_prefixes=tuple(map(canonical_cidr, spec.allow_spoofed_source_prefixes or ())),
        annotations=dict(metadata.annotations),
        qos_controls=_qos(spec.qos_controls),
    )


def endpoint_labels(own: Mapping[str, str], service_account: str | None) -> dict[str, str]:
    """A copy of a workload's labels as policies see them; equal values, few in number, are kept once."""
    # Labels with these prefixes are inherited from profiles; a pod must not claim them itself.
    labels = {name: intern(value) for name, value in own.items() if not name.startswith(_INHERITED)}
    if service_account:
        labels[SERVICE_ACCOUNT_LABEL] = service_account
    return labels


def _qos(controls: Any | None) -> dict[str, int]:
    if controls is None:
        return {}
    values = asdict(controls, recurse=False)
    return {name: value for name, value in values.items() if isinstance(value, int) and value}


def host_endpoint(resource: Any) -> HostEndpoint:
    spec = resource.spec
    addresses = spec.expected_ips or ()
    return HostEndpoint(
        name=spec.interface_name or "",
        expected_ipv4_addrs=tuple(address for address in addresses if ip_version(address) == 4),
        expected_ipv6_addrs=tuple(address for address in addresses if ip_version(address) == 6),
        labels=dict(resource.metadata.labels),
        profile_ids=tuple(spec.profiles or ()),
        ports=_ports(spec.ports or ()),
    )


def network_set(resource: Any) -> NetworkSet:
    """A NetworkSet (with its namespace's label and profile) or a GlobalNetworkSet."""
    namespace = resource.metadata.namespace
    labels = dict(resource.metadata.labels)
    if namespace:
        labels[NAMESPACE_LABEL] = namespace
    nets = dict.fromkeys(canonical_cidr(net) for net in resource.spec.nets or ())
    return NetworkSet(tuple(nets), labels, (f"kns.{namespace}",) if namespace else ())


def ip_pool(resource: Any) -> IPPool:
    spec = resource.spec
    cidr = canonical_cidr(spec.cidr)
    return IPPool(
        cidr=cidr,
        ipip_mode=_ENCAPSULATION.get(spec.ipip_mode or "", ""),
        vxlan_mode=_ENCAPSULATION.get(spec.vxlan_mode or "", ""),
        masquerade=bool(spec.nat_outgoing),
        disabled=bool(spec.disabled),
        disable_bgp_export=bool(spec.disable_bgp_export),
        assignment_mode=spec.assignment_mode or "Automatic",
        allowed_uses=tuple(spec.allowed_uses or ("Workload", "Tunnel")),
        block_size=spec.block_size or (26 if ip_version(cidr) == 4 else 122),
    )


def endpoint_nets(values: Iterable[str], version: int) -> tuple[str, ...]:
    return tuple([canonical_cidr(value) for value in values if ip_version(value) == version])


_PORT_PROTOCOLS = {"6": "tcp", "17": "udp", "132": "sctp"}


def _ports(ports: Iterable[Any]) -> tuple[EndpointPort, ...]:
    return tuple([endpoint_port(port.name, port.protocol, port.port) for port in ports])


@lru_cache(maxsize=1024)  # the same few ports over and over
def endpoint_port(name: str, protocol: str | int, number: int) -> EndpointPort:
    """A protocol may be given by number; rules know it by name."""
    text = str(protocol).lower()
    return EndpointPort(name, _PORT_PROTOCOLS.get(text, text), number)


def allocation_block(raw: bytes) -> AllocationBlock:
    """An IPAM block document (``/calico/ipam/v2/assignment/…``).  Raises ``ValidationError``."""
    try:
        data = orjson.loads(raw)
        affinity = data.get("affinity")
        if affinity is None and data.get("hostAffinity"):
            affinity = f"host:{data['hostAffinity']}"  # as written before affinities had a type
        if affinity is not None and not isinstance(affinity, str):
            raise TypeError(f"affinity is {affinity!r}")
        cidr = canonical_cidr(str(data["cidr"]))
        attributes = tuple(map(_attribute, data.get("attributes") or ()))
        allocations = tuple(data.get("allocations") or ())
        _check_allocations(allocations, cidr, len(attributes))
        return AllocationBlock(cidr=cidr, affinity=affinity, allocations=allocations, attributes=attributes)
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValidationError(f"is not an IPAM block document: {error!r}") from None


def _check_allocations(allocations: tuple[Any, ...], cidr: str, attributes: int) -> None:
    """Every index is one of ``attributes``, and no address lies outside ``cidr``."""
    if any(index is not None and type(index) is not int for index in allocations):
        raise TypeError("allocations holds something that is neither a number nor null")
    for index in allocations:
        if index is not None and not 0 <= index < attributes:
            raise ValidationError(
                f"is not an index into {attributes} attributes", resource=cidr, field="allocations", value=index
            )
    bits = (32 if ip_version(cidr) == 4 else 128) - int(cidr.partition("/")[2])
    if len(allocations) > 1 << bits:
        raise ValidationError("has more entries than the block has addresses", resource=cidr, field="allocations")


def _attribute(data: dict[str, Any]) -> AllocationAttribute:
    secondary = data.get("secondary") or {}
    if not all(isinstance(value, str) for value in secondary.values()):
        raise TypeError("an attribute's secondary holds something that is no text")
    handle, released = data.get("handle_id"), data.get("releasedAt")
    if not isinstance(handle, str | None) or not isinstance(released, str | None):
        raise TypeError("an attribute's handle_id or releasedAt is no text")
    return AllocationAttribute(handle, secondary, released)


def block_affinity(raw: bytes) -> BlockAffinity | None:
    """A block affinity document; an empty value is an old, confirmed one.  None when marked deleted."""
    if not raw:
        return BlockAffinity()
    try:
        data = orjson.loads(raw)
        if data.get("deleted") in (True, "true"):
            return None
        state = data.get("state") or "confirmed"
        if not isinstance(state, str):
            raise TypeError(f"state is {state!r}")
        return BlockAffinity(state)
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise ValidationError(f"is not a block affinity document: {error!r}") from None
