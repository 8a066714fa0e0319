"""The lab's own document, ``apiVersion: lab.calico-node/v1``, ``kind: Lab``: its nodes and its outside hosts.

::

    apiVersion: lab.calico-node/v1
    kind: Lab
    spec:
      nodes: [{name: node1, labels: {rack: a}, address: 172.30.0.1/24, asNumber: 64512, listen: [{port: 80}]}]
      hosts: [{name: e1, address: 172.30.0.10/24, listen: [{port: 80, protocol: UDP}]}]

All but the names may be left out.  All machines are on one network: that of the addresses given, else
172.30.0.0/24.  Addresses that are not given are taken from it in order: nodes from .1, hosts from .10 (from the first
free one after the nodes when there are more than nine).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, field, frozen

from calico_node.errors import ValidationError

API_VERSION = "lab.calico-node/v1"
FABRIC = ipaddress.IPv4Network("172.30.0.0/24")
CLUSTER_NETWORK = ipaddress.IPv4Network("10.96.0.0/12")
"""Where Services have their addresses."""
PROTOCOLS = ("TCP", "UDP", "SCTP")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?\Z")


@frozen
class Listen:
    """A port that answers; ``protocol`` is TCP, UDP or SCTP."""

    port: int
    protocol: str = "TCP"


@frozen
class LabHost:
    """A machine outside the cluster, on the nodes' own network; ``address`` is ``a.b.c.d/length``."""

    name: str
    address: str = ""
    listen: tuple[Listen, ...] = ()
    origin: str = field(default="", eq=False, kw_only=True)
    """Where it is described, for error messages."""

    @property
    def ip(self) -> str:
        return self.address.partition("/")[0]


@frozen
class LabNode(LabHost):
    """A node to run; ``as_number`` None for the cluster's own."""

    labels: Mapping[str, str] = field(factory=dict, hash=False)
    as_number: int | None = None


@frozen
class LabSpec:
    nodes: tuple[LabNode, ...] = ()
    hosts: tuple[LabHost, ...] = ()


class _Reader:
    """Takes members out of a document and complains with resource, field and value."""

    def __init__(self, data: object, path: str, resource: str, origin: str, allowed: Iterable[str]) -> None:
        self.path, self.resource, self.origin = path, resource, origin
        if not isinstance(data, Mapping):
            raise self.error("must be a map", "", data)
        self.data: Mapping[str, Any] = data
        known = tuple(allowed)
        for name in data:
            if name not in known:
                raise self.error(f"unknown field; known are {', '.join(known)}", str(name), data[name])

    def error(self, reason: str, name: str, value: object) -> ValidationError:
        path = f"{self.path}.{name}" if self.path and name else self.path or name
        return ValidationError(reason, resource=self.resource, field=path, value=value, origin=self.origin)

    def items(self, name: str) -> Sequence[object]:
        value = self.data.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self.error("must be a list", name, value)
        return value

    def name(self) -> str:
        value = self.data.get("name")
        if not isinstance(value, str) or not _NAME.match(value):
            raise self.error(
                "a name of lower-case letters, digits, '-' and '.' is required (63 at most)", "name", value
            )
        return value

    def address(self) -> str:
        value = self.data.get("address")
        if value is None:
            return ""
        try:
            interface = ipaddress.IPv4Interface(value if isinstance(value, str) else "")
        except ValueError:
            raise self.error("must be an IPv4 address with its length, as 172.30.0.1/24", "address", value) from None
        if "/" not in value or interface.network.prefixlen > 30:
            raise self.error(
                "must be an IPv4 address with a length of 30 at most, as 172.30.0.1/24", "address", value
            )
        if interface.ip in (interface.network.network_address, interface.network.broadcast_address):
            raise self.error("is the network's own or broadcast address", "address", value)
        return str(interface)

    def labels(self) -> dict[str, str]:
        value = self.data.get("labels")
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.error("must be a map of texts", "labels", value)
        for key, text in value.items():
            if not isinstance(key, str) or not isinstance(text, str):
                raise self.error("must be a text (write it in quotes)", f"labels[{key}]", text)
        return dict(value)

    def as_number(self) -> int | None:
        value = self.data.get("asNumber")
        if value is None:
            return None
        if isinstance(value, str) and re.fullmatch(r"\d{1,5}\.\d{1,5}", value):
            high, low = (int(part) for part in value.split("."))
            if high <= 0xFFFF and low <= 0xFFFF:
                return high << 16 | low
        if isinstance(value, str) and value.isdigit():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 0xFFFFFFFF:
            raise self.error("must be an AS number, 1 to 4294967295", "asNumber", value)
        return value

    def listen(self) -> tuple[Listen, ...]:
        found: list[Listen] = []
        for index, item in enumerate(self.items("listen")):
            path = f"{self.path}.listen[{index}]"
            entry = _Reader(item, path, self.resource, self.origin, ("port", "protocol"))
            port, protocol = entry.data.get("port"), entry.data.get("protocol", "TCP")
            if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
                raise entry.error("must be a port number, 1 to 65535", "port", port)
            if protocol not in PROTOCOLS:
                raise entry.error(f"must be one of {', '.join(PROTOCOLS)}", "protocol", protocol)
            found.append(Listen(port, protocol))
        return tuple(found)


def parse(data: Mapping[str, Any], origin: str = "") -> LabSpec:
    """The Lab document ``data``.  Raises ``ValidationError`` with field, value and reason."""
    metadata = data.get("metadata") or {}
    name = metadata.get("name", "") if isinstance(metadata, Mapping) else ""
    resource = f"Lab({name})" if name else "Lab"
    top = _Reader(data, "", resource, origin, ("apiVersion", "kind", "metadata", "spec"))
    if not isinstance(metadata, Mapping):
        raise top.error("must be a map", "metadata", metadata)
    spec = _Reader(data.get("spec") or {}, "spec", resource, origin, ("nodes", "hosts"))
    nodes = []
    for index, item in enumerate(spec.items("nodes")):
        fields = ("name", "labels", "address", "asNumber", "listen")
        entry = _Reader(item, f"spec.nodes[{index}]", resource, origin, fields)
        nodes.append(
            LabNode(entry.name(), entry.address(), entry.listen(), entry.labels(), entry.as_number(), origin=origin)
        )
    hosts = []
    for index, item in enumerate(spec.items("hosts")):
        entry = _Reader(item, f"spec.hosts[{index}]", resource, origin, ("name", "address", "listen"))
        hosts.append(LabHost(entry.name(), entry.address(), entry.listen(), origin=origin))
    result = LabSpec(tuple(nodes), tuple(hosts))
    _refuse_doubles(result, resource, origin)
    return result


def _refuse_doubles(spec: LabSpec, resource: str, origin: str) -> None:
    groups: tuple[tuple[str, Sequence[LabHost]], ...] = (("nodes", spec.nodes), ("hosts", spec.hosts))
    for group, entries in groups:
        names: set[str] = set()
        for index, entry in enumerate(entries):
            if entry.name in names:
                raise ValidationError(
                    "this name is given twice",
                    resource=resource,
                    field=f"spec.{group}[{index}].name",
                    value=entry.name,
                    origin=origin,
                )
            names.add(entry.name)
    taken: set[str] = set()
    for group, entries in groups:
        for index, entry in enumerate(entries):
            if entry.address and entry.ip in taken:
                raise ValidationError(
                    "this address is given twice",
                    resource=resource,
                    field=f"spec.{group}[{index}].address",
                    value=entry.address,
                    origin=origin,
                )
            taken.add(entry.ip)


def merge(specs: Iterable[LabSpec]) -> LabSpec:
    """Several Lab documents as one; a later entry of the same name replaces an earlier one, in its place."""
    nodes: dict[str, LabNode] = {}
    hosts: dict[str, LabHost] = {}
    for spec in specs:
        nodes.update((node.name, node) for node in spec.nodes)
        hosts.update((host.name, host) for host in spec.hosts)
    return LabSpec(tuple(nodes.values()), tuple(hosts.values()))


def complete(spec: LabSpec, count: int = 0) -> LabSpec:
    """Give every node and host an address, and make ``count`` nodes (0: as many as are named, 3 when none is).

    Nodes beyond the named ones are ``nodeN``.  Raises ``ValidationError`` when more nodes are named than ``count``
    allows or the network is full.
    """
    wanted = count or len(spec.nodes) or 3
    if len(spec.nodes) > wanted:
        raise ValidationError(f"the documents name {len(spec.nodes)} nodes, --nodes allows {wanted}", resource="Lab")
    nodes = list(spec.nodes)
    names = {node.name for node in nodes}
    number = 0
    while len(nodes) < wanted:
        number += 1
        if f"node{number}" not in names:
            nodes.append(LabNode(f"node{number}"))
    fabric = _fabric(nodes, spec.hosts)
    taken = {machine.ip for machine in (*nodes, *spec.hosts) if machine.address}
    # Node N is .N, so that adding a host or a pinned address elsewhere renumbers nothing.
    named = [evolve(node, address=node.address or _free(fabric, taken, 1)) for node in nodes]
    first = max(10, len(named) + 1)
    hosts = [evolve(host, address=host.address or _free(fabric, taken, first)) for host in spec.hosts]
    return LabSpec(tuple(named), tuple(hosts))


def spare_address(spec: LabSpec) -> str:
    """The last address of a complete lab's network that no machine has, with its length.

    Raises ``ValidationError`` when there is none.
    """
    machines = (*spec.nodes, *spec.hosts)
    fabric = ipaddress.IPv4Interface(machines[0].address).network
    taken = {machine.ip for machine in machines}
    for number in range(fabric.num_addresses - 2, 0, -1):
        if str(fabric[number]) not in taken:
            return f"{fabric[number]}/{fabric.prefixlen}"
    raise ValidationError(f"no address is left in {fabric} for the datastore", resource="Lab")


def _fabric(nodes: Sequence[LabNode], hosts: Sequence[LabHost]) -> ipaddress.IPv4Network:
    """The network that all addresses given are in.  Raises ``ValidationError`` for one that is in another, or is
    another machine's: two documents may give it."""
    network: ipaddress.IPv4Network | None = None
    taken: dict[str, str] = {}
    for group, machines in (("nodes", nodes), ("hosts", hosts)):
        for machine in machines:
            if not machine.address:
                continue
            place = f"spec.{group}[{machine.name}].address"
            own = ipaddress.IPv4Interface(machine.address).network
            network = network or own
            reason = ""
            if own != network:
                reason = f"is not in {network}, the network of the others: nodes and hosts are on one segment"
            elif own.overlaps(CLUSTER_NETWORK):
                reason = f"is in {CLUSTER_NETWORK}, which is for the addresses of Services"
            elif machine.ip in taken:
                reason = f"is the address of {taken[machine.ip]} already"
            if reason:
                raise ValidationError(
                    reason, resource="Lab", field=place, value=machine.address, origin=machine.origin
                )
            taken[machine.ip] = machine.name
    return network or FABRIC


def _free(fabric: ipaddress.IPv4Network, taken: set[str], first: int) -> str:
    for number in range(min(first, fabric.num_addresses), fabric.num_addresses - 1):
        address = str(fabric[number])
        if address not in taken:
            taken.add(address)
            return f"{address}/{fabric.prefixlen}"
    raise ValidationError(f"no free address is left in {fabric}", resource="Lab")
