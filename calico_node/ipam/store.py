"""Where IPAM's documents are kept, and what it reads of the resources around them.

``Store`` is all that the allocator knows of a datastore; ``KVStore`` is the etcd form of it, over ``Client.kv``.
Every write is a compare-and-swap on the revision read before.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import anyio.lowlevel
import structlog
from attrs import evolve, field, frozen

from calico_node.addresses import ip_version, parse_network
from calico_node.datastores.kv import Compare, CompareTarget, Delete, Get, KeyValue, KVEngine, Put
from calico_node.datastores.left_out import LeftOut
from calico_node.datastores.names import kind_prefix
from calico_node.errors import (
    IPAMError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    UpdateConflict,
    ValidationError,
)
from calico_node.ipam.blocks import Block, MalformedDocument
from calico_node.ipam.documents import (
    HOST,
    Affinity,
    AffinityKey,
    BlockKey,
    Document,
    DocumentKey,
    HandleKey,
    decode_affinity,
    decode_block,
    decode_config,
    decode_handle,
    encode,
)

log = structlog.get_logger(__name__)

PREFIX = "/calico/ipam/v2/"
_POOLS = kind_prefix("IPPool")
PAGE = 500
SLICE = 50  # documents decoded before others get the event loop: a full block takes a tenth of a millisecond

T = TypeVar("T", bound=Document, covariant=True)


@frozen
class Stored(Generic[T]):
    """A document and the revision it was read at; ``key`` is the document's kind of ``DocumentKey``."""

    key: Any
    value: T
    revision: int


@frozen
class Pool:
    """What IPAM needs to know of an IPPool.  ``enabled``: not disabled, not being deleted, allocatable."""

    name: str
    cidr: str
    block_size: int
    node_selector: str = "all()"
    namespace_selector: str = ""
    allowed_uses: tuple[str, ...] = ("Workload", "Tunnel")
    automatic: bool = True
    enabled: bool = True
    ipip_mode: str = "Never"
    vxlan_mode: str = "Never"

    @property
    def version(self) -> int:
        return ip_version(self.cidr)

    def contains(self, cidr: str) -> bool:
        """Whether the address or CIDR lies in this pool."""
        inner, outer = parse_network(cidr), parse_network(self.cidr)
        return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]

    @classmethod
    def from_resource(cls, pool: Any) -> Pool:
        """From an ``IPPool`` resource.  Raises ``ValidationError`` when CIDR and block size make no blocks."""
        spec, network = pool.spec, parse_network(pool.spec.cidr)
        block_size = spec.block_size or (26 if network.version == 4 else 122)
        if not network.prefixlen <= block_size <= network.max_prefixlen or network.max_prefixlen - block_size > 16:
            raise ValidationError(f"block size {block_size} does not fit {network}", value=block_size)
        conditions = getattr(pool.status, "conditions", None) or () if getattr(pool, "status", None) else ()
        refused = any(_member(c, "type") == "Allocatable" and _member(c, "status") == "False" for c in conditions)
        deleting = bool(getattr(pool.metadata, "deletion_timestamp", None))
        return cls(
            name=pool.metadata.name,
            cidr=str(network),
            block_size=block_size,
            node_selector=spec.node_selector or "all()",
            namespace_selector=spec.namespace_selector or "",
            allowed_uses=tuple(spec.allowed_uses or ("Workload", "Tunnel")),
            automatic=(spec.assignment_mode or "Automatic") == "Automatic",
            enabled=not (spec.disabled or deleting or refused),
            ipip_mode=spec.ipip_mode or "Never",
            vxlan_mode=spec.vxlan_mode or "Never",
        )


def _member(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


class Store(Protocol):
    """Raises ``DatastoreError`` where the datastore cannot be reached, and as said at each method."""

    async def get(self, key: DocumentKey) -> Stored[Any] | None: ...

    async def create(self, key: DocumentKey, value: Document) -> Stored[Any]:
        """Raises ``ResourceAlreadyExists``."""

    async def update(self, stored: Stored[Any], value: Document) -> Stored[Any]:
        """Members of the stored document that are not known here stay.

        Raises ``UpdateConflict`` when it changed since, ``ResourceDoesNotExist`` when it is gone.
        """

    async def delete(self, stored: Stored[Any]) -> None:
        """Raises ``UpdateConflict`` when it changed since, ``ResourceDoesNotExist`` when it is gone."""

    def blocks(self, version: int = 0) -> AsyncIterator[Stored[Block]]:
        """All blocks of IP ``version`` (0: both) in key order; malformed ones are left out."""

    def affinities(self, host: str = "", *, version: int = 0, type: str = HOST) -> AsyncIterator[Stored[Affinity]]:
        """The affinities of ``host`` ("": of every host) in key order."""

    async def pools(self) -> list[Pool]:
        """All IPPools in name order, disabled ones too."""

    async def reservations(self) -> list[str]:
        """The CIDRs of all IPReservations."""

    async def node_labels(self, name: str) -> Mapping[str, str]:
        """Raises ``ResourceDoesNotExist`` when there is no such Node."""


def key_path(key: DocumentKey) -> str:
    """The datastore key of a document."""
    if isinstance(key, BlockKey):
        return f"{PREFIX}assignment/ipv{ip_version(key.cidr)}/block/{key.cidr.replace('/', '-')}"
    if isinstance(key, AffinityKey):
        return f"{PREFIX}{key.type}/{key.host}/ipv{ip_version(key.cidr)}/block/{key.cidr.replace('/', '-')}"
    if isinstance(key, HandleKey):
        return f"{PREFIX}handle/{key.handle_id}"
    return f"{PREFIX}config"


def parse_affinity_path(path: str) -> AffinityKey | None:
    """The inverse of ``key_path`` for affinities; None for any other key, one with a CIDR that is none among them."""
    parts = path.removeprefix(PREFIX).split("/")
    if len(parts) != 5 or parts[3] != "block" or parts[2] not in ("ipv4", "ipv6"):
        return None
    address, _, length = parts[4].rpartition("-")
    try:
        parse_network(f"{address}/{length}")
    except ValidationError:
        return None
    return AffinityKey(type=parts[0], host=parts[1], cidr=f"{address}/{length}")


def _decode(key: DocumentKey, raw: bytes) -> Document:
    if isinstance(key, BlockKey):
        return decode_block(raw, key.cidr)
    if isinstance(key, AffinityKey):
        return decode_affinity(raw, f"{key.owner} {key.cidr}")
    if isinstance(key, HandleKey):
        return decode_handle(raw, key.handle_id)
    return decode_config(raw)


def describe(key: DocumentKey) -> str:
    """How errors name a document."""
    if isinstance(key, BlockKey):
        return f"IPAMBlock({key.cidr})"
    if isinstance(key, AffinityKey):
        return f"BlockAffinity({key.host}, {key.cidr})"
    if isinstance(key, HandleKey):
        return f"IPAMHandle({key.handle_id})"
    return "IPAMConfig(default)"


@frozen
class KVStore:
    """IPAM's documents in the etcd layout (``/calico/ipam/v2/``), through ``client`` (``datastores.Client``)."""

    client: Any = field(repr=False)
    _left_out: LeftOut = field(factory=LeftOut, init=False, repr=False)

    def rejected(self) -> dict[str, str]:
        """Why each stored object that IPAM leaves out is left out, by its title, as of the last lists."""
        read = self.client.left_out.reasons(_POOLS, kind_prefix("IPReservation"))
        return {**read, **self._left_out.reasons()}

    def _skip(self, key: str, revision: int, title: str, error: Exception) -> None:
        """Say, once a revision, that something stored cannot be used."""
        if self._left_out.add(key, revision, title, str(error)):
            log.warning("Skipping a malformed object", name=title, reason=str(error))

    @property
    def _kv(self) -> KVEngine:
        return self.client.kv  # type: ignore[no-any-return]

    async def get(self, key: DocumentKey) -> Stored[Any] | None:
        kv, _ = await self._kv.get(key_path(key))
        return None if kv is None else Stored(key, _decode(key, kv.value), kv.mod_revision)

    async def create(self, key: DocumentKey, value: Document) -> Stored[Any]:
        path = key_path(key)
        result = await self._kv.txn([Compare(path, CompareTarget.VERSION, 0)], [Put(path, encode(value))])
        if not result.succeeded:
            raise ResourceAlreadyExists(describe(key))
        return Stored(key, value, result.revision)

    async def update(self, stored: Stored[Any], value: Document) -> Stored[Any]:
        path = key_path(stored.key)
        if stored.value.extra and not value.extra:
            value = evolve(value, extra=stored.value.extra)
        compare = Compare(path, CompareTarget.MOD_REVISION, stored.revision)
        result = await self._kv.txn([compare], [Put(path, encode(value))], [Get(path)])
        if not result.succeeded:
            raise _refused(stored.key, result.responses)
        return Stored(stored.key, value, result.revision)

    async def delete(self, stored: Stored[Any]) -> None:
        path = key_path(stored.key)
        compare = Compare(path, CompareTarget.MOD_REVISION, stored.revision)
        result = await self._kv.txn([compare], [Delete(path)], [Get(path)])
        if not result.succeeded:
            raise _refused(stored.key, result.responses)

    async def blocks(self, version: int = 0) -> AsyncIterator[Stored[Block]]:
        prefix = f"{PREFIX}assignment/" + (f"ipv{version}/" if version else "")
        bad = set()
        async for kv in self._range(prefix):
            address, _, length = kv.key.rpartition("/")[2].rpartition("-")
            cidr = f"{address}/{length}"
            try:
                parse_network(cidr)
                yield Stored(BlockKey(cidr), decode_block(kv.value, cidr), kv.mod_revision)
            except (MalformedDocument, ValidationError) as error:
                bad.add(kv.key)
                self._skip(kv.key, kv.mod_revision, describe(BlockKey(cidr)), error)
        self._left_out.listed(prefix, bad)

    async def affinities(
        self, host: str = "", *, version: int = 0, type: str = HOST
    ) -> AsyncIterator[Stored[Affinity]]:
        prefix = f"{PREFIX}{type}/" + (f"{host}/" + (f"ipv{version}/block/" if version else "") if host else "")
        bad = set()
        async for kv in self._range(prefix):
            key = parse_affinity_path(kv.key)
            if key is None or (version and ip_version(key.cidr) != version):
                continue
            try:
                yield Stored(key, decode_affinity(kv.value, f"{key.owner} {key.cidr}"), kv.mod_revision)
            except MalformedDocument as error:
                bad.add(kv.key)
                self._skip(kv.key, kv.mod_revision, describe(key), error)
        self._left_out.listed(prefix, bad)

    async def _range(self, prefix: str) -> AsyncIterator[KeyValue]:
        after = ""
        while True:
            page = await self._kv.range(prefix, start_after=after, limit=PAGE)
            for index, kv in enumerate(page.kvs):
                if index % SLICE == 0:
                    await anyio.lowlevel.checkpoint()
                yield kv
            if not page.more or not page.kvs:
                return
            after = page.kvs[-1].key

    async def pools(self) -> list[Pool]:
        pools, bad = [], set()
        for item in (await self.client.list("IPPool")).items:
            try:
                pools.append(Pool.from_resource(item))
            except ValidationError as error:
                name = item.metadata.name
                bad.add(_POOLS + name)
                self._skip(_POOLS + name, int(item.metadata.resource_version), f"IPPool({name})", error)
        self._left_out.listed(_POOLS, bad)
        return sorted(pools, key=lambda pool: pool.name)

    async def reservations(self) -> list[str]:
        cidrs = []
        for item in (await self.client.list("IPReservation")).items:
            for cidr in item.spec.reserved_cidrs or ():
                try:
                    cidrs.append(str(parse_network(cidr)))
                except ValidationError as error:
                    # What it means to reserve cannot be known: better no address than a reserved one.
                    raise IPAMError(f"IPReservation({item.metadata.name}): spec.reservedCIDRs: {error}") from None
        return cidrs

    async def node_labels(self, name: str) -> Mapping[str, str]:
        node = await self.client.get("Node", name)
        return node.metadata.labels or {}


def _refused(key: DocumentKey, responses: Sequence[KeyValue | None]) -> Exception:
    if responses and responses[0] is None:
        return ResourceDoesNotExist(describe(key))
    return UpdateConflict(describe(key))
