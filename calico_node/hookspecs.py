"""Every hook a plugin may implement; the public contract of the plugin system.

Entry points of the group ``calico_node``:

``component.X``   a class with a no-argument constructor that is a ``Component``
``dataplane.X``   a callable ``(context: AgentContext) -> PolicyDataplane``
``datastore.X``   an async callable ``(settings: Settings) -> KVEngine``
``hooks.X``       a module or object whose functions, marked with ``hookimpl``, implement the hooks below

A component's methods may be marked with ``hookimpl`` too: that is how it answers for what it alone knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import pluggy
from attrs import field, frozen

from calico_node.dataplanes.contract import PodWiring, PolicyDataplane, RouteSink
from calico_node.datastores.client import Client
from calico_node.health import ComponentHealth
from calico_node.settings import Settings

hookspec = pluggy.HookspecMarker("calico_node")
hookimpl = pluggy.HookimplMarker("calico_node")


class HealthReporter(Protocol):
    """One component's line in ``/liveness`` and ``/readiness``."""

    def report(
        self,
        *,
        live: bool = True,
        ready: bool = True,
        reason: str = "",
        revision: int | None = None,
        rejected: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """State the component's health now.

        ``revision`` is the datastore revision it has fully applied; ``rejected`` maps an object's name to why it is
        not in force (the whole present set, not a delta).  ``extra`` is shown as is (JSON types) in ``/status``, for
        example a table of BGP sessions.  A reporter with a timeout must report more often.
        """


class Health(Protocol):
    def reporter(self, name: str, *, timeout: float = 0.0) -> HealthReporter:
        """Register ``name``; with ``timeout`` > 0 (seconds) silence longer than that counts as not live."""

    def states(self) -> Sequence[ComponentHealth]:
        """What every component last said."""


@frozen
class AgentContext:
    """What a component is given."""

    settings: Settings
    client: Client
    health: Health
    hooks: Any  # pluggy's HookRelay: context.hooks.workload_metadata(...)
    route_sink: RouteSink
    pod_wiring: PodWiring
    make_dataplane: Callable[[], PolicyDataplane] = field(repr=False)


class Component(Protocol):
    """A supervised part of the process.  Started, restarted with back-off when it raises, cancelled at the end."""

    name: str

    async def run(self, context: AgentContext) -> None:
        """Work until cancelled.  Kernel state stays in place on cancellation."""


@frozen
class WorkloadMetadata:
    """What an orchestrator knows of a pod."""

    labels: Mapping[str, str] = field(factory=dict, hash=False)
    annotations: Mapping[str, str] = field(factory=dict, hash=False)
    namespace_labels: Mapping[str, str] = field(factory=dict, hash=False)
    namespace_annotations: Mapping[str, str] = field(factory=dict, hash=False)
    service_account: str = ""
    generate_name: str = ""
    ports: tuple[Mapping[str, Any], ...] = ()  # WorkloadEndpoint.spec.ports entries


@frozen
class BGPSession:
    """``kind`` is mesh, global or node; ``state`` as BIRD names it; ``since`` when that began."""

    peer: str
    kind: str
    state: str
    since: datetime


@frozen
class BGPRoute:
    """One path of the speaker's table.

    ``source`` is kernel, static, direct, mesh or peer, with ``peer`` the address of the router that sent it;
    ``device`` is the interface, or blackhole or unreachable; ``best``: the one of its destination that is in force.
    """

    destination: str
    source: str
    best: bool
    device: str
    gateway: str = ""
    peer: str = ""


@frozen
class BGPSpeaker:
    """One address family's speaker; ``routes`` gives its table, a slice at a time, as it is while it is read."""

    ready: bool
    version: str
    router_id: str
    booted: datetime
    reconfigured: datetime
    sessions: tuple[BGPSession, ...]
    routes: Callable[[], Iterator[BGPRoute]] = field(repr=False)


@hookspec(firstresult=True)
def bgp_speakers() -> Mapping[int, BGPSpeaker] | None:
    """The node's BGP speakers by IP version; None where none runs.  Called in the event loop."""


@hookspec(firstresult=True)
def workload_metadata(namespace: str, pod: str) -> WorkloadMetadata | None:
    """The CNI server asks for a pod's labels, annotations, service account and ports; None when not known here.

    Called in a worker thread, several at a time: it may read files or ask a server.
    """


@hookspec
def component_failed(name: str, error: BaseException, delay: float) -> None:
    """A component raised ``error`` and will be restarted after ``delay`` seconds.  Called in the event loop."""


@hookspec
def endpoint_status(endpoint: str, state: str, reason: str) -> None:
    """A local endpoint's enforcement state changed to up, down or error.  Called in the event loop."""


__all__ = [
    "AgentContext",
    "BGPRoute",
    "BGPSession",
    "BGPSpeaker",
    "Component",
    "Health",
    "HealthReporter",
    "PolicyDataplane",
    "WorkloadMetadata",
    "bgp_speakers",
    "component_failed",
    "endpoint_status",
    "hookimpl",
    "hookspec",
    "workload_metadata",
]
