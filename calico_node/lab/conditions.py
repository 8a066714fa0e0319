"""What in a lab's datastore keeps its nodes from ever taking a change up, so that nobody waits for it."""

from __future__ import annotations

import ipaddress

from attrs import field, frozen

from calico_node.datastores import Client
from calico_node.datastores.readiness import is_ready

LOCKED = (
    "the datastore is locked (ClusterInformation's datastoreReady is not true): nodes take nothing up until "
    "calicoctl datastore migrate unlock"
)


async def locked(client: Client) -> bool:
    """Whether the cluster is told to leave everything as it is.  Raises ``DatastoreError``."""
    return not (await is_ready(client))[0]


@frozen
class Unbuilt:
    """Pools whose routes between nodes no node makes; ``reasons`` says it of each."""

    reasons: tuple[str, ...] = ()
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = field(default=(), repr=False)

    def covers(self, cidr: str) -> bool:
        """Whether the block ``cidr`` belongs to one of them."""
        block = ipaddress.ip_network(cidr)
        return any(block.version == own.version and own.supernet_of(block) for own in self.networks)  # type: ignore[arg-type]


async def unbuilt(client: Client) -> Unbuilt:
    """The pools that need tunnels between the lab's nodes, which are on one subnet: CrossSubnet needs none.

    Raises ``DatastoreError``.
    """
    reasons, networks = [], []
    for pool in (await client.list("IPPool")).items:
        for name, mode in (("ipipMode", pool.spec.ipip_mode), ("vxlanMode", pool.spec.vxlan_mode)):
            if mode == "Always" and not pool.spec.disabled:
                reasons.append(
                    f"IPPool({pool.metadata.name}): spec.{name} = 'Always': encapsulation is not built, so the nodes "
                    f"cannot reach each other's addresses of {pool.spec.cidr} (Never and CrossSubnet do work here)"
                )
                networks.append(ipaddress.ip_network(pool.spec.cidr, strict=False))
    return Unbuilt(tuple(reasons), tuple(networks))
