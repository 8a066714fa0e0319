"""IP sets: the addresses (and ports) of the endpoints and network sets that a rule's selector selects."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Protocol, TypeAlias

from attrs import frozen

from calico_node.dataplanes.contract import IPSetType
from calico_node.model import EndpointPort, HostEndpointKey, NetworkSetKey, WorkloadEndpointKey
from calico_node.plugins.felix.calc.labelindex import LabelIndex
from calico_node.plugins.felix.calc.members import Change, CountedMembers, Members, NetMembers
from calico_node.selectors import Selector

ContributorKey: TypeAlias = WorkloadEndpointKey | HostEndpointKey | NetworkSetKey

_HOST_LENGTH = {4: "/32", 6: "/128"}
_PORT_PROTOCOLS = ("tcp", "udp", "sctp")


@frozen
class SetSpec:
    """What set ``id`` holds: the nets that ``selector`` selects, or, with ``port``, the named port's numbers there.

    ``selector`` None makes a set that stays empty: a service match, for which no source of EndpointSlices exists.
    """

    id: str
    type: IPSetType
    selector: Selector | None
    port: str = ""
    protocol: str = ""


def unique_id(prefix: str, content: str) -> str:
    """Calico's id of an IP set: the prefix and the unpadded URL-safe base64 of SHA-224(``prefix:content``)."""
    digest = hashlib.sha224(f"{prefix}:{content}".encode()).digest()
    return f"{prefix}:{urlsafe_b64encode(digest).decode().rstrip('=')}"


def selector_set(selector: Selector) -> SetSpec:
    return SetSpec(selector.uid("s"), IPSetType.NET, selector)


def named_port_set(selector: Selector, protocol: str, port: str) -> SetSpec:
    """``protocol`` is ``tcp``, ``udp``, ``sctp`` or ``any``."""
    uid = unique_id("n", f"{selector.uid('s')},{protocol},{port}")
    return SetSpec(uid, IPSetType.IP_AND_PORT, selector, port, protocol)


def service_set(name: str, *, with_ports: bool) -> SetSpec:
    """``name`` is ``namespace/service``."""
    if with_ports:
        return SetSpec(unique_id("svc", name), IPSetType.IP_AND_PORT, None)
    return SetSpec(unique_id("svcnoport", name), IPSetType.NET, None)


@frozen
class Contributor:
    """What an endpoint or network set brings into the sets that select it; ``nets`` canonical, with lengths."""

    nets: tuple[str, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    def members(self, spec: SetSpec) -> tuple[str, ...]:
        if spec.type is IPSetType.NET:
            return self.nets
        return tuple(
            f"{net.rpartition('/')[0]},{port.protocol}:{port.port}"
            for port in self.ports
            if port.name == spec.port and spec.protocol in (port.protocol, "any") and port.protocol in _PORT_PROTOCOLS
            for net in self.nets
            if net.endswith(_HOST_LENGTH[6 if ":" in net else 4])
        )


class IPSetOutput(Protocol):
    """Where the sets' changes go (the event sequencer)."""

    def ip_set_added(self, set_id: str, set_type: IPSetType) -> None: ...

    def ip_set_removed(self, set_id: str) -> None: ...

    def ip_set_changed(self, set_id: str, change: Change) -> None: ...


class IPSetIndex:
    """Membership of every active set, counted per (set, member) and changed by difference."""

    def __init__(self, output: IPSetOutput) -> None:
        self._output = output
        self._contributors: dict[ContributorKey, Contributor] = {}
        self._specs: dict[str, SetSpec] = {}
        self._users: dict[str, int] = {}
        self._members: dict[str, Members] = {}
        self.index: LabelIndex[str, ContributorKey] = LabelIndex(self._match_started, self._match_stopped)

    def __len__(self) -> int:
        return len(self._specs)

    def acquire(self, spec: SetSpec) -> None:
        """One more rule needs ``spec``."""
        users = self._users.get(spec.id, 0)
        self._users[spec.id] = users + 1
        if users:
            return
        self._specs[spec.id] = spec
        self._members[spec.id] = NetMembers() if spec.type is IPSetType.NET else CountedMembers()
        self._output.ip_set_added(spec.id, spec.type)
        if spec.selector is not None:
            self.index.set_selector(spec.id, spec.selector)

    def release(self, set_id: str) -> None:
        """One rule less needs it; the last one takes the set away."""
        users = self._users[set_id] - 1
        if users:
            self._users[set_id] = users
            return
        del self._users[set_id], self._specs[set_id], self._members[set_id]
        self.index.delete_selector(set_id)
        self._output.ip_set_removed(set_id)

    def set_contributor(
        self, key: ContributorKey, contributor: Contributor, labels: Mapping[str, str], parents: tuple[str, ...]
    ) -> None:
        old = self._contributors.get(key)
        if old is not None and old != contributor:
            for set_id in list(self.index.matching(key)):
                spec = self._specs[set_id]
                self._replace(set_id, old.members(spec), contributor.members(spec))
        self._contributors[key] = contributor
        self.index.set_item(key, labels, parents)

    def delete_contributor(self, key: ContributorKey) -> None:
        if key in self._contributors:
            self.index.delete_item(key)
            del self._contributors[key]

    def _replace(self, set_id: str, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        if old == new:
            return
        members = self._members[set_id]
        for member in new:
            self._output.ip_set_changed(set_id, members.add(member))
        for member in old:
            self._output.ip_set_changed(set_id, members.remove(member))

    def _match_started(self, set_id: str, key: ContributorKey) -> None:
        self._replace(set_id, (), self._contributors[key].members(self._specs[set_id]))

    def _match_stopped(self, set_id: str, key: ContributorKey) -> None:
        self._replace(set_id, self._contributors[key].members(self._specs[set_id]), ())
