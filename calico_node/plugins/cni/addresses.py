"""Where a pod's addresses come from: the built-in allocator, the pod's annotations, or another IPAM plugin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import frozen

from calico_node.addresses import ip_version, parse_address, parse_network
from calico_node.datastores.client import Client
from calico_node.errors import CalicoError, CNIError, ResourceDoesNotExist, ValidationError
from calico_node.hookspecs import WorkloadMetadata
from calico_node.ipam import IPAM, AssignRequest, KVStore, timestamp_attribute
from calico_node.plugins.cni.protocol import INTERNAL, INVALID_CONFIG, Call, IPAMResult

ANNOTATION = "cni.projectcalico.org/"
CALICO_IPAM = "calico-ipam"
_DELEGATE_TIMEOUT = 90.0


@frozen
class Annotations:
    """The ``cni.projectcalico.org/`` annotations of a pod; those allowed on both fall back to its namespace's."""

    metadata: WorkloadMetadata

    def text(self, name: str, *, inherit: bool = False) -> str:
        value = self.metadata.annotations.get(ANNOTATION + name, "")
        if not value and inherit:
            value = self.metadata.namespace_annotations.get(ANNOTATION + name, "")
        return value

    def items(self, name: str, *, inherit: bool = False) -> tuple[str, ...]:
        """A JSON list of texts.  Raises ``CNIError`` naming the annotation."""
        text = self.text(name, inherit=inherit)
        if not text:
            return ()
        try:
            data = json.loads(text)
        except ValueError:
            data = None
        if not isinstance(data, list) or not all(isinstance(item, str) for item in data):
            raise CNIError(INTERNAL, f"annotation {ANNOTATION}{name} = {text!r}: must be a JSON list of strings")
        return tuple(data)

    def addresses(self, name: str) -> tuple[str, ...]:
        """At most one address of each family.  Raises ``CNIError``."""
        items = self.items(name)
        try:
            found = tuple(str(parse_address(item)) for item in items)
        except ValidationError as error:
            raise CNIError(INTERNAL, f"annotation {ANNOTATION}{name}: {error}") from None
        if len({ip_version(item) for item in found}) != len(found):
            raise CNIError(INTERNAL, f"annotation {ANNOTATION}{name}: at most one IPv4 and one IPv6 address")
        return found


class Allocator:
    """Calico's IPAM as the CNI plugin uses it.  One assignment at a time on a node: they would only contend for the
    same block."""

    def __init__(self, client: Client, node: str) -> None:
        self._client = client
        self._node = node
        self._store = KVStore(client)
        self._ipam = IPAM(self._store)
        self._lock = asyncio.Lock()

    def rejected(self) -> dict[str, str]:
        """Why stored objects are left out of assignments, by their titles."""
        return self._store.rejected()

    async def add(self, call: Call, metadata: WorkloadMetadata | None) -> IPAMResult:
        """The container's addresses, the ones it has already or new ones.  All or nothing.  Raises ``CNIError``."""
        annotations = Annotations(metadata or WorkloadMetadata())
        fixed = annotations.addresses("ipAddrs")
        requested = call.args.get("IP", "")
        if requested and not fixed:
            fixed = (str(parse_address(requested)),)
        async with self._lock:
            held = await self._held(call.handle)
            if fixed:
                return await self._assign_fixed(call, fixed, held)
            count4, count6 = _families(call, annotations)
            request = AssignRequest(
                hostname=self._node,
                num4=count4,
                num6=count6,
                handle_id=call.handle,
                attributes=self._attributes(call),
                pools4=await self._pools(call, annotations, 4),
                pools6=await self._pools(call, annotations, 6),
                namespace_labels=metadata.namespace_labels if metadata is not None else None,
            )
            if held:
                # An ADD that never ended: its addresses are still this container's.
                if sorted(map(ip_version, held)) == [4] * count4 + [6] * count6:
                    return _result(tuple(f"{address}/{_width(address)}" for address in held))
                await self.delete(call)
            assigned = await self._ipam.auto_assign(request)
            if not assigned.complete:
                if assigned.addresses:
                    await self.delete(call)
                family = "IPv4" if not assigned.ipv4.complete or not count6 else "IPv6"
                raise CNIError(INTERNAL, f"failed to request {family} addresses: {assigned.explain()}")
            return _result(assigned.addresses)

    async def _assign_fixed(self, call: Call, wanted: Sequence[str], held: Sequence[str]) -> IPAMResult:
        if set(held) - set(wanted):
            await self.delete(call)
            held = ()
        try:
            for address in wanted:
                if address not in held:
                    await self._ipam.assign_ip(
                        address,
                        hostname=self._node,
                        handle_id=call.handle,
                        attributes=self._attributes(call),
                        use="Workload",
                    )
        except CalicoError:
            await self.delete(call)
            raise
        return _result(tuple(f"{address}/{_width(address)}" for address in wanted))

    async def delete(self, call: Call) -> None:
        """Release what the container holds; nothing held is success."""
        try:
            await self._ipam.release_by_handle(call.handle)
        except ResourceDoesNotExist:
            pass

    async def collect(self, network: str, valid: Collection[str]) -> None:
        """Release the addresses of this node's containers on ``network`` that are not ``valid``."""
        stale: set[str] = set()
        async for stored in self._store.blocks():
            for attribute in stored.value.attributes:
                handle = attribute.handle_id or ""
                if not handle.startswith(f"{network}.") or attribute.secondary.get("node") != self._node:
                    continue
                if handle.removeprefix(f"{network}.") not in valid:
                    stale.add(handle)
        for handle in stale:
            with contextlib.suppress(ResourceDoesNotExist):
                await self._ipam.release_by_handle(handle)

    async def _held(self, handle: str) -> list[str]:
        try:
            return sorted(await self._ipam.ips_by_handle(handle), key=ip_version)
        except ResourceDoesNotExist:
            return []

    def _attributes(self, call: Call) -> dict[str, str]:
        attributes = {"node": self._node, "timestamp": timestamp_attribute(time.time_ns())}
        if call.pod is not None:
            attributes["namespace"], attributes["pod"] = call.pod
        return attributes

    async def _pools(self, call: Call, annotations: Annotations, version: int) -> tuple[str, ...]:
        """The CIDRs of the pools that annotation or configuration ask for, by name or CIDR."""
        name = f"ipv{version}pools"
        asked: Any = annotations.items(name, inherit=True) or call.conf.get("ipam", f"ipv{version}_pools") or ()
        if not isinstance(asked, list | tuple):
            raise CNIError(INVALID_CONFIG, f"ipam.ipv{version}_pools = {asked!r}: must be a list")
        if not asked:
            return ()
        pools = [pool for pool in (await self._client.list("IPPool")).items if not pool.spec.disabled]
        found: list[str] = []
        for item in asked:
            cidr = next((pool.spec.cidr for pool in pools if item in (pool.metadata.name, pool.spec.cidr)), None)
            if cidr is None or parse_network(cidr).version != version:
                raise CNIError(INTERNAL, f"error getting pool {item!r}: there is no enabled IPv{version} pool of it")
            found.append(cidr)
        return tuple(found)


def _width(address: str) -> int:
    return 32 if ip_version(address) == 4 else 128


def _result(addresses: tuple[str, ...]) -> IPAMResult:
    return IPAMResult(addresses, tuple({"dst": address} for address in addresses))


def _families(call: Call, annotations: Annotations) -> tuple[int, int]:
    families = annotations.items("ipFamilies", inherit=True)
    if families:
        unknown = set(families) - {"IPv4", "IPv6"}
        if unknown:
            raise CNIError(INTERNAL, f"annotation {ANNOTATION}ipFamilies: {unknown.pop()!r} is not IPv4 or IPv6")
        return int("IPv4" in families), int("IPv6" in families)
    counts = []
    for name, default in (("assign_ipv4", "true"), ("assign_ipv6", "false")):
        value = call.conf.get("ipam", name)
        text = default if value is None else str(value).lower()
        if text not in ("true", "false"):
            raise CNIError(INVALID_CONFIG, f'ipam.{name} = {value!r}: must be "true" or "false"')
        counts.append(int(text == "true"))
    return counts[0], counts[1]


async def delegate(call: Call, command: str, plugin: str, config: bytes) -> bytes:
    """Execute another IPAM plugin from CNI_PATH with this call's environment; its standard output.

    Raises ``CNIError`` with the plugin's own code and text, or saying why it could not be run.
    """
    executable = next(
        (path for folder in call.path.split(":") if os.access(path := os.path.join(folder, plugin), os.X_OK)), None
    )
    if not plugin or "/" in plugin or executable is None:
        raise CNIError(INVALID_CONFIG, f"failed to find plugin {plugin!r} in path [{call.path}]")
    environment: Mapping[str, str] = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        **call.environment,
        "CNI_COMMAND": command,
    }
    process = await asyncio.create_subprocess_exec(
        executable,
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_DELEGATE_TIMEOUT):
            output, errors = await process.communicate(config)
    except TimeoutError:
        raise CNIError(INTERNAL, f"IPAM plugin {plugin} did not end within {_DELEGATE_TIMEOUT:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return output
    try:
        data = json.loads(output)
        raise CNIError(int(data["code"]), str(data["msg"]), str(data.get("details", "")))
    except (ValueError, KeyError, TypeError):
        text = (errors or output).decode(errors="replace").strip()
        raise CNIError(INTERNAL, f"IPAM plugin {plugin} failed with status {process.returncode}: {text}") from None


async def resolve_pod_cidrs(client: Client, node: str, config: bytes, *, fallback: bool) -> bytes:
    """host-local's ``usePodCidr`` and ``usePodCidrIPv6`` replaced by the node's own ranges.

    With ``fallback`` (DEL) an unreadable node gives ``0.0.0.0/0`` and ``::/0``; else raises ``CNIError``.
    """
    data = json.loads(config)
    spots = [
        part
        for part in (
            data.get("ipam"),
            *(item for group in data.get("ipam", {}).get("ranges") or () for item in group),
        )
        if isinstance(part, dict) and str(part.get("subnet", "")).lower() in ("usepodcidr", "usepodcidripv6")
    ]
    if not spots:
        return config
    try:
        cidrs = list((await client.get("Node", node)).status.pod_cidrs)
    except CalicoError:
        if not fallback:
            raise
        cidrs = ["0.0.0.0/0", "::/0"]
    for spot in spots:
        version = 6 if spot["subnet"].lower().endswith("ipv6") else 4
        cidr = next((cidr for cidr in cidrs if ip_version(cidr) == version), None)
        if cidr is None:
            raise CNIError(INTERNAL, f"{spot['subnet']}: node {node} has no IPv{version} pod CIDR")
        spot["subnet"] = cidr
    return json.dumps(data).encode()
