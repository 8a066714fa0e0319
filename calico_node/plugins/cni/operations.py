"""ADD, DEL, CHECK, GC and STATUS of the interface plugin and of ``calico-ipam``, in the agent.

Order of an ADD: addresses, wiring, WorkloadEndpoint.  Whatever fails, what was done before it is undone; what a
killed agent left half done, the next ADD or DEL of the same container takes up.  Calls for one endpoint run one after
the other, for different ones side by side.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import structlog
from attrs import frozen

from calico_node.addresses import ip_version
from calico_node.dataplanes.contract import PodInterface
from calico_node.errors import (
    CalicoError,
    CNIError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.hookspecs import AgentContext, WorkloadMetadata
from calico_node.plugins.cni.addresses import CALICO_IPAM, Allocator, Annotations, delegate, resolve_pod_cidrs
from calico_node.plugins.cni.protocol import (
    INTERNAL,
    INVALID_CONFIG,
    PLUGIN_NOT_AVAILABLE,
    Call,
    Interface,
    IPAMResult,
    result_json,
)
from calico_node.resources import from_dict
from calico_node.resources.endpoint_names import veth_name, workload_endpoint_name

log = structlog.get_logger(__name__)

WRITE_ATTEMPTS = 6
GATE_INTERVAL = 5.0
GATE_TIMEOUT = 30.0
_POLL = 0.02


@frozen
class Endpoint:
    """How a container is called in the datastore and on the host."""

    name: str
    namespace: str
    orchestrator: str
    workload: str
    host_interface: str


class Operations:
    """The work behind the executables; one instance per agent."""

    def __init__(self, context: AgentContext) -> None:
        self._context = context
        self._client = context.client
        self._node = context.settings.node_name
        self._allocator = Allocator(context.client, self._node)
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    async def perform(self, call: Call) -> bytes:
        """Carry out ``call``; its standard output.  Raises ``CalicoError``."""
        if call.command == "STATUS":
            try:
                await self._require_ready()
            except CalicoError as error:
                raise CNIError(PLUGIN_NOT_AVAILABLE, str(error)) from None
            return b""
        if call.role == CALICO_IPAM:
            return await self._ipam(call)
        if call.command == "GC":
            await self._collect(call)
            return b""
        endpoint = self._endpoint(call)
        async with self._exclusive(f"{endpoint.namespace}/{endpoint.name}"):
            if call.command == "ADD":
                return await self._add(call, endpoint)
            if call.command == "DEL":
                await self._delete(call, endpoint)
                return b""
            await self._check(call, endpoint)
            return b"OK\n"

    # The IPAM plugin

    async def _ipam(self, call: Call) -> bytes:
        if call.command == "ADD":
            result = await self._allocator.add(call, await self._metadata(call))
            return result_json(call.conf.cni_version, result.addresses, routes=result.routes)
        if call.command == "DEL":
            await self._allocator.delete(call)
        return b""

    # ADD

    async def _add(self, call: Call, endpoint: Endpoint) -> bytes:
        await self._require_ready()
        await self._await_gates(call)
        metadata = await self._metadata(call)
        kubernetes_policy = call.conf.text("policy", "type") == "k8s"
        if kubernetes_policy and call.pod is not None and metadata is None:
            raise CNIError(INTERNAL, f"pod {'/'.join(call.pod)} is not known here: no source has its metadata")
        metadata = metadata or WorkloadMetadata()
        mtu = await asyncio.to_thread(self._mtu, call)
        stored = await self._stored(endpoint)
        if stored is not None and stored.spec.container_id == call.container_id:
            done = await self._repeated(call, endpoint, stored, mtu)
            if done is not None:
                return done
        addresses = await self._addresses(call, metadata)
        try:
            pod = self._pod_interface(call, endpoint, metadata, addresses.host_addresses, mtu)
            mac = await self._context.pod_wiring.add(_descriptor(call), pod)
            try:
                profiles = await self._profiles(call, metadata, kubernetes_policy)
                await self._write(
                    self._workload_endpoint(call, endpoint, metadata, pod.addresses, mac, profiles), endpoint
                )
            except BaseException:
                await asyncio.shield(
                    self._context.pod_wiring.delete(call.netns_fd, call.interface, endpoint.host_interface)
                )
                raise
        except BaseException:
            await asyncio.shield(self._release(call))
            raise
        log.info("Pod connected", endpoint=f"{endpoint.namespace}/{endpoint.name}", addresses=list(pod.addresses))
        await self._await_policy(call, endpoint)
        return self._result(call, endpoint, pod.addresses, mac, mtu, addresses.routes)

    async def _repeated(self, call: Call, endpoint: Endpoint, stored: Any, mtu: int) -> bytes | None:
        """The result of an ADD that was already carried out in full; None when something of it is missing."""
        addresses = tuple(stored.spec.ip_networks)
        pod = PodInterface(call.container_id, call.interface, endpoint.host_interface, addresses, mtu)
        try:
            await self._context.pod_wiring.check(_descriptor(call), pod)
        except CNIError:
            return None
        routes = tuple({"dst": address} for address in addresses)
        return self._result(call, endpoint, addresses, stored.spec.mac or "", mtu, routes)

    async def _addresses(self, call: Call, metadata: WorkloadMetadata) -> IPAMResult:
        annotations = Annotations(metadata)
        unmanaged = annotations.addresses("ipAddrsNoIpam")
        plugin = call.conf.text("ipam", "type")
        if unmanaged:
            if annotations.items("ipAddrs"):
                raise CNIError(INTERNAL, "annotations ipAddrs and ipAddrsNoIpam cannot be used together")
            if not call.conf.flag("feature_control", "ip_addrs_no_ipam"):
                raise CNIError(INTERNAL, "requested feature is not enabled: ip_addrs_no_ipam")
            return IPAMResult(unmanaged)
        if plugin == CALICO_IPAM:
            return await self._allocator.add(call, metadata if call.pod else None)
        for name in ("ipAddrs", "ipv4pools", "ipv6pools"):
            if annotations.items(name):
                raise CNIError(INTERNAL, f"annotation {name} needs the IPAM plugin {CALICO_IPAM}, not {plugin!r}")
        config = await resolve_pod_cidrs(self._client, self._node, call.conf.raw, fallback=False)
        result = IPAMResult.parse(await delegate(call, "ADD", plugin, config), plugin)
        if not result.addresses:
            raise CNIError(INTERNAL, f"IPAM plugin {plugin} returned missing IP config")
        return result

    async def _release(self, call: Call) -> None:
        """Give addresses back; a failure here is logged, for the first error is the one to report."""
        try:
            await self._ipam_delete(call)
        except CalicoError as error:
            log.warning("Addresses could not be released", container=call.container_id, error=str(error))

    async def _ipam_delete(self, call: Call) -> None:
        plugin = call.conf.text("ipam", "type")
        if plugin == CALICO_IPAM:
            await self._allocator.delete(call)
        elif plugin:
            config = await resolve_pod_cidrs(self._client, self._node, call.conf.raw, fallback=True)
            await delegate(call, "DEL", plugin, config)

    def _pod_interface(
        self, call: Call, endpoint: Endpoint, metadata: WorkloadMetadata, addresses: tuple[str, ...], mtu: int
    ) -> PodInterface:
        return PodInterface(
            call.container_id,
            call.interface,
            endpoint.host_interface,
            addresses,
            mtu,
            Annotations(metadata).text("hwAddr"),
            call.conf.flag("container_settings", "allow_ip_forwarding"),
        )

    async def _profiles(self, call: Call, metadata: WorkloadMetadata, kubernetes_policy: bool) -> list[str]:
        if kubernetes_policy and call.pod is not None:
            namespace = call.pod[0]
            account = [f"ksa.{namespace}.{metadata.service_account}"] if metadata.service_account else []
            return [f"kns.{namespace}", *account]
        await self._ensure_profile(call)
        return [call.conf.name]

    async def _ensure_profile(self, call: Call) -> None:
        """The profile of a network without Kubernetes policy: its endpoints may talk to one another."""
        name = call.conf.name
        source = {} if call.pod is not None else {"source": {"selector": f"has({name})"}}
        profile = {
            "apiVersion": "projectcalico.org/v3",
            "kind": "Profile",
            "metadata": {"name": name},
            "spec": {
                "ingress": [{"action": "Allow", **source}],
                "egress": [{"action": "Allow"}],
                "labelsToApply": {name: ""},
            },
        }
        try:
            await self._client.get("Profile", name)
        except ResourceDoesNotExist:
            with contextlib.suppress(ResourceAlreadyExists):
                await self._client.create(from_dict(profile))

    def _workload_endpoint(
        self,
        call: Call,
        endpoint: Endpoint,
        metadata: WorkloadMetadata,
        addresses: tuple[str, ...],
        mac: str,
        profiles: list[str],
    ) -> Any:
        annotations = Annotations(metadata)
        labels = {**metadata.labels, "projectcalico.org/namespace": endpoint.namespace}
        labels["projectcalico.org/orchestrator"] = endpoint.orchestrator
        spec: dict[str, Any] = {
            "orchestrator": endpoint.orchestrator,
            "node": self._node,
            "containerID": call.container_id,
            "endpoint": call.interface,
            "ipNetworks": list(addresses),
            "profiles": profiles,
            "interfaceName": endpoint.host_interface,
            "mac": mac,
        }
        object_metadata: dict[str, Any] = {"name": endpoint.name, "namespace": endpoint.namespace, "labels": labels}
        if call.pod is not None:
            spec["pod"] = call.pod[1]
            if metadata.service_account:
                spec["serviceAccountName"] = metadata.service_account
                labels["projectcalico.org/serviceaccount"] = metadata.service_account
            if metadata.generate_name:
                object_metadata["generateName"] = metadata.generate_name
        if metadata.ports:
            spec["ports"] = [dict(port) for port in metadata.ports]
        floating = annotations.items("floatingIPs")
        if floating:
            if not call.conf.flag("feature_control", "floating_ips"):
                raise CNIError(INTERNAL, "requested feature is not enabled: floating_ips")
            spec["ipNATs"] = _floating(floating, addresses)
        prefixes = annotations.items("allowedSourcePrefixes")
        if prefixes:
            spec["allowSpoofedSourcePrefixes"] = list(prefixes)
        return from_dict(
            {
                "apiVersion": "projectcalico.org/v3",
                "kind": "WorkloadEndpoint",
                "metadata": object_metadata,
                "spec": spec,
            }
        )

    async def _write(self, wanted: Any, endpoint: Endpoint) -> None:
        for _ in range(WRITE_ATTEMPTS):
            stored = await self._stored(endpoint)
            try:
                if stored is None:
                    await self._client.create(wanted)
                else:
                    wanted.metadata.uid = stored.metadata.uid
                    wanted.metadata.creation_timestamp = stored.metadata.creation_timestamp
                    wanted.metadata.resource_version = stored.metadata.resource_version
                    await self._client.update(wanted)
                return
            except (UpdateConflict, ResourceAlreadyExists, ResourceDoesNotExist):
                wanted.metadata.uid = wanted.metadata.creation_timestamp = wanted.metadata.resource_version = None
        raise CNIError(INTERNAL, f"WorkloadEndpoint {endpoint.name} kept changing; try again")

    async def _await_policy(self, call: Call, endpoint: Endpoint) -> None:
        """Until Felix says that policy is in force, if the configuration asks for it; a time-out is a warning."""
        seconds = call.conf.number("policy_setup_timeout_seconds")
        if seconds <= 0:
            return
        folder = call.conf.text("endpoint_status_dir") or str(self._context.settings.run_dir / "endpoint-status")
        parts = (endpoint.orchestrator, endpoint.workload, call.interface)
        status = Path(folder) / " ".join(quote(part, safe="$&+=:@") for part in parts)
        deadline = time.monotonic() + seconds
        while not status.exists():
            if time.monotonic() > deadline:
                log.warning("Policy is not in force yet", endpoint=endpoint.name, waited=seconds)
                return
            await asyncio.sleep(_POLL)

    def _result(
        self, call: Call, endpoint: Endpoint, addresses: tuple[str, ...], mac: str, mtu: int, routes: tuple[Any, ...]
    ) -> bytes:
        interfaces = (Interface(endpoint.host_interface), Interface(call.interface, mac, mtu, call.netns))
        return result_json(call.conf.cni_version, addresses, interfaces=interfaces, routes=routes)

    # DEL, CHECK, GC

    async def _delete(self, call: Call, endpoint: Endpoint) -> None:
        await self._require_ready()
        ours = await self._delete_endpoint(endpoint, call.container_id)
        # Another sandbox of this pod has taken the host-side name over: then only this sandbox's end goes.
        host_interface = endpoint.host_interface if ours else ""
        await self._context.pod_wiring.delete(call.netns_fd, call.interface, host_interface)
        await self._ipam_delete(call)

    async def _delete_endpoint(self, endpoint: Endpoint, container_id: str) -> bool:
        """Whether nothing of another container stands in its place."""
        for _ in range(WRITE_ATTEMPTS):
            stored = await self._stored(endpoint)
            if stored is None:
                return True
            if stored.spec.container_id not in (container_id, "", None):
                return False
            try:
                await self._client.delete(
                    "WorkloadEndpoint", endpoint.name, endpoint.namespace, stored.metadata.resource_version
                )
                return True
            except (UpdateConflict, ResourceDoesNotExist):
                continue
        raise CNIError(INTERNAL, f"WorkloadEndpoint {endpoint.name} kept changing; try again")

    async def _check(self, call: Call, endpoint: Endpoint) -> None:
        await self._require_ready()
        stored = await self._stored(endpoint)
        if stored is None or stored.spec.container_id != call.container_id:
            raise CNIError(INTERNAL, f"WorkloadEndpoint {endpoint.namespace}/{endpoint.name} is missing")
        pod = PodInterface(call.container_id, call.interface, endpoint.host_interface, tuple(stored.spec.ip_networks))
        await self._context.pod_wiring.check(_descriptor(call), pod)

    async def _collect(self, call: Call) -> None:
        """GC: what belongs to containers of this node and network that the runtime no longer knows goes."""
        attachments = call.conf.get("cni.dev/valid-attachments")
        if not isinstance(attachments, list):
            raise CNIError(INVALID_CONFIG, "cni.dev/valid-attachments: must be a list")
        valid = {str(item.get("containerid", "")) for item in attachments if isinstance(item, dict)}
        await self._require_ready()
        for stored in (await self._client.list("WorkloadEndpoint")).items:
            spec = stored.spec
            if spec.node != self._node or not spec.container_id or spec.container_id in valid:
                continue
            endpoint = Endpoint(
                stored.metadata.name, stored.metadata.namespace, spec.orchestrator, "", spec.interface_name or ""
            )
            async with self._exclusive(f"{endpoint.namespace}/{endpoint.name}"):
                if await self._delete_endpoint(endpoint, spec.container_id):
                    await self._context.pod_wiring.delete(None, spec.endpoint, endpoint.host_interface)
        await self._allocator.collect(call.conf.name, valid)

    async def _await_gates(self, call: Call) -> None:
        """Until every URL of ``readiness_gates`` answers with success.  Raises ``CNIError`` after 30 s."""
        gates = call.conf.get("readiness_gates") or ()
        if not isinstance(gates, list | tuple):
            raise CNIError(INVALID_CONFIG, f"readiness_gates = {gates!r}: must be a list of URLs")
        if not gates:
            return
        import aiohttp  # rarely asked for, slow to import

        deadline = time.monotonic() + GATE_TIMEOUT
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=GATE_INTERVAL)) as session:
            for gate in gates:
                while True:
                    try:
                        async with session.get(str(gate)) as response:
                            if response.ok:
                                break
                            reason = f"status {response.status}"
                    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
                        reason = str(error) or type(error).__name__
                    if time.monotonic() > deadline:
                        raise CNIError(INTERNAL, f"readiness gate {gate} is not open: {reason}")
                    await asyncio.sleep(GATE_INTERVAL)

    # Common

    @contextlib.asynccontextmanager
    async def _exclusive(self, name: str) -> AsyncIterator[None]:
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]

    async def _require_ready(self) -> None:
        try:
            information = await self._client.get("ClusterInformation", "default")
        except CalicoError as error:
            raise CNIError(INTERNAL, f"error getting ClusterInformation: {error}") from None
        if not information.spec.datastore_ready:
            raise CNIError(INTERNAL, "Calico is currently not ready to process requests")

    def _endpoint(self, call: Call) -> Endpoint:
        configured = call.conf.text("nodename")
        if configured and configured != self._node:
            raise CNIError(INVALID_CONFIG, f"nodename = {configured!r}: the agent here runs node {self._node!r}")
        prefix = self._context.settings.environ.get("FELIX_INTERFACEPREFIX", "").split(",")[0].strip() or "cali"
        try:
            if call.pod is None:
                name = workload_endpoint_name(self._node, "cni", call.container_id, call.interface)
                return Endpoint(name, "default", "cni", call.container_id, (prefix + call.container_id[:11])[:15])
            namespace, pod = call.pod
            name = workload_endpoint_name(self._node, "k8s", pod, call.interface)
            return Endpoint(name, namespace, "k8s", f"{namespace}/{pod}", veth_name(namespace, pod, prefix))
        except ValidationError as error:
            raise CNIError(INTERNAL, str(error)) from None

    async def _metadata(self, call: Call) -> WorkloadMetadata | None:
        if call.pod is None:
            return None
        ask = partial(self._context.hooks.workload_metadata, namespace=call.pod[0], pod=call.pod[1])
        # A plugin may read files or ask a server: neither is for the event loop.
        found: WorkloadMetadata | None = await asyncio.to_thread(ask)
        return found

    async def _stored(self, endpoint: Endpoint) -> Any | None:
        try:
            return await self._client.get("WorkloadEndpoint", endpoint.name, endpoint.namespace)
        except ResourceDoesNotExist:
            return None

    def _mtu(self, call: Call) -> int:
        """The configured MTU, else what the node wrote down, else 0 (the kernel's default)."""
        configured = call.conf.number("mtu")
        if configured:
            return configured
        path = self._context.settings.state_dir / "mtu"
        try:
            return int(path.read_text().strip())
        except FileNotFoundError:
            if call.conf.flag("require_mtu_file"):
                raise CNIError(INTERNAL, f"the MTU file {path} is missing, and require_mtu_file is set") from None
            return 0
        except (OSError, ValueError) as error:
            raise CNIError(INTERNAL, f"the MTU file {path} cannot be read: {error}") from None


def _descriptor(call: Call) -> int:
    if call.netns_fd is None:
        raise CNIError(INTERNAL, "no network namespace was passed")
    return call.netns_fd


def _floating(external: tuple[str, ...], addresses: tuple[str, ...]) -> list[dict[str, str]]:
    found = []
    for address in external:
        internal = next((own for own in addresses if ip_version(own) == ip_version(address)), None)
        if internal is None:
            raise CNIError(INTERNAL, f"floating IP {address}: the pod has no address of that family")
        found.append({"internalIP": internal.partition("/")[0], "externalIP": address})
    return found
