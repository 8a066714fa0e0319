"""The dataplane contract's ``RouteSink`` and ``PodWiring`` on the Linux kernel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType

from calico_node.dataplanes.contract import (
    ConnectedPrefix,
    KernelView,
    PodInterface,
    Route,
    RouteOwnership,
    RouteType,
)
from calico_node.linux import pods
from calico_node.linux.reconciler import RouteReconciler
from calico_node.linux.route_plan import TYPE_NAMES, Ownership
from calico_node.linux.rtnetlink import RT_SCOPE_LINK, Path, address_text


def _render(dst: str, path: Path, devices: tuple[str, ...]) -> Route | None:
    return Route(
        dst=dst,
        type=RouteType(TYPE_NAMES[path.type]),
        device=devices[0] if devices else "",
        gateways=tuple(address_text(hop.gateway) for hop in path.hops if hop.gateway),
        onlink=path.onlink,
        scope_link=path.scope >= RT_SCOPE_LINK,
        protocol=path.protocol,
        metric=path.metric,
        source=address_text(path.source) if path.source else "",
        mtu=path.mtu,
    )


class LinuxRouteSink:
    """``RouteSink`` over rtnetlink; use as ``async with``.  Leaving it stops the work and keeps the routes.

    ``set_routes`` returns when the routes were written or refused (those are logged and retried).  The views of
    ``watch`` leave out the protocol-12 routes of destinations that owner ``bgp`` wants itself; adopted ones that
    nobody has stated yet are shown.  A Route object stays the same one from view to view while it is unchanged.
    """

    def __init__(self, *, ownership: Ownership | None = None, netns: int | str | None = None) -> None:
        self._reconciler: RouteReconciler[Route] = RouteReconciler(_render, ownership=ownership, netns=netns)
        self._task: asyncio.Task[None] | None = None
        self._configured = RouteOwnership()

    async def __aenter__(self) -> LinuxRouteSink:
        self._task = asyncio.create_task(self._reconciler.run(), name="route reconciler")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def set_routes(self, owner: str, add: Sequence[Route], remove: Sequence[str] = ()) -> None:
        """See ``RouteSink``.  Raises ``NetlinkError`` when the reconciler has stopped, ``ValueError`` for a
        destination that is no CIDR."""
        await self._reconciler.set_routes(owner, add, remove)

    def configure(self, ownership: RouteOwnership) -> None:
        """See ``RouteSink``."""
        if ownership != self._configured:
            self._configured = ownership
            self._reconciler.configure(
                Ownership(
                    workload_prefixes=ownership.workload_prefixes,
                    felix_protocol=ownership.protocol,
                    remove_external=ownership.remove_external,
                ),
                refresh_interval=ownership.refresh_interval,
            )

    async def adopt(self, owner: str) -> None:
        """For an owner that starts again within one process (a component that failed): what it wanted before is
        forgotten, as if the process had started anew; the routes stay until it calls ``prune``."""
        await self._reconciler.adopt(owner)

    async def prune(self, owner: str) -> None:
        """See ``RouteSink``; returns when the routes that could go at once are gone."""
        await self._reconciler.prune(owner)

    def refused(self, owner: str) -> Mapping[str, str]:
        """See ``RouteSink``."""
        return self._reconciler.table.failures_of(owner)

    async def watch(self) -> AsyncIterator[KernelView]:
        """See ``RouteSink``.  At most 50 views a second."""
        async for routes, addresses in self._reconciler.watch():
            yield KernelView(routes, tuple(ConnectedPrefix(*address) for address in addresses))


class LinuxPodWiring:
    """``PodWiring`` by veth pairs.  ``netns`` is the node's network namespace, by default the caller's."""

    def __init__(self, *, netns: int | None = None) -> None:
        self._netns = netns
        self._slots = asyncio.Semaphore(pods.CONCURRENCY)

    async def add(self, netns_fd: int, pod: PodInterface) -> str:
        """See ``PodWiring``.  Raises ``CNIError`` naming the step that failed; nothing is left behind then."""
        async with self._slots:
            return await pods.add_pod(netns_fd, _plan(pod), host_netns=self._netns)

    async def check(self, netns_fd: int, pod: PodInterface) -> None:
        """See ``PodWiring``."""
        async with self._slots:
            await pods.check_pod(netns_fd, _plan(pod), host_netns=self._netns)

    async def delete(self, netns_fd: int | None, interface: str, host_interface: str) -> None:
        """See ``PodWiring``."""
        async with self._slots:
            await pods.delete_pod(netns_fd, interface, host_interface, host_netns=self._netns)


def _plan(pod: PodInterface) -> pods.PodPlan:
    return pods.PodPlan(
        interface=pod.interface,
        host_interface=pod.host_interface,
        addresses=pod.addresses,
        mtu=pod.mtu,
        mac=pod.mac,
        allow_ip_forwarding=pod.allow_ip_forwarding,
        metric=pod.metric,
    )
