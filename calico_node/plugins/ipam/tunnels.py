"""Which tunnel addresses a node needs, and getting them from IPAM into the Node resource.

Source: Calico ``node/pkg/allocateip``.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import structlog
from attrs import frozen

from calico_node.datastores.client import Client
from calico_node.errors import IPAMError, ResourceDoesNotExist, UpdateConflict, ValidationError
from calico_node.ipam import IPAM, AssignRequest, Pool
from calico_node.ipam.pools import TUNNEL, selects
from calico_node.ipam.store import Store
from calico_node.resources import NodeBGPSpec, NodeWireguardSpec

log = structlog.get_logger(__name__)

TRIES = 5


@frozen
class Tunnel:
    """One kind of tunnel: its ``type`` attribute, its handle's prefix, IP version, and its field in the Node's spec
    (``section`` "" is the spec itself)."""

    type: str
    handle: str
    version: int
    section: str
    field: str

    def handle_of(self, node: str) -> str:
        return f"{self.handle}-{node}"

    def read(self, node: Any) -> str:
        """The address in the Node; "" for none."""
        holder = getattr(node.spec, self.section) if self.section else node.spec
        return (getattr(holder, self.field) or "") if holder is not None else ""

    def write(self, node: Any, address: str) -> None:
        """Set or (with "") clear the address; a section left empty becomes None, as Calico wants it."""
        holder = getattr(node.spec, self.section) if self.section else node.spec
        if holder is None:
            if not address:
                return
            holder = NodeBGPSpec() if self.section == "bgp" else NodeWireguardSpec()
            setattr(node.spec, self.section, holder)
        setattr(holder, self.field, address or None)
        if self.section and holder == type(holder)():
            setattr(node.spec, self.section, None)

    def wanted_by(self, pool: Pool, node: Any, host_encryption: bool) -> bool:
        """Whether a pool (that selects the node, and allows tunnels) makes this tunnel address necessary."""
        if pool.version != self.version:
            return False
        if self.section == "wireguard":
            status = node.status
            key = status.wireguard_public_key if self.version == 4 else status.wireguard_public_key_v6
            return bool(key) and not host_encryption
        mode = pool.ipip_mode if self.section == "bgp" else pool.vxlan_mode
        return mode in ("Always", "CrossSubnet")


TUNNELS = (
    Tunnel("wireguardTunnelAddress", "wireguard-tunnel-addr", 4, "wireguard", "interface_ipv4_address"),
    Tunnel("wireguardV6TunnelAddress", "wireguard-v6-tunnel-addr", 6, "wireguard", "interface_ipv6_address"),
    Tunnel("ipipTunnelAddress", "ipip-tunnel-addr", 4, "bgp", "ipv4_ipip_tunnel_addr"),
    Tunnel("vxlanTunnelAddress", "vxlan-tunnel-addr", 4, "", "ipv4_vxlan_tunnel_addr"),
    Tunnel("vxlanV6TunnelAddress", "vxlan-v6-tunnel-addr", 6, "", "ipv6_vxlan_tunnel_addr"),
)


class TunnelAddresses:
    """Reconciles the tunnel addresses of one node."""

    def __init__(self, client: Client, store: Store, ipam: IPAM, node_name: str) -> None:
        self._client = client
        self._store = store
        self._ipam = ipam
        self._name = node_name
        self.rejected: dict[str, str] = {}
        """Pools that cannot be asked whether they select the node, and why."""

    async def reconcile(self) -> dict[str, str]:
        """Bring IPAM and the Node in line with the pools; the addresses in force, by type.

        Raises ``ResourceDoesNotExist`` while there is no such Node, ``IPAMError`` when an address cannot be had: what
        was newly assigned is released then.
        """
        node = await self._client.get("Node", self._name)
        told, self.rejected = self.rejected, {}
        pools = [
            pool
            for pool in await self._store.pools()
            if pool.enabled and TUNNEL in pool.allowed_uses and self._selects(pool, node)
        ]
        for title, reason in self.rejected.items() - told.items():
            log.warning("A pool is left out", name=title, reason=reason)
        host_encryption = await self._host_encryption()
        changes: list[tuple[Tunnel, str]] = []
        try:
            for tunnel in TUNNELS:
                candidates = [pool for pool in pools if tunnel.wanted_by(pool, node, host_encryption)]
                before = tunnel.read(node)
                after = await self._ensure(tunnel, candidates, before)
                if after != before:
                    changes.append((tunnel, after))
            if changes:
                node = await self._write(node, changes)
        except BaseException:
            for tunnel, address in changes:
                if address:
                    await self._release(tunnel)
            raise
        return {tunnel.type: tunnel.read(node) for tunnel in TUNNELS if tunnel.read(node)}

    def _selects(self, pool: Pool, node: Any) -> bool:
        try:
            return selects(pool, node.metadata.labels)
        except IPAMError as error:
            self.rejected[f"IPPool({pool.name})"] = str(error)
            return False

    async def _host_encryption(self) -> bool:
        enabled = False
        for name in ("default", f"node.{self._name}"):
            try:
                config = await self._client.get("FelixConfiguration", name)
            except (ResourceDoesNotExist, ValidationError):
                continue  # felix names one that cannot be read
            value = getattr(config.spec, "wireguard_host_encryption_enabled", None)
            enabled = enabled if value is None else bool(value)
        return enabled

    async def _ensure(self, tunnel: Tunnel, pools: Sequence[Pool], current: str) -> str:
        """The address the node shall have for a tunnel; "" for none."""
        if not pools:
            # Also without an address in the Node: a crash may have come between IPAM and the Node.
            await self._release(tunnel)
            return ""
        if current:
            owner = await self._ipam.assignment(current)
            if owner is not None and owner.handle is None and not owner.secondary:
                await self._ipam.release_ips([current])
                return await self._ipam.assign_ip(
                    current,
                    hostname=self._name,
                    handle_id=tunnel.handle_of(self._name),
                    attributes=self._attributes(tunnel),
                )
            if owner is not None:
                ours = owner.secondary.get("type") == tunnel.type and owner.secondary.get("node") == self._name
                if ours and any(pool.contains(current) for pool in pools):
                    return current
                if not ours:
                    log.warning("The tunnel address belongs to somebody else", address=current, type=tunnel.type)
                    return await self._assign(tunnel, pools)
        await self._release(tunnel)
        return await self._assign(tunnel, pools)

    async def _assign(self, tunnel: Tunnel, pools: Sequence[Pool]) -> str:
        cidrs = tuple(pool.cidr for pool in pools)
        got = await self._ipam.auto_assign(
            AssignRequest(
                hostname=self._name,
                num4=1 if tunnel.version == 4 else 0,
                num6=1 if tunnel.version == 6 else 0,
                pools4=cidrs if tunnel.version == 4 else (),
                pools6=cidrs if tunnel.version == 6 else (),
                handle_id=tunnel.handle_of(self._name),
                attributes=self._attributes(tunnel),
                use=TUNNEL,
            )
        )
        if not got.addresses:
            raise IPAMError(f"no {tunnel.type} for node {self._name}: {got.explain()}")
        return got.addresses[0].partition("/")[0]

    def _attributes(self, tunnel: Tunnel) -> dict[str, str]:
        return {"node": self._name, "type": tunnel.type}

    async def _release(self, tunnel: Tunnel) -> None:
        try:
            await self._ipam.release_by_handle(tunnel.handle_of(self._name))
        except ResourceDoesNotExist:
            pass

    async def _write(self, node: Any, changes: Sequence[tuple[Tunnel, str]]) -> Any:
        for attempt in range(TRIES):
            updated = copy.deepcopy(node)
            for tunnel, address in changes:
                tunnel.write(updated, address)
            try:
                return await self._client.update(updated)
            except UpdateConflict:
                if attempt == TRIES - 1:
                    raise
                node = await self._client.get("Node", self._name)
        raise AssertionError("unreachable")
