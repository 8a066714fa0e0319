"""Names in probes, resolved to addresses and namespaces."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import frozen

from calico_node.errors import LabError
from calico_node.lab.probes import Place, Probe
from calico_node.lab.services import Service


@frozen
class Location:
    """A place and the path of its network namespace."""

    place: Place
    netns: str


def unknown(name: str, locations: Iterable[str]) -> str:
    """The error for a name that is nobody's, with the nearest that is somebody's."""
    near = difflib.get_close_matches(name, list(locations), 1)
    return f"there is no {name!r} in the lab" + (f"; did you mean {near[0]!r}?" if near else "")


def resolve(probe: Probe, locations: Mapping[str, Location], services: Mapping[str, Service]) -> dict[str, Any]:
    """The prober's request.  Raises ``LabError`` for a name that the lab does not have."""
    source = locations.get(probe.source)
    if source is None:
        raise LabError(f"{probe.origin or 'probe'}: {probe}: {unknown(probe.source, locations)}")
    request = {
        "netns": source.netns,
        "protocol": probe.protocol,
        "port": probe.port,
        "type": probe.icmp_type,
        "code": probe.icmp_code,
    }
    if probe.target.startswith("service:"):
        return {**request, "ip": _service_address(probe, services)}
    target = locations.get(probe.target)
    if target is not None:
        return {**request, "ip": target.place.ip, "pod": target.place.name, "watch": target.netns}
    try:
        address = str(ipaddress.ip_address(probe.target))
    except ValueError:
        raise LabError(f"{probe.origin or 'probe'}: {probe}: {unknown(probe.target, locations)}") from None
    watch = next((location.netns for location in locations.values() if location.place.ip == address), "")
    return {**request, "ip": address, "watch": watch}


def _service_address(probe: Probe, services: Mapping[str, Service]) -> str:
    name = probe.target.removeprefix("service:")
    service = services.get(name)
    if service is None:
        raise LabError(f"{probe.origin or 'probe'}: {probe}: {unknown(name, services)}")
    address = service.address or next((address for _, address in service.hostnames), "")
    if not address:
        raise LabError(f"{probe.origin or 'probe'}: {probe}: the headless service has no pods")
    return address
