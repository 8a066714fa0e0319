"""The v3 client: Calico's resources with defaults, validation and compare-and-swap over a KV engine.

Operations, revisions and stored form are those of Calico's etcd client (``libcalico-go/lib/clientv3``), so that both
can work on one datastore.  The rules of single kinds are in ``calico_node.datastores.rules``.
"""

from __future__ import annotations

import asyncio
import copy
import enum
import logging
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any, TypeAlias

from attrs import field, frozen

from calico_node.addresses import canonical_cidr
from calico_node.datastores import rules
from calico_node.datastores.kv import (
    Compare,
    CompareTarget,
    Delete,
    Event,
    EventType,
    Get,
    KeyValue,
    KVEngine,
    Put,
)
from calico_node.datastores.left_out import LeftOut
from calico_node.datastores.names import ResourceName, kind_prefix, parse_resource_key, resource_key
from calico_node.datastores.paging import pages
from calico_node.errors import (
    Compacted,
    DatastoreError,
    OperationNotSupported,
    OutcomeUnknown,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.resources import KINDS, apply_defaults, decode, encode, validate
from calico_node.settings import CALICO_VERSION

_log = logging.getLogger(__name__)

PAGE = 1000
APPLY_TRIES = 5
LIST_TRIES = 5
"""How often a list is begun anew when its revision is compacted before its last page is read."""
# Decoding a page at once would hold the event loop for too long.
_LIST_SLICE = 100
_APPLY_PAUSE = 0.1

Resource: TypeAlias = Any
"""A v3 resource class of ``calico_node.resources``."""

CascadeHook: TypeAlias = "Callable[[Client, Resource], Awaitable[None]]"


@frozen
class ResourceList:
    """``revision`` is the datastore's revision that the list reflects."""

    items: tuple[Resource, ...]
    revision: int


class ResourceEventType(enum.Enum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    ERROR = "ERROR"
    BOOKMARK = "BOOKMARK"


@frozen
class ResourceEvent:
    """One change.  ``resource`` is the new object, for DELETED the last one (None when it cannot be read);
    ERROR says that the stored object does not decode; BOOKMARK only moves ``revision``."""

    type: ResourceEventType
    revision: int
    name: ResourceName | None = None
    resource: Resource | None = None
    error: str = ""


@frozen
class Client:
    """Calico's v3 API over ``kv``.

    Every method raises ``DatastoreError`` when the store cannot be reached; a write also ``OutcomeUnknown`` (a
    ``DatastoreError``) when its answer was lost and the store does not show that it was carried out.  Resources that
    are passed in are never changed; what was stored comes back.  ``on_node_delete`` and ``on_pool_delete`` run before
    a Node's or IPPool's object goes (address release registers there).
    """

    kv: KVEngine
    on_node_delete: list[CascadeHook] = field(factory=list, repr=False)
    on_pool_delete: list[CascadeHook] = field(factory=list, repr=False)
    left_out: LeftOut = field(factory=LeftOut, init=False, repr=False)
    """What the last lists could not read."""

    # Reading

    async def get(self, kind: str, name: str, namespace: str = "") -> Resource:
        """Raises ``ResourceDoesNotExist``, and ``ValidationError`` when the stored object cannot be read."""
        if rules.is_default_allow(kind, name):
            return rules.default_allow_profile()
        stored, _ = await self.kv.get(resource_key(kind, name, namespace))
        if stored is None:
            raise ResourceDoesNotExist(str(ResourceName(kind, namespace, name)))
        return read_resource(kind, stored)

    async def list(self, kind: str, namespace: str = "") -> ResourceList:
        """All resources of ``kind`` (in ``namespace``); those that cannot be read are left out with a warning.

        Raises ``Compacted`` only where the store forgets the list's revision again and again while it is read.
        """
        for _ in range(LIST_TRIES - 1):
            try:
                return await self._list_once(kind, namespace)
            except Compacted as error:
                _log.info("%s: listing again: %s", kind, error)
        return await self._list_once(kind, namespace)

    async def _list_once(self, kind: str, namespace: str) -> ResourceList:
        items: list[Resource] = [rules.default_allow_profile()] if kind == "Profile" else []
        revision, prefix = 0, kind_prefix(kind, namespace)
        unreadable: set[str] = set()
        async with aclosing(pages(self.kv, prefix, PAGE)) as found:
            async for page in found:
                revision = page.revision
                for number, stored in enumerate(page.kvs):
                    if number % _LIST_SLICE == 0:
                        await asyncio.sleep(0)
                    try:
                        items.append(read_resource(kind, stored))
                    except ValidationError as error:
                        unreadable.add(stored.key)
                        title = str(parse_resource_key(stored.key) or stored.key)
                        if self.left_out.add(stored.key, stored.mod_revision, title, str(error)):
                            _log.warning("%s: left out of the list: %s", stored.key, error)
        self.left_out.listed(prefix, unreadable)
        return ResourceList(tuple(items), revision)

    async def watch(self, kind: str, revision: int = 0, namespace: str = "") -> AsyncGenerator[ResourceEvent, None]:
        """Changes after ``revision``; 0 first lists everything as ADDED.  Raises ``Compacted`` and
        ``DatastoreError``: the caller lists again, or watches again from the last revision it saw."""
        if not revision:
            listed = await self.list(kind, namespace)
            revision = listed.revision
            for item in listed.items:
                if not rules.is_default_allow(kind, item.metadata.name):
                    name = ResourceName(kind, item.metadata.namespace or "", item.metadata.name)
                    yield ResourceEvent(ResourceEventType.ADDED, revision, name, item)
        async for batch in self.kv.watch(kind_prefix(kind, namespace), start_revision=revision + 1):
            for event in batch.events:
                yield _resource_event(kind, event)
            yield ResourceEvent(ResourceEventType.BOOKMARK, batch.revision)

    # Writing

    async def create(self, resource: Resource) -> Resource:
        """Store a new resource.  Raises ``ResourceAlreadyExists``, ``ValidationError``."""
        resource = await self._prepare(resource)
        kind, metadata = resource.kind, resource.metadata
        if metadata.resource_version:
            raise ValidationError(
                "must be empty when a resource is created",
                resource=_title(resource),
                field="metadata.resourceVersion",
                value=metadata.resource_version,
            )
        uid_is_ours = not metadata.uid
        metadata.uid = metadata.uid or str(uuid.uuid4())
        metadata.creation_timestamp = metadata.creation_timestamp or _now()
        if kind == "Node":
            await self.ensure_initialized()
        await rules.check_create(self, resource)
        key = resource_key(kind, metadata.name, metadata.namespace or "")
        value = write_resource(resource)
        try:
            result = await self.kv.txn([Compare(key, CompareTarget.VERSION, 0)], [Put(key, value)], [Get(key)])
        except OutcomeUnknown as error:
            # A uid of our making tells whether what is there now was made by this call.
            stored = await self._after(error, key)
            if stored is None:
                raise
            if stored.value != value and not (uid_is_ours and _uid(kind, stored) == metadata.uid):
                raise ResourceAlreadyExists(_title(resource)) from None
            metadata.resource_version = str(stored.create_revision)
            return resource
        if not result.succeeded:
            raise ResourceAlreadyExists(_title(resource))
        metadata.resource_version = str(result.revision)
        return resource

    async def update(self, resource: Resource) -> Resource:
        """Replace the resource that has ``metadata.resourceVersion``.

        Raises ``UpdateConflict`` when it has changed since, ``ResourceDoesNotExist``, ``ValidationError``.
        """
        resource = await self._prepare(resource)
        metadata = resource.metadata
        for json_name, value in (
            ("resourceVersion", metadata.resource_version),
            ("creationTimestamp", metadata.creation_timestamp),
            ("uid", metadata.uid),
        ):
            if not value:
                raise ValidationError(
                    "must be set for an update", resource=_title(resource), field=f"metadata.{json_name}"
                )
        revision = _revision_number(_title(resource), metadata.resource_version)
        key = resource_key(resource.kind, metadata.name, metadata.namespace or "")
        await rules.check_update(self, resource)
        value = write_resource(resource)
        try:
            result = await self.kv.txn(
                [Compare(key, CompareTarget.MOD_REVISION, revision)], [Put(key, value)], [Get(key)]
            )
        except OutcomeUnknown as error:
            stored = await self._after(error, key)
            if stored is None or stored.value != value or stored.mod_revision == revision:
                raise
            metadata.resource_version = str(stored.mod_revision)
            return resource
        if not result.succeeded:
            missing = result.responses[0] is None
            raise (ResourceDoesNotExist if missing else UpdateConflict)(_title(resource))
        metadata.resource_version = str(result.revision)
        return resource

    async def apply(self, resource: Resource) -> Resource:
        """Create the resource, or update the stored one to it, as ``calicoctl apply`` does.

        Labels, annotations and spec are the caller's; uid and creation time stay.  With a resourceVersion given,
        the stored one must equal it; without, conflicts are retried.
        """
        wanted_version = resource.metadata.resource_version
        bare = copy.deepcopy(resource)
        bare.metadata = type(bare.metadata)(
            name=bare.metadata.name,
            namespace=bare.metadata.namespace,
            labels=bare.metadata.labels,
            annotations=bare.metadata.annotations,
        )
        for attempt in range(1, APPLY_TRIES + 1):
            try:
                if not wanted_version:
                    with suppress(ResourceAlreadyExists, OperationNotSupported):
                        return await self.create(bare)
            except OutcomeUnknown:
                # Once more does no harm: whichever of the two is carried out last, the content is the same.
                if attempt > 1:
                    raise
                continue
            try:
                return await self._overwrite(bare, wanted_version)
            except (UpdateConflict, ResourceDoesNotExist):
                if wanted_version or attempt == APPLY_TRIES:
                    raise
            except OutcomeUnknown:
                if wanted_version or attempt > 1:
                    raise
            await asyncio.sleep(_APPLY_PAUSE * attempt)
        raise AssertionError("unreachable")

    async def _overwrite(self, bare: Resource, wanted_version: str | None) -> Resource:
        named = await self._named(bare)
        try:
            stored = await self.get(bare.kind, named.metadata.name, named.metadata.namespace or "")
        except ValidationError:
            # What cannot be read is mended by applying what can.
            stored = await self._unreadable(named)
        if wanted_version and stored.metadata.resource_version != wanted_version:
            raise UpdateConflict(_title(named))
        update = copy.deepcopy(named)
        update.metadata = stored.metadata
        update.metadata.labels = dict(named.metadata.labels)
        update.metadata.annotations = dict(named.metadata.annotations)
        return await self.update(update)

    async def _unreadable(self, named: Resource) -> Resource:
        """A stand-in for the stored object of this name: of it only the revision is taken."""
        kv, _ = await self.kv.get(resource_key(named.kind, named.metadata.name, named.metadata.namespace or ""))
        if kv is None:
            raise ResourceDoesNotExist(_title(named))
        stored = copy.deepcopy(named)
        stored.metadata.uid, stored.metadata.creation_timestamp = str(uuid.uuid4()), _now()
        stored.metadata.resource_version = str(kv.mod_revision)
        return stored

    async def delete(self, kind: str, name: str, namespace: str = "", resource_version: str = "") -> Resource:
        """Remove a resource (at ``resource_version``, where given) and what hangs on it; returns what was stored, or
        None where that cannot be told.

        Raises ``ResourceDoesNotExist``, ``UpdateConflict``, ``ValidationError`` (a protected or used Tier).
        """
        title = ResourceName(kind, namespace, name)
        if rules.is_default_allow(kind, name):
            raise OperationNotSupported(f"{title}: is built in and cannot be deleted")
        key = resource_key(kind, name, namespace)
        await rules.before_delete(self, kind, name, namespace)
        compares = []
        if resource_version:
            compares = [Compare(key, CompareTarget.MOD_REVISION, _revision_number(str(title), resource_version))]
        try:
            result = await self.kv.txn(compares, [Delete(key)], [Get(key)])
        except OutcomeUnknown as error:
            if await self._after(error, key) is not None:
                raise
            return None
        previous = result.responses[0]
        if previous is None:
            raise ResourceDoesNotExist(str(title))
        if not result.succeeded:
            raise UpdateConflict(str(title))
        try:
            return read_resource(kind, previous)
        except ValidationError:
            return None

    async def _after(self, lost: OutcomeUnknown, key: str) -> KeyValue | None:
        """What is stored after a write whose answer was lost.  Raises ``lost`` when that cannot be read either."""
        try:
            return (await self.kv.get(key))[0]
        except DatastoreError:
            raise lost from None

    async def _named(self, resource: Resource) -> Resource:
        resource = copy.deepcopy(resource)
        if resource.kind == "WorkloadEndpoint":
            rules.name_workload_endpoint(resource)
        return resource

    async def _prepare(self, resource: Resource) -> Resource:
        """A copy of ``resource`` with defaults, forced labels and names; validated."""
        if resource.kind not in KINDS:
            raise ValidationError(f"unknown kind {resource.kind!r}")
        if rules.is_default_allow(resource.kind, resource.metadata.name):
            raise OperationNotSupported(f"{_title(resource)}: is built in and cannot be changed")
        resource = await self._named(resource)
        if not KINDS[resource.kind].namespaced:
            resource.metadata.namespace = ""
        apply_defaults(resource)
        rules.force_labels(resource)
        validate(resource)
        if resource.kind == "IPPool":
            resource.spec.cidr = canonical_cidr(resource.spec.cidr)
        return resource

    # Well-known objects

    async def ensure_initialized(self, calico_version: str = CALICO_VERSION, cluster_type: str = "") -> None:
        """Make sure of ClusterInformation ``default`` and the built-in tiers, as Calico's nodes do at start."""
        await rules.ensure_initialized(self, calico_version, cluster_type)


def read_resource(kind: str, stored: KeyValue) -> Resource:
    """The resource of a stored value, as users see it.  Raises ``ValidationError``."""
    try:
        resource = decode(kind, stored.value)
    except ValidationError:
        raise
    except Exception as error:
        # Whatever a stored document brings about (too deep a nesting, too large a number) costs that object alone.
        raise ValidationError(
            f"the stored object cannot be read: {error}", resource=f"{kind} at {stored.key}"
        ) from None
    rules.after_read(resource)
    resource.metadata.resource_version = str(stored.mod_revision)
    return resource


def write_resource(resource: Resource) -> bytes:
    """The bytes to store: without resourceVersion, the tiered kinds with their name in an annotation."""
    stored = copy.deepcopy(resource)
    stored.metadata.resource_version = None
    rules.before_write(stored)
    return encode(stored)


def _uid(kind: str, stored: KeyValue) -> str:
    try:
        return read_resource(kind, stored).metadata.uid or ""
    except ValidationError:
        return ""


def _resource_event(kind: str, event: Event) -> ResourceEvent:
    name = parse_resource_key(event.kv.key)
    revision = event.kv.mod_revision
    if event.type is EventType.DELETE:
        old = None
        if event.prev is not None:
            try:
                old = read_resource(kind, event.prev)
            except ValidationError:
                pass
        return ResourceEvent(ResourceEventType.DELETED, revision, name, old)
    try:
        resource = read_resource(kind, event.kv)
    except ValidationError as error:
        return ResourceEvent(ResourceEventType.ERROR, revision, name, error=str(error))
    added = event.kv.create_revision == revision
    return ResourceEvent(ResourceEventType.ADDED if added else ResourceEventType.MODIFIED, revision, name, resource)


def _title(resource: Resource) -> str:
    return str(ResourceName(resource.kind, resource.metadata.namespace or "", resource.metadata.name or ""))


def _revision_number(title: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ValidationError(
            "must be a decimal revision", resource=title, field="metadata.resourceVersion", value=text
        )
    return int(text)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


__all__ = [
    "Client",
    "Compacted",
    "DatastoreError",
    "Resource",
    "ResourceEvent",
    "ResourceEventType",
    "ResourceList",
    "read_resource",
    "write_resource",
]
