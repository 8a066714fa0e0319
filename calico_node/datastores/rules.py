"""What the client does for single kinds, beyond defaults and validation.

Tiered policies (the tier must exist, their label and name annotation), tiers, pools, workload endpoints, the
built-in profile, and what hangs on a Node.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import orjson

from calico_node.addresses import IPNetwork, parse_network
from calico_node.datastores.names import ResourceName
from calico_node.errors import (
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.resources import TIERED_KINDS, from_dict
from calico_node.resources.endpoint_names import workload_endpoint_name

if TYPE_CHECKING:
    from calico_node.datastores.client import Client, Resource

TIER_LABEL = "projectcalico.org/tier"
METADATA_ANNOTATION = "projectcalico.org/metadata"
NAMESPACE_LABEL = "projectcalico.org/namespace"
ORCHESTRATOR_LABEL = "projectcalico.org/orchestrator"
DEFAULT_ALLOW = "projectcalico-default-allow"
DEFAULT_TIER_ORDER = 1_000_000.0

BUILTIN_TIERS = (("default", 1_000_000, "Deny"), ("kube-admin", 1_000, "Pass"), ("kube-baseline", 10_000_000, "Pass"))
_POOL_DRAIN_PAUSE = 0.5
_BLOCKS_PREFIX = "/calico/ipam/v2/assignment/"


# The built-in profile


def is_default_allow(kind: str, name: str | None) -> bool:
    return kind == "Profile" and name == DEFAULT_ALLOW


def default_allow_profile() -> Resource:
    """Profile ``projectcalico-default-allow``: always there, never stored."""
    profile = from_dict(
        {
            "kind": "Profile",
            "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": DEFAULT_ALLOW},
            "spec": {"ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}]},
        }
    )
    profile.metadata.resource_version = "1"
    return profile


# Stored form


def force_labels(resource: Resource) -> None:
    """Labels that the client sets whatever the caller says."""
    labels = resource.metadata.labels
    if resource.kind in TIERED_KINDS:
        labels[TIER_LABEL] = resource.spec.tier or "default"
    elif resource.kind == "WorkloadEndpoint":
        labels[NAMESPACE_LABEL] = resource.metadata.namespace
        labels[ORCHESTRATOR_LABEL] = resource.spec.orchestrator


def before_write(resource: Resource) -> None:
    if resource.kind in TIERED_KINDS:
        name = orjson.dumps({"name": resource.metadata.name}).decode()
        resource.metadata.annotations[METADATA_ANNOTATION] = name


def after_read(resource: Resource) -> None:
    if resource.kind == "Tier":
        # Writers before the defaults were materialised left these out.
        if resource.spec.order is None:
            resource.spec.order = DEFAULT_TIER_ORDER
        if not resource.spec.default_action:
            resource.spec.default_action = "Deny"
    if resource.kind not in TIERED_KINDS:
        return
    metadata = resource.metadata
    annotation = metadata.annotations.pop(METADATA_ANNOTATION, "")
    name = _annotated_name(annotation)
    if name:
        metadata.name = name
    elif (resource.spec.tier or "default") == "default":
        # Calico before v3.32 stored default-tier policies under "default.<name>".
        metadata.name = metadata.name.removeprefix("default.")
    metadata.labels.setdefault(TIER_LABEL, resource.spec.tier or "default")


def _annotated_name(annotation: str) -> str:
    try:
        name = orjson.loads(annotation)["name"]
    except (ValueError, KeyError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def name_workload_endpoint(resource: Resource) -> None:
    """Give the composed name, or refuse another.  Raises ``ValidationError``."""
    spec = resource.spec
    workload = {"k8s": spec.pod, "cni": spec.container_id}.get(spec.orchestrator, spec.workload)
    name = workload_endpoint_name(spec.node or "", spec.orchestrator or "", workload or "", spec.endpoint or "")
    if resource.metadata.name and resource.metadata.name != name:
        raise ValidationError(
            f"must be {name!r}, as node, orchestrator, workload and endpoint say",
            resource=f"WorkloadEndpoint({resource.metadata.namespace}/{resource.metadata.name})",
            field="metadata.name",
            value=resource.metadata.name,
        )
    resource.metadata.name = name


# Checks against what is stored


async def check_create(client: Client, resource: Resource) -> None:
    if resource.kind in TIERED_KINDS:
        await _require_tier(client, resource)
    elif resource.kind == "IPPool":
        await _check_pool_overlap(client, resource)
        await _check_pool_blocks(client, resource)
    elif resource.kind == "BGPPeer":
        await _require_filters(client, resource)


async def check_update(client: Client, resource: Resource) -> None:
    if resource.kind == "IPPool":
        await _check_pool_immutable(client, resource)
    elif resource.kind == "BGPPeer":
        await _require_filters(client, resource)


async def _require_tier(client: Client, resource: Resource) -> None:
    tier = resource.spec.tier or "default"
    try:
        await client.get("Tier", tier)
    except ResourceDoesNotExist:
        raise ValidationError(
            "this tier does not exist; create it first", resource=_title(resource), field="spec.tier", value=tier
        ) from None


async def _require_filters(client: Client, resource: Resource) -> None:
    for index, name in enumerate(resource.spec.filters or ()):
        try:
            await client.get("BGPFilter", name)
        except ResourceDoesNotExist:
            raise ValidationError(
                "this BGPFilter does not exist; create it first",
                resource=_title(resource),
                field=f"spec.filters[{index}]",
                value=name,
            ) from None


def _readable(text: str) -> IPNetwork | None:
    """A stored CIDR; None for what no allocator can read either, which must not stand in the way of others."""
    try:
        return parse_network(text)
    except ValidationError:
        return None


async def _check_pool_overlap(client: Client, resource: Resource) -> None:
    network = parse_network(resource.spec.cidr)
    for other in (await client.list("IPPool")).items:
        if other.metadata.name == resource.metadata.name:
            continue
        taken = _readable(other.spec.cidr)
        if taken is not None and network.overlaps(taken):
            raise ValidationError(
                f"overlaps with IPPool({other.metadata.name}), {other.spec.cidr}",
                resource=_title(resource),
                field="spec.cidr",
                value=resource.spec.cidr,
            )


async def _check_pool_blocks(client: Client, resource: Resource) -> None:
    """Refuse a pool over blocks of another size: the two could hand out one address twice."""
    network = parse_network(resource.spec.cidr)
    prefix = f"{_BLOCKS_PREFIX}ipv{network.version}/block/"
    after = ""
    while True:
        page = await client.kv.range(prefix, start_after=after, limit=1000)
        for stored in page.kvs:
            block = _readable("/".join(stored.key[len(prefix) :].rsplit("-", 1)))
            if block is not None and network.overlaps(block) and block.prefixlen != resource.spec.block_size:
                raise ValidationError(
                    f"block {block} of another size is in use inside this pool",
                    resource=_title(resource),
                    field="spec.blockSize",
                    value=resource.spec.block_size,
                )
        if not page.more:
            return
        after = page.kvs[-1].key


async def _check_pool_immutable(client: Client, resource: Resource) -> None:
    try:
        stored = await client.get("IPPool", resource.metadata.name)
    except ResourceDoesNotExist:
        return
    for attribute, json_name in (("cidr", "cidr"), ("block_size", "blockSize")):
        old, new = getattr(stored.spec, attribute), getattr(resource.spec, attribute)
        if old != new and not (attribute == "cidr" and _readable(old) == parse_network(new)):
            raise ValidationError(
                f"cannot be changed, it is {old!r}; delete the pool and create another",
                resource=_title(resource),
                field=f"spec.{json_name}",
                value=new,
            )
    if "LoadBalancer" in stored.spec.allowed_uses and "LoadBalancer" not in resource.spec.allowed_uses:
        raise ValidationError(
            "a LoadBalancer pool cannot get another use",
            resource=_title(resource),
            field="spec.allowedUses",
            value=resource.spec.allowed_uses,
        )


# Deletion


async def before_delete(client: Client, kind: str, name: str, namespace: str) -> None:
    if kind == "Tier":
        await _require_unused_tier(client, name)
    elif kind == "IPPool":
        await _drain_pool(client, name)
    elif kind == "Node":
        await _delete_with_node(client, name)


async def _require_unused_tier(client: Client, name: str) -> None:
    if name in {tier for tier, _, _ in BUILTIN_TIERS}:
        raise ValidationError("is built in and cannot be deleted", resource=f"Tier({name})")
    for kind in sorted(TIERED_KINDS):
        for policy in (await client.list(kind)).items:
            if (policy.spec.tier or "default") == name:
                raise ValidationError(f"still contains {_title(policy)}", resource=f"Tier({name})")


async def _drain_pool(client: Client, name: str) -> None:
    """Stop new allocations, then let the registered hooks give the pool's blocks back."""
    while client.on_pool_delete:
        pool = await client.get("IPPool", name)
        if not pool.spec.disabled:
            pool.spec.disabled = True
            try:
                pool = await client.update(pool)
            except UpdateConflict:
                continue
            # Allocators may still be working from the pool as it was.
            await asyncio.sleep(_POOL_DRAIN_PAUSE)
        for hook in client.on_pool_delete:
            await hook(client, pool)
        return


async def _delete_with_node(client: Client, name: str) -> None:
    node = await client.get("Node", name)
    for hook in client.on_node_delete:
        await hook(client, node)
    doomed: list[tuple[str, str, str]] = []
    for kind in ("WorkloadEndpoint", "BGPPeer", "HostEndpoint"):
        for item in (await client.list(kind)).items:
            if item.spec.node == name:
                doomed.append((kind, item.metadata.name, item.metadata.namespace or ""))
    doomed += [(kind, f"node.{name}", "") for kind in ("FelixConfiguration", "BGPConfiguration")]
    for kind, item_name, namespace in doomed:
        try:
            await client.delete(kind, item_name, namespace)
        except ResourceDoesNotExist:
            pass


# Well-known objects


async def ensure_initialized(client: Client, calico_version: str, cluster_type: str) -> None:
    for name, order, action in BUILTIN_TIERS:
        try:
            await client.get("Tier", name)
        except ResourceDoesNotExist:
            await _create(client, "Tier", name, {"order": order, "defaultAction": action})
    # Last: calicoctl takes it for a sign that the rest is there.
    await _ensure_cluster_information(client, calico_version, cluster_type)


async def _ensure_cluster_information(client: Client, calico_version: str, cluster_type: str) -> None:
    while True:
        try:
            stored = await client.get("ClusterInformation", "default")
        except ResourceDoesNotExist:
            spec = {
                "clusterGUID": uuid.uuid4().hex,
                "clusterType": cluster_type,
                "calicoVersion": calico_version,
                "datastoreReady": True,
            }
            await _create(
                client, "ClusterInformation", "default", {name: value for name, value in spec.items() if value}
            )
            continue
        spec_now = stored.spec
        before = (spec_now.cluster_guid, spec_now.cluster_type, spec_now.datastore_ready, spec_now.calico_version)
        spec_now.cluster_guid = spec_now.cluster_guid or uuid.uuid4().hex
        spec_now.cluster_type = _with_types(spec_now.cluster_type or "", cluster_type) or spec_now.cluster_type
        spec_now.calico_version = calico_version
        if spec_now.datastore_ready is None:
            spec_now.datastore_ready = True
        after = (spec_now.cluster_guid, spec_now.cluster_type, spec_now.datastore_ready, spec_now.calico_version)
        if before == after:
            return
        try:
            await client.update(stored)
            return
        except UpdateConflict:
            continue


def _with_types(present: str, wanted: str) -> str:
    types = [part for part in present.split(",") if part]
    types += [part for part in wanted.split(",") if part and part not in types]
    return ",".join(types)


async def _create(client: Client, kind: str, name: str, spec: dict[str, Any]) -> None:
    document = {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": spec}
    try:
        await client.create(from_dict(document))
    except ResourceAlreadyExists:
        pass


def _title(resource: Resource) -> str:
    return str(ResourceName(resource.kind, resource.metadata.namespace or "", resource.metadata.name or ""))


__all__ = [
    "BUILTIN_TIERS",
    "TIERED_KINDS",
]
