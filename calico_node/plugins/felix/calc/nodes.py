"""What a Node resource tells: host metadata, and which FelixConfigurations select this node."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from calico_node.dataplanes.contract import HostMetadataUpdate
from calico_node.errors import CalicoError
from calico_node.resources import to_dict
from calico_node.selectors import parse
from calico_node.syncer.configuration import flatten

if TYPE_CHECKING:
    from calico_node.resources import FelixConfiguration, Node


def host_metadata(name: str, node: Node) -> HostMetadataUpdate | None:
    """The node's addresses as CIDR text, labels and AS number; None for a node without any address.

    ``spec.bgp`` goes first; an address without a length there does not count, as in Felix; then ``spec.addresses``,
    the InternalIP before the ExternalIP.
    """
    bgp = node.spec.bgp
    ipv4 = _with_length(bgp.ipv4_address, 4) if bgp is not None else ""
    ipv6 = _with_length(bgp.ipv6_address, 6) if bgp is not None else ""
    ipv4 = ipv4 or _listed(node, 4)
    ipv6 = ipv6 or _listed(node, 6)
    if not ipv4 and not ipv6:
        return None
    return HostMetadataUpdate(
        hostname=name,
        ipv4_addr=ipv4,
        ipv6_addr=ipv6,
        as_number=_as_number(bgp.as_number) if bgp is not None else None,
        labels=dict(node.metadata.labels),
    )


def _with_length(text: str | None, version: int) -> str:
    if not text or "/" not in text:
        return ""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError:
        return ""
    return str(interface) if interface.version == version else ""


def _listed(node: Node, version: int) -> str:
    for kind in ("InternalIP", "ExternalIP"):
        for entry in node.spec.addresses or ():
            if entry.type != kind:
                continue
            try:
                address = ipaddress.ip_interface(entry.address)
            except ValueError:
                continue
            if address.version == version:
                return str(address)
    return ""


def _as_number(value: object) -> int | None:
    """``asNumber`` as a number; it may be dotted text."""
    if value is None:
        return None
    high, dot, low = str(value).partition(".")
    try:
        return int(high) * 65536 + int(low) if dot else int(high)
    except ValueError:
        return None


def selected_parameters(
    candidates: Iterable[FelixConfiguration], labels: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The parameters of the one FelixConfiguration whose nodeSelector picks a node with ``labels``, and faults by
    configuration name.

    Of several the oldest wins, then the first by name.  One without a selector picks no node.
    """
    faults: dict[str, str] = {}
    picked: list[FelixConfiguration] = []
    for candidate in candidates:
        selector = candidate.spec.node_selector
        try:
            if selector and parse(selector).matches(labels):
                picked.append(candidate)
        except CalicoError as error:
            faults[candidate.metadata.name] = str(error)
    for candidate in sorted(picked, key=lambda one: (str(one.metadata.creation_timestamp or ""), one.metadata.name)):
        spec = {name: value for name, value in to_dict(candidate).get("spec", {}).items() if name != "nodeSelector"}
        try:
            return flatten(spec, candidate.metadata.annotations), faults
        except CalicoError as error:
            faults[candidate.metadata.name] = str(error)
    return {}, faults
