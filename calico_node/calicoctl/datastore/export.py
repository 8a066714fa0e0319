"""``calicoctl datastore migrate export``: a whole datastore as text.

Three parts, parted by lines ``===``: the resources in YAML, a list per kind; ClusterInformation in JSON; IPAM's
documents in JSON, each with its key.  That is the form Calico's tool imports into Kubernetes; with ``--all`` the
text also holds what Kubernetes would know itself, and the resources keep their identity: then it is a backup.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import orjson
from attrs import define, field

from calico_node.addresses import parse_network
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.datastore.lock import require_lock
from calico_node.calicoctl.snapshot import resources, scan
from calico_node.calicoctl.yamltext import yaml_text
from calico_node.datastores import Client
from calico_node.datastores.names import parse_resource_key
from calico_node.errors import CalicoError, ValidationError
from calico_node.ipam.blocks import MalformedDocument
from calico_node.ipam.cascades import TUNNEL_HANDLES
from calico_node.ipam.documents import (
    HOST,
    VIRTUAL,
    AffinityKey,
    HandleKey,
    decode_affinity,
    decode_block,
    decode_config,
    decode_handle,
)
from calico_node.ipam.store import PREFIX, key_path, parse_affinity_path
from calico_node.resources import API_VERSION, to_dict

KINDS_IN_ORDER = (
    "IPPool", "BGPPeer", "Tier", "GlobalNetworkPolicy", "StagedGlobalNetworkPolicy", "GlobalNetworkSet",
    "HostEndpoint", "KubeControllersConfiguration", "NetworkPolicy", "StagedNetworkPolicy",
    "StagedKubernetesNetworkPolicy", "NetworkSet", "Node", "BGPConfiguration", "FelixConfiguration", "IPReservation",
    "BGPFilter",
)  # fmt: skip
"""What Calico exports, in its order."""
KINDS_WITH_ALL = ("IPAMConfiguration", "CalicoNodeStatus", "Profile", "WorkloadEndpoint", "LiveMigration")
KUBERNETES_POLICY = "knp.default."
SEPARATOR = "===\n"
ROOT = "/calico/"
STATUS = "/calico/felix/"


@define
class Contents:
    """A datastore's contents as plain data.

    ``faults`` name what could not be read and is left out, ``unknown`` the keys that no part is meant for: a newer
    Calico's, or another program's.
    """

    revision: int
    cluster: dict[str, Any]
    lists: dict[str, list[dict[str, Any]]] = field(factory=dict)
    ipam: dict[str, Any] = field(factory=dict)
    faults: list[str] = field(factory=list)
    unknown: list[str] = field(factory=list)


async def read_contents(client: Client, *, everything: bool) -> Contents:
    """All of it as of one revision.  Raises ``ResourceDoesNotExist`` in a datastore that nobody has prepared."""
    cluster = await client.get("ClusterInformation", "default")
    _, revision = await client.kv.get(f"{PREFIX}config")
    contents = Contents(revision, to_dict(cluster))
    names: dict[str, str] = {}
    for kind in (*KINDS_IN_ORDER, *(KINDS_WITH_ALL if everything else ())):
        found, faults = await resources(client, kind, revision)
        contents.faults += faults
        if kind == "Node" and not everything:
            names = kubernetes_names(found)
        contents.lists[kind] = [
            exported(item, names, everything=everything)
            for item in found
            if everything or not item.metadata.name.startswith(KUBERNETES_POLICY)
        ]
    contents.ipam = await _ipam(client, contents, names)
    if everything:
        contents.unknown += [key async for key in _other_keys(client, revision)]
    return contents


async def _other_keys(client: Client, revision: int) -> AsyncIterator[str]:
    """Keys under /calico/ that are neither of a kind nor IPAM's, but for what nodes report of themselves."""
    kinds = (*KINDS_IN_ORDER, *KINDS_WITH_ALL, "ClusterInformation")
    async for stored in scan(client.kv, ROOT, revision):
        if stored.lease or stored.key.startswith((PREFIX, STATUS)):
            continue
        name = parse_resource_key(stored.key)
        if name is None or name.kind not in kinds:
            yield stored.key


def kubernetes_names(nodes: list[Any]) -> dict[str, str]:
    """What Kubernetes calls each node that it calls otherwise."""
    return {
        node.metadata.name: reference.node_name
        for node in nodes
        for reference in node.spec.orch_refs
        if reference.orchestrator == "k8s" and reference.node_name
    }


def exported(resource: Any, names: Mapping[str, str], *, everything: bool) -> dict[str, Any]:
    data = to_dict(resource)
    metadata = data["metadata"]
    dropped = ["resourceVersion"]
    if not everything:
        dropped += ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    for name in dropped:
        metadata.pop(name, None)
    if resource.kind == "Node":
        metadata["name"] = names.get(metadata["name"], metadata["name"])
    elif resource.kind in ("FelixConfiguration", "BGPConfiguration") and metadata["name"].startswith("node."):
        node = metadata["name"].removeprefix("node.")
        metadata["name"] = f"node.{names.get(node, node)}"
    return data


async def _ipam(client: Client, contents: Contents, names: Mapping[str, str]) -> dict[str, Any]:
    """Calico's form: ``{"block_affinities", "blocks", "handles", "config"}`` of ``{"Key", "Value", "TTL"}``."""
    parts: dict[str, list[dict[str, Any]]] = {"block_affinities": [], "blocks": [], "handles": [], "config": []}
    async for stored in scan(client.kv, PREFIX, contents.revision):
        part = _part(stored.key)
        if part is None:
            contents.unknown.append(stored.key)
            continue
        if part == "block_affinities" and stored.key.count("/") == PREFIX.count("/") + 1:
            continue  # the mark of a host, which nothing reads any more
        # An affinity without a value is an old form of a confirmed one.
        raw = stored.value or (b'{"state":""}' if part == "block_affinities" else b"")
        try:
            check_document(part, stored.key, raw)
        except MalformedDocument as error:
            contents.faults.append(f"{stored.key}: {error}")
            continue
        value = orjson.loads(raw)
        if part == "blocks":
            _rename_in_block(value, names)
        parts[part].append({"Key": _renamed_key(part, stored.key, names), "Value": value, "TTL": 0})
    config = parts.pop("config")
    data: dict[str, Any] = {name: entries for name, entries in parts.items() if entries}
    return {**data, "config": config[0]} if config else data


_PARTS = (
    ("config", f"{PREFIX}config"),
    ("blocks", f"{PREFIX}assignment/"),
    ("handles", f"{PREFIX}handle/"),
    ("block_affinities", f"{PREFIX}{HOST}/"),
    ("block_affinities", f"{PREFIX}{VIRTUAL}/"),
)


def _part(key: str) -> str | None:
    """The member of the export that holds ``key``."""
    return next((part for part, start in _PARTS if key.startswith(start)), None)


def _renamed_key(part: str, key: str, names: Mapping[str, str]) -> str:
    affinity = parse_affinity_path(key)
    if part == "handles":
        return key_path(HandleKey(_handle(key.removeprefix(f"{PREFIX}handle/"), names)))
    if part == "block_affinities" and affinity is not None and affinity.type == HOST:
        return key_path(AffinityKey(names.get(affinity.host, affinity.host), affinity.cidr))
    return key


def check_document(part: str, key: str, value: bytes) -> None:
    """Raises ``MalformedDocument`` when key and value are not those of a ``part``."""
    good = key.startswith(PREFIX)
    if part == "blocks":
        block = decode_block(value, key)
        address, _, length = key.rpartition("/")[2].rpartition("-")
        good = good and f"{address}/{length}" == block.cidr
    elif part == "handles":
        decode_handle(value, key)
        good = key.startswith(f"{PREFIX}handle/") and key.count("/") == PREFIX.count("/") + 1
    elif part == "config":
        decode_config(value)
        good = key == f"{PREFIX}config"
    else:
        decode_affinity(value, key)
        affinity = parse_affinity_path(key)
        good = good and affinity is not None and _is_cidr(affinity.cidr)
    if not good:
        raise MalformedDocument(f"IPAM's part: {part}: key {key!r} does not fit")


def _is_cidr(text: str) -> bool:
    try:
        return str(parse_network(text, strict=True)) == text
    except ValidationError:
        return False


def _handle(handle: str, names: Mapping[str, str]) -> str:
    for prefix in TUNNEL_HANDLES:
        node = handle.removeprefix(prefix)
        if node != handle:
            return prefix + names.get(node, node)
    return handle


def _rename_in_block(block: dict[str, Any], names: Mapping[str, str]) -> None:
    kind, colon, host = (block.get("affinity") or "").partition(":")
    if kind == HOST:
        block["affinity"] = kind + colon + names.get(host, host)
    for attribute in block.get("attributes") or ():
        if attribute.get("handle_id"):
            attribute["handle_id"] = _handle(attribute["handle_id"], names)
        secondary = attribute.get("secondary") or {}
        if "node" in secondary:
            secondary["node"] = names.get(secondary["node"], secondary["node"])


def list_document(kind: str, items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": f"{kind}List", "apiVersion": API_VERSION, "metadata": {}, "items": items}


def json_text(data: Any) -> str:
    return orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() + "\n"


def export(options: dict[str, Any]) -> int:
    """Write the text to standard output; the datastore must be locked."""
    everything = options["everything"]

    async def run() -> Contents:
        async with connect(options) as client:
            await require_lock(client, "it is exported")
            return await read_contents(client, everything=everything)

    contents = complete(run())
    if contents.faults:
        lines = "".join(f"\n  {fault}" for fault in contents.faults)
        raise CalicoError(f"nothing was exported, {len(contents.faults)} stored objects cannot be read:{lines}")
    for kind, items in contents.lists.items():
        sys.stdout.write(yaml_text(list_document(kind, items)) + "---\n")
    sys.stdout.write(SEPARATOR + json_text(contents.cluster) + SEPARATOR + json_text(contents.ipam))
    if contents.unknown:
        lines = "".join(f"\n  {key}" for key in contents.unknown)
        print(f"left out, {len(contents.unknown)} keys that this calicoctl does not know:{lines}", file=sys.stderr)
    if not everything:
        known = {reference["nodeName"] for node in contents.lists["Node"] for reference in _references(node)}
        for node in contents.lists["Node"]:
            if node["metadata"]["name"] not in known:
                print(
                    f"Node({node['metadata']['name']}) has no name in Kubernetes and keeps its own", file=sys.stderr
                )
    return 0


def _references(node: dict[str, Any]) -> list[dict[str, Any]]:
    references = (node.get("spec") or {}).get("orchRefs") or []
    return [
        reference for reference in references if reference.get("orchestrator") == "k8s" and "nodeName" in reference
    ]
