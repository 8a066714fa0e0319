"""``calicoctl ipam release``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from attrs import frozen

from calico_node.addresses import parse_address
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.ipam.show import checked_address
from calico_node.datastores import Client
from calico_node.datastores.kv import Compare, CompareTarget, Delete
from calico_node.errors import CalicoError, ValidationError
from calico_node.ipam.allocator import IPAM
from calico_node.ipam.blocks import Release
from calico_node.ipam.documents import HandleKey
from calico_node.ipam.releasing import ReleaseFailed
from calico_node.ipam.store import KVStore, key_path
from calico_node.settings import CALICO_VERSION


def release(options: dict[str, Any]) -> int:
    """Release one address, or what reports agree on."""
    if bool(options["ip"]) == bool(options["from_report"]):
        raise InputError("give either --ip or --from-report")
    if options["from_report"]:
        return _release_reported(options)
    address = checked_address(options["ip"])
    if not address:
        return 1

    async def run() -> None:
        async with connect(options) as client:
            done = await IPAM(KVStore(client)).release_ips([address])
            if not done.released:
                raise CalicoError(f"IP address {address} is not assigned")

    complete(run())
    print(f"Successfully released IP address {address}")
    return 0


@frozen
class Report:
    """What a report of ``ipam check`` says to leak: allocations by address, and handles with their revision."""

    file: str
    version: str
    cluster: str
    revision: str
    leaked: dict[str, Release]
    handles: dict[str, int]


def read_report(file: str) -> Report:
    """Raises ``InputError`` when the file is no such report."""
    import orjson

    try:
        data = orjson.loads(Path(file).read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{file} is not a report of 'ipam check': {error}") from None
    try:
        return Report(
            file,
            _text(data, "version"),
            _text(data, "clusterGUID"),
            _text(data, "clusterInformationRevision"),
            {
                item["ip"]: _release(item)
                for items in data["allocations"].values()
                for item in items
                if not (item["inUse"] or item.get("coolingDown"))
            },
            {_text(item, "ID"): int(_text(item, "Revision")) for item in data.get("leakedHandles") or ()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        raise InputError(f"{file} is not a report of 'ipam check': {type(error).__name__}: {error}") from None


def _text(data: Any, name: str) -> str:
    value = data[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} = {value!r} must be a string")
    return value


def _release(item: dict[str, Any]) -> Release:
    sequence = item.get("sequenceNumber")
    if sequence is not None and type(sequence) is not int:
        raise TypeError(f"sequenceNumber = {sequence!r} must be a number")
    handle = _text(item, "handle") if item.get("handle") else ""
    return Release(str(parse_address(_text(item, "ip"))), handle, sequence)


def _release_reported(options: dict[str, Any]) -> int:
    reports = [read_report(file) for file in options["from_report"]]
    # Only what leaked, unchanged, in all reports is beyond doubt.
    addresses = [
        request
        for address, request in sorted(reports[0].leaked.items())
        if all(report.leaked.get(address) == request for report in reports)
    ]
    handles = {
        handle: revision
        for handle, revision in sorted(reports[0].handles.items())
        if all(report.handles.get(handle) == revision for report in reports)
    }

    async def run() -> bool:
        async with connect(options) as client:
            cluster = await client.get("ClusterInformation", "default")
            _compare(reports, cluster, force=options["force"])
            good = await _release_addresses(client, addresses)
            await _delete_handles(client, handles)
            return good

    if not complete(run()):
        return 1
    print("The datastore may be unlocked now.")
    return 0


def _compare(reports: list[Report], cluster: Any, *, force: bool) -> None:
    """Refuse reports of another cluster, another version or another time, and a cluster that is not locked."""
    for report in reports:
        if report.cluster != (cluster.spec.cluster_guid or ""):
            raise CalicoError(
                f"{report.file} is a report of cluster {report.cluster}, this is {cluster.spec.cluster_guid}: "
                "nothing was released"
            )
        if report.version != CALICO_VERSION:
            _refuse(f"{report.file} was made by version {report.version}, this is {CALICO_VERSION}", force)
    if cluster.metadata.resource_version not in {report.revision for report in reports}:
        raise CalicoError(
            "ClusterInformation has changed since every one of the reports: lock the datastore, make a new report "
            "and try again"
        )
    if cluster.spec.datastore_ready is not False:
        _refuse("the datastore is not locked ('calicoctl datastore migrate lock')", force)


def _refuse(reason: str, force: bool) -> None:
    if not force:
        raise CalicoError(f"{reason}: nothing was released; --force does it all the same")
    print(f"WARNING: {reason}; goes on as --force says", file=sys.stderr)


async def _release_addresses(client: Client, requests: list[Release]) -> bool:
    failed = ""
    try:
        done = await IPAM(KVStore(client)).release_ips(requests)
    except ReleaseFailed as error:
        done, failed = error.result, str(error)
    print(f"Released {len(done.released)} IPs; {len(done.unallocated)} were released before", flush=True)
    if failed:
        print(f"some IPs have changed since the report and were not released: {failed}", file=sys.stderr)
    return not failed


async def _delete_handles(client: Client, handles: dict[str, int]) -> None:
    """Delete those that have not changed since the report."""
    deleted = 0
    for handle, revision in handles.items():
        key = key_path(HandleKey(handle))
        result = await client.kv.txn([Compare(key, CompareTarget.MOD_REVISION, revision)], [Delete(key)])
        deleted += result.succeeded
    print(f"Deleted {deleted} handles; {len(handles) - deleted} have changed since the report", flush=True)
