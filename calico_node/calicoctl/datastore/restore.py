"""``calicoctl datastore migrate import``: an exported datastore into an empty one."""

from __future__ import annotations

import re
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import define, field

from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.datastore.export import KINDS_IN_ORDER, KINDS_WITH_ALL, check_document
from calico_node.calicoctl.datastore.lock import set_ready
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.snapshot import scan
from calico_node.datastores import Client
from calico_node.datastores.client import write_resource
from calico_node.datastores.kv import Compare, CompareTarget, Put
from calico_node.datastores.names import RESOURCES_PREFIX, parse_resource_key, resource_key
from calico_node.datastores.rules import BUILTIN_TIERS
from calico_node.errors import (
    CalicoError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.ipam.blocks import MalformedDocument
from calico_node.ipam.store import PREFIX
from calico_node.resources import Document, apply_defaults, decode, expand_lists, load_documents, validate

MOST_PUTS = 100
"""etcd takes 128 operations in one transaction (``--max-txn-ops``) …"""
MOST_BYTES = 1 << 20
"""… and 1.5 MiB in one request (``--max-request-bytes``)."""
DEFAULT_ALLOW = "projectcalico-default-allow"


@define
class Export:
    """What a file holds, checked: ``puts`` are keys and values, those in ``present`` may exist already."""

    cluster: dict[str, Any]
    puts: list[Put] = field(factory=list)
    present: set[str] = field(factory=set)
    resources: int = 0
    documents: int = 0


def import_(options: dict[str, Any]) -> int:
    """Write what the file holds; everything is checked before the first write, and the target stays locked."""
    export = parse_export(*_read(options["filename"]))

    async def run() -> None:
        async with connect(options, making=True, check=False) as client:
            export.puts = await _missing(client, export)
            await client.ensure_initialized()
            await set_ready(client, ready=False)
            try:
                await _write(client, export)
                await _adopt_cluster(client, export.cluster)
            except CalicoError as error:
                raise CalicoError(f"the import stopped half-way; the same command goes on with it: {error}") from None

    complete(run())
    print(f"Successfully imported {export.resources} resource(s) and {export.documents} IPAM document(s)")
    print("The datastore is locked; 'calicoctl datastore migrate unlock' lets the cluster use it.")
    return 0


def _read(filename: str) -> tuple[str, bytes]:
    if filename == "-":
        return "standard input", sys.stdin.buffer.read()
    try:
        return filename, Path(filename).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {filename}: {error.strerror}") from None


def parse_export(source: str, data: bytes) -> Export:
    """The checked contents of a file.  Raises ``InputError`` naming everything at fault."""
    parts = re.split(rb"(?m)^===\r?\n", data)
    if len(parts) != 3:
        raise InputError(
            f"{source} is not what 'calicoctl datastore migrate export' writes: it has {len(parts)} part(s), not 3"
        )
    faults: list[str] = []
    cluster = _json(source, "ClusterInformation", parts[1], faults)
    if not isinstance(cluster.get("spec"), dict):
        faults.append(f"{source}: the second part is no ClusterInformation")
    export = Export(cluster)
    try:
        documents = list(expand_lists(load_documents(parts[0], source)))
    except ValidationError as error:
        documents = []
        faults.append(str(error))
    for document in documents:
        try:
            put, builtin = _resource(document)
        except ValidationError as error:
            faults.append(str(error))
            continue
        if put is not None:
            export.puts.append(put)
            export.resources += 1
            if builtin:
                export.present.add(put.key)
    for put in _ipam(source, _json(source, "IPAM's part", parts[2], faults), faults):
        export.puts.append(put)
        export.documents += 1
    if faults:
        raise InputError(f"nothing was imported:{''.join(f'{chr(10)}  {fault}' for fault in faults)}")
    return export


def _json(source: str, what: str, text: bytes, faults: list[str]) -> dict[str, Any]:
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        faults.append(f"{source}: {what}: not JSON: {error}")
        return {"spec": {}}
    if isinstance(data, dict):
        return data
    faults.append(f"{source}: {what}: not a JSON object")
    return {"spec": {}}


def _resource(document: Document) -> tuple[Put | None, bool]:
    """The write of one document (None for the built-in profile), and whether it may be there already."""
    data = document.data
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in (*KINDS_IN_ORDER, *KINDS_WITH_ALL):
        # Says what is wrong with it, and where.
        document.resource()
        raise ValidationError("is not among what an export holds", resource=str(kind), origin=document.origin())
    try:
        # Fields that this release does not know are carried over.
        resource = decode(kind, data)
        apply_defaults(resource)
        validate(resource)
    except ValidationError as error:
        raise document.located(error) from None
    metadata = resource.metadata
    if kind == "Profile" and metadata.name == DEFAULT_ALLOW:
        return None, False
    metadata.uid = metadata.uid or str(uuid.uuid4())
    metadata.creation_timestamp = metadata.creation_timestamp or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    key = resource_key(kind, metadata.name, metadata.namespace or "")
    return Put(key, write_resource(resource)), kind == "Tier" and metadata.name in _BUILTIN


_BUILTIN = {tier for tier, _, _ in BUILTIN_TIERS}


def _ipam(source: str, data: dict[str, Any], faults: list[str]) -> Iterable[Put]:
    data.pop("spec", None)
    for part, entries in data.items():
        if part not in ("block_affinities", "blocks", "handles", "config"):
            faults.append(f"{source}: IPAM's part has an unknown member {part!r}")
            continue
        if part == "config":
            entries = [entries]
        if not isinstance(entries, list):
            faults.append(f"{source}: IPAM's part: {part}: must be a list")
            continue
        for entry in entries:
            try:
                key, value = entry["Key"], orjson.dumps(entry["Value"])
                check_document(part, key, value)
            except MalformedDocument as error:
                faults.append(f"{source}: {error}")
            except (TypeError, KeyError, AttributeError):
                faults.append(f"{source}: IPAM's part: {part}: an entry without Key and Value")
            else:
                yield Put(key, value)


async def _missing(client: Client, export: Export) -> list[Put]:
    """The writes that are still to be done: all of them, or what an import of the same file did not come to.

    Such an import has left the datastore locked, and as another cluster than the file's.  Raises ``CalicoError`` when
    the target holds anything else than what every prepared datastore has.
    """
    try:
        cluster = await client.get("ClusterInformation", "default")
    except ResourceDoesNotExist:
        resumable = False
    else:
        guid = export.cluster["spec"].get("clusterGUID")
        resumable = cluster.spec.datastore_ready is False and not (guid and cluster.spec.cluster_guid == guid)
    wanted = {put.key: put.value for put in export.puts} if resumable else {}
    done = set()
    _, revision = await client.kv.get("/")
    for prefix in (RESOURCES_PREFIX, PREFIX):
        async for stored in scan(client.kv, prefix, revision):
            name = parse_resource_key(stored.key) if prefix == RESOURCES_PREFIX else None
            if prefix == RESOURCES_PREFIX and (
                name is None or name.kind == "ClusterInformation" or (name.kind == "Tier" and name.name in _BUILTIN)
            ):
                continue
            if stored.key not in wanted or not _same(stored.value, wanted[stored.key]):
                raise CalicoError(
                    f"the datastore to import into is not empty: it holds {name or stored.key}; nothing was imported"
                )
            done.add(stored.key)
    if done:
        print(f"{len(done)} objects are there from an import of this file that did not end", file=sys.stderr)
    return [put for put in export.puts if put.key not in done]


def _same(stored: bytes, wanted: bytes) -> bool:
    """Whether both mean the same, but for what an import gives to a resource that has none."""
    if stored == wanted:
        return True
    try:
        found, expected = orjson.loads(stored), orjson.loads(wanted)
    except orjson.JSONDecodeError:
        return False
    for data in (found, expected):
        if isinstance(data, dict) and isinstance(data.get("metadata"), dict):
            for name in ("uid", "creationTimestamp"):
                data["metadata"].pop(name, None)
    return bool(found == expected)


async def _write(client: Client, export: Export) -> None:
    batch: list[Put] = []
    size = 0
    for put in export.puts:
        if batch and (len(batch) == MOST_PUTS or size + len(put.value) > MOST_BYTES):
            await _write_batch(client, batch, export.present)
            batch, size = [], 0
        batch.append(put)
        size += len(put.value)
    if batch:
        await _write_batch(client, batch, export.present)


async def _write_batch(client: Client, puts: Sequence[Put], present: set[str]) -> None:
    compares = [Compare(put.key, CompareTarget.VERSION, 0) for put in puts if put.key not in present]
    result = await client.kv.txn(compares, puts)
    if not result.succeeded:
        raise ResourceAlreadyExists(f"one of {puts[0].key} … {puts[-1].key}")


async def _adopt_cluster(client: Client, cluster: dict[str, Any]) -> None:
    """The cluster stays the one it was: its GUID, type and version."""
    while True:
        stored = await client.get("ClusterInformation", "default")
        spec, old = stored.spec, cluster["spec"]
        spec.cluster_guid = old.get("clusterGUID") or spec.cluster_guid
        spec.cluster_type = old.get("clusterType") or spec.cluster_type
        spec.calico_version = old.get("calicoVersion") or spec.calico_version
        try:
            await client.update(stored)
            return
        except UpdateConflict:
            continue
