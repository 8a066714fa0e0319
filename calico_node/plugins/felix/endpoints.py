"""This node's workload endpoints at the kernel's edge: interfaces, sysctls, neighbours and their status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import anyio.lowlevel
import structlog

from calico_node.dataplanes.contract import (
    Applied,
    Message,
    ObjectState,
    ObjectStatus,
    WorkloadEndpointID,
    WorkloadEndpointRemove,
    WorkloadEndpointUpdate,
)
from calico_node.errors import NetlinkError
from calico_node.linux.links import set_static_neighbour
from calico_node.linux.sysctl import configure_workload_interface
from calico_node.plugins.felix.desired import DesiredRoutes

log = structlog.get_logger("felix")

SLICE = 64
"""Endpoints prepared between two turns of the event loop."""

UP = ObjectStatus(ObjectState.UP)
NO_INTERFACE = ObjectStatus(ObjectState.DOWN, "its interface is not up")
ADMIN_DOWN = ObjectStatus(ObjectState.DOWN, "it is administratively down")


def name_of(identity: WorkloadEndpointID) -> str:
    return f"WorkloadEndpoint({identity.workload}/{identity.endpoint})"


class LocalEndpoints:
    """Follows the dataplane's endpoint messages and the interfaces, and makes the one ready for the other.

    ``changed(endpoint, status, message)`` is called whenever an endpoint's status changes; status None: it is gone.
    """

    def __init__(
        self,
        routes: DesiredRoutes,
        changed: Callable[[WorkloadEndpointID, ObjectStatus | None, WorkloadEndpointUpdate | None], None],
    ) -> None:
        self._routes = routes
        self._changed = changed
        self._endpoints: dict[WorkloadEndpointID, WorkloadEndpointUpdate] = {}
        self._on_interface: dict[str, set[WorkloadEndpointID]] = {}
        self._up: frozenset[str] = frozenset()
        self._in_dataplane: dict[WorkloadEndpointID, ObjectStatus] = {}
        self._configured: dict[WorkloadEndpointID, WorkloadEndpointUpdate] = {}
        self._faults: dict[WorkloadEndpointID, str] = {}
        self._status: dict[WorkloadEndpointID, ObjectStatus] = {}
        self._dirty: dict[WorkloadEndpointID, None] = {}

    def __len__(self) -> int:
        return len(self._endpoints)

    @property
    def faults(self) -> Mapping[str, str]:
        """Endpoints that are in error, or whose interface could not be prepared."""
        found = {name_of(identity): reason for identity, reason in self._faults.items()}
        for identity, status in self._in_dataplane.items():
            if status.state is ObjectState.ERROR:
                found[name_of(identity)] = status.reason
        return found

    def take_messages(self, messages: Iterable[Message]) -> None:
        for message in messages:
            match message:
                case WorkloadEndpointUpdate(id=identity):
                    self._forget_interface(identity)
                    self._endpoints[identity] = message
                    self._on_interface.setdefault(message.name, set()).add(identity)
                    self._dirty[identity] = None
                case WorkloadEndpointRemove(id=identity):
                    self._forget_interface(identity)
                    self._endpoints.pop(identity, None)
                    self._in_dataplane.pop(identity, None)
                    self._dirty[identity] = None

    def take_status(self, applied: Applied) -> None:
        for identity, status in applied.status.items():
            if isinstance(identity, WorkloadEndpointID) and identity in self._endpoints:
                self._in_dataplane[identity] = status
                self._dirty[identity] = None

    def take_interfaces(self, up: frozenset[str], changed: frozenset[str]) -> None:
        """``changed`` names interfaces that came, went or were made anew: they need their preparation again."""
        self._up = up
        for name in changed:
            for identity in self._on_interface.get(name, ()):
                self._configured.pop(identity, None)
                self._dirty[identity] = None

    def retry(self) -> None:
        """Try again what failed."""
        self._dirty.update(dict.fromkeys(self._faults))

    async def settle(self) -> None:
        """Bring interfaces, desired routes and statuses of what changed up to date."""
        done = 0
        while self._dirty:
            identity = next(iter(self._dirty))
            del self._dirty[identity]
            await self._settle(identity)
            done += 1
            if done % SLICE == 0:
                await anyio.lowlevel.checkpoint()

    async def _settle(self, identity: WorkloadEndpointID) -> None:
        endpoint = self._endpoints.get(identity)
        self._faults.pop(identity, None)
        if endpoint is None or endpoint.state != "active" or endpoint.name not in self._up:
            self._configured.pop(identity, None)
            self._routes.set_endpoint(identity, None)
            if endpoint is not None:
                self._report(identity, NO_INTERFACE if endpoint.state == "active" else ADMIN_DOWN, endpoint)
            else:
                self._report(identity, None, None)
            return
        status = self._in_dataplane.get(identity, UP)
        if status.state is ObjectState.ERROR:
            # Nothing enforces it, and its interface may be somebody else's: neither parameters nor routes.
            self._configured.pop(identity, None)
            self._routes.set_endpoint(identity, None)
            self._report(identity, status, endpoint)
            return
        fault = await self._configure(identity, endpoint)
        if fault:
            self._faults[identity] = fault
            self._routes.set_endpoint(identity, None)
            self._report(identity, ObjectStatus(ObjectState.DOWN, fault), endpoint)
            return
        self._routes.set_endpoint(identity, endpoint)
        self._report(identity, status, endpoint)

    async def _configure(self, identity: WorkloadEndpointID, endpoint: WorkloadEndpointUpdate) -> str:
        """Prepare the interface; the reason when it cannot be."""
        before = self._configured.get(identity)
        if before is not None and _kernel_part(before) == _kernel_part(endpoint):
            return ""
        try:
            configure_workload_interface(
                endpoint.name,
                ipv4=bool(endpoint.ipv4_nets),
                ipv6=bool(endpoint.ipv6_nets),
                rp_filter=0 if endpoint.allow_spoofed_source_prefixes else None,
            )
        except OSError as error:
            return f"{endpoint.name}: cannot set its parameters: {error.strerror or error}"
        if endpoint.mac:
            for net in endpoint.ipv4_nets:
                try:
                    await set_static_neighbour(endpoint.name, net.partition("/")[0], endpoint.mac)
                except (NetlinkError, ValueError) as error:
                    # The kernel asks the workload by ARP then, as it does for endpoints without a MAC.
                    log.warning("no static neighbour", endpoint=name_of(identity), error=str(error))
        self._configured[identity] = endpoint
        return ""

    def _report(
        self, identity: WorkloadEndpointID, status: ObjectStatus | None, endpoint: WorkloadEndpointUpdate | None
    ) -> None:
        if status == self._status.get(identity) and status is None:
            return
        changed = status != self._status.get(identity)
        if status is None:
            del self._status[identity]
        else:
            self._status[identity] = status
        if changed or (status is not None and status.state is ObjectState.UP):
            self._changed(identity, status, endpoint)

    def _forget_interface(self, identity: WorkloadEndpointID) -> None:
        old = self._endpoints.get(identity)
        if old is not None:
            identities = self._on_interface[old.name]
            identities.discard(identity)
            if not identities:
                del self._on_interface[old.name]


def _kernel_part(endpoint: WorkloadEndpointUpdate) -> tuple[object, ...]:
    return (
        endpoint.name,
        endpoint.mac,
        endpoint.ipv4_nets,
        bool(endpoint.ipv6_nets),
        bool(endpoint.allow_spoofed_source_prefixes),
    )
