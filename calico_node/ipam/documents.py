"""The stored form of IPAM's documents: blocks, affinities, handles and the configuration.

JSON as Calico writes it to etcd: compact, members in a fixed order, map keys sorted, ``&<>`` escaped.  Sequence
numbers are exact 64-bit integers (they start at Unix nanoseconds, beyond a double's 2**53).  Members that are not
known here are kept in ``extra`` and written back, last.

Source: Calico ``libcalico-go/lib/backend/model/{block,block_affinity,ipam_handle,ipam_config}.go``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias, TypeVar

import orjson
from attrs import field, frozen

from calico_node.addresses import parse_network
from calico_node.errors import IPAMError, ValidationError
from calico_node.ipam.blocks import SEQUENCE_MASK, Attribute, Block, MalformedDocument

PENDING = "pending"
CONFIRMED = "confirmed"
PENDING_DELETION = "pendingDeletion"

HOST = "host"
VIRTUAL = "virtual"
LOAD_BALANCER = "load-balancer"


M = TypeVar("M")


@frozen
class BlockKey:
    """``cidr`` is canonical text."""

    cidr: str


@frozen
class AffinityKey:
    """``host`` owns, or tries to own, block ``cidr``; ``type`` is ``host`` or ``virtual``."""

    host: str
    cidr: str
    type: str = HOST

    @property
    def owner(self) -> str:
        """As written in ``Block.affinity``."""
        return f"{self.type}:{self.host}"


@frozen
class HandleKey:
    handle_id: str


@frozen
class ConfigKey:
    """The one IPAM configuration."""


DocumentKey: TypeAlias = BlockKey | AffinityKey | HandleKey | ConfigKey


@frozen
class Affinity:
    """``state`` is pending, confirmed or pendingDeletion; "" counts as confirmed."""

    state: str = CONFIRMED
    deleted: bool = False
    extra: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    @property
    def confirmed(self) -> bool:
        return self.state in (CONFIRMED, "")


@frozen
class Handle:
    """How many addresses a handle holds in each block: an upper bound, never the truth."""

    blocks: Mapping[str, int] = field(factory=dict, hash=False)
    deleted: bool = False
    extra: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)


@frozen
class IPAMConfig:
    """Cluster-wide switches; the defaults are those of an absent configuration.

    ``strict_affinity``: a node takes addresses from its own blocks alone.  ``max_blocks_per_host`` 0: the limit of
    20 that always holds.  ``cooldown_seconds``: how long a released address is kept back.
    """

    strict_affinity: bool = False
    auto_allocate_blocks: bool = True
    max_blocks_per_host: int = 0
    kubevirt_persistence: str = "Enabled"
    cooldown_seconds: int = 0
    extra: Mapping[str, Any] = field(factory=dict, eq=False, repr=False)

    def validate(self) -> None:
        """Raises ``IPAMError`` for a combination that Calico refuses."""
        if not self.strict_affinity and not self.auto_allocate_blocks:
            raise IPAMError("Cannot disable 'StrictAffinity' and 'AutoAllocateBlocks' at the same time")
        if self.max_blocks_per_host > 0 and not self.strict_affinity:
            raise IPAMError("MaxBlocksPerHost requires StrictAffinity to be enabled")
        if self.max_blocks_per_host < 0 or not 0 <= self.cooldown_seconds <= 1200:
            raise IPAMError("MaxBlocksPerHost must not be negative and IPCooldownSeconds must be 0 to 1200")


_AFFINITY_MEMBERS = frozenset(("state", "deleted"))
_HANDLE_MEMBERS = frozenset(("block", "deleted"))
_CONFIG_MEMBERS = frozenset(
    (
        "auto_allocate_blocks",
        "maxBlocksPerHost",
        "strict_affinity",
        "kubeVirtVMAddressPersistence",
        "ipCooldownSeconds",
    )
)
_ATTRIBUTE_MEMBERS = frozenset(("handle_id", "secondary", "alternateOwnerAttrs", "releasedAt"))
_BLOCK_MEMBERS = frozenset(
    (
        "cidr",
        "affinity",
        "affinity_claim_time",
        "allocations",
        "unallocated",
        "attributes",
        "sequenceNumber",
        "sequenceNumberForAllocation",
        "deleted",
    )
)

Document: TypeAlias = Block | Affinity | Handle | IPAMConfig


def encode(document: Document) -> bytes:
    """The bytes stored for ``document``."""
    if isinstance(document, Block):
        data = _block_to_dict(document)
    elif isinstance(document, Affinity):
        data = {"state": document.state, "deleted": document.deleted}
    elif isinstance(document, Handle):
        data = {"block": dict(sorted(document.blocks.items())), "deleted": document.deleted}
    else:
        data = _config_to_dict(document)
    data.update(document.extra)
    raw = orjson.dumps(data)
    return raw.replace(b"&", rb"\u0026").replace(b"<", rb"\u003c").replace(b">", rb"\u003e")


def decode_block(raw: bytes, name: str = "") -> Block:
    """Raises ``MalformedDocument`` when the block is not consistent: nothing may be assigned from it then."""
    data = _load(raw, f"IPAM block {name}")
    try:
        return _block_from_dict(data)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        raise MalformedDocument(f"IPAM block {name or data.get('cidr')}: {error}") from None


def decode_affinity(raw: bytes, name: str = "") -> Affinity:
    """An empty value is an old form of a confirmed affinity."""
    if not raw:
        return Affinity(state="")
    data = _load(raw, f"block affinity {name}")
    return Affinity(
        state=str(data.get("state") or ""),
        deleted=bool(data.get("deleted")),
        extra=_rest(data, _AFFINITY_MEMBERS),
    )


def decode_handle(raw: bytes, name: str = "") -> Handle:
    data = _load(raw, f"IPAM handle {name}")
    blocks = data.get("block") or {}
    if not isinstance(blocks, dict) or not all(isinstance(count, int) for count in blocks.values()):
        raise MalformedDocument(f"IPAM handle {name}: 'block' must map block CIDRs to counts")
    return Handle(blocks=blocks, deleted=bool(data.get("deleted")), extra=_rest(data, _HANDLE_MEMBERS))


def decode_config(raw: bytes, name: str = "") -> IPAMConfig:
    """In a stored configuration an absent boolean means false (Calico leaves out false and 0)."""
    data = _load(raw, f"IPAM configuration {name}")
    try:
        return IPAMConfig(
            strict_affinity=bool(data.get("strict_affinity", False)),
            auto_allocate_blocks=bool(data.get("auto_allocate_blocks", False)),
            max_blocks_per_host=int(data.get("maxBlocksPerHost") or 0),
            kubevirt_persistence=str(data.get("kubeVirtVMAddressPersistence") or ""),
            cooldown_seconds=int(data.get("ipCooldownSeconds") or 0),
            extra=_rest(data, _CONFIG_MEMBERS),
        )
    except (TypeError, ValueError) as error:
        raise MalformedDocument(f"IPAM configuration: {error}") from None


def format_time(seconds: int) -> str:
    """RFC 3339, UTC, whole seconds."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> int:
    """Unix seconds of an RFC 3339 time.  Raises ``ValueError``."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def timestamp_attribute(now_ns: int) -> str:
    """The ``timestamp`` attribute's form: Go's UTC text, ``2026-08-01 10:03:11.123456789 +0000 UTC``."""
    seconds, fraction = divmod(now_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    digits = f"{fraction:09d}".rstrip("0")
    return f"{text}.{digits} +0000 UTC" if digits else f"{text} +0000 UTC"


def _rest(data: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in known}


def _load(raw: bytes, what: str) -> dict[str, Any]:
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise MalformedDocument(f"{what}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise MalformedDocument(f"{what}: not a JSON object")
    return data


def _config_to_dict(config: IPAMConfig) -> dict[str, Any]:
    members: dict[str, Any] = {
        "auto_allocate_blocks": config.auto_allocate_blocks,
        "maxBlocksPerHost": config.max_blocks_per_host,
        "strict_affinity": config.strict_affinity,
        "kubeVirtVMAddressPersistence": config.kubevirt_persistence,
        "ipCooldownSeconds": config.cooldown_seconds,
    }
    return {name: value for name, value in members.items() if value}


def _attribute_to_dict(attribute: Attribute) -> dict[str, Any]:
    data: dict[str, Any] = {}
    if attribute.handle_id is not None:
        data["handle_id"] = attribute.handle_id
    if attribute.secondary:
        data["secondary"] = dict(sorted(attribute.secondary.items()))
    if attribute.alternate:
        data["alternateOwnerAttrs"] = dict(sorted(attribute.alternate.items()))
    if attribute.released_at is not None:
        data["releasedAt"] = format_time(attribute.released_at)
    data.update(attribute.extra)
    return data


def _block_to_dict(block: Block) -> dict[str, Any]:
    data: dict[str, Any] = {"cidr": block.cidr, "affinity": block.affinity}
    if block.claim_time is not None:
        data["affinity_claim_time"] = format_time(block.claim_time)
    data["allocations"] = block.allocations
    data["unallocated"] = block.unallocated
    data["attributes"] = [_attribute_to_dict(attribute) for attribute in block.attributes]
    data["sequenceNumber"] = block.sequence_number
    # Go sorts map keys as text: "10" stands before "2".
    data["sequenceNumberForAllocation"] = dict(sorted((str(o), n) for o, n in block.sequences.items()))
    data["deleted"] = block.deleted
    return data


def _attribute_from_dict(data: Any) -> Attribute:
    data = _of(dict, data, "attribute")
    released = data.get("releasedAt")
    handle = data.get("handle_id")
    return Attribute(
        handle_id=None if handle is None else _of(str, handle, "handle_id"),
        secondary=_texts(data.get("secondary"), "secondary"),
        alternate=_texts(data.get("alternateOwnerAttrs"), "alternateOwnerAttrs"),
        released_at=parse_time(_of(str, released, "releasedAt")) if released else None,
        extra=_rest(data, _ATTRIBUTE_MEMBERS),
    )


def _of(kind: type[M], value: Any, member: str) -> M:
    if not isinstance(value, kind):
        raise ValueError(f"{member} {value!r} is not a {kind.__name__}")
    return value


def _texts(value: Any, member: str) -> dict[str, str]:
    return {key: _of(str, text, f"{member}.{key}") for key, text in _of(dict, value or {}, member).items()}


def _block_from_dict(data: Mapping[str, Any]) -> Block:
    network = parse_network(_of(str, data["cidr"], "cidr"), strict=True)
    allocations = tuple(_of(list, data.get("allocations") or [], "allocations"))
    unallocated = tuple(_of(list, data.get("unallocated") or [], "unallocated"))
    attributes = tuple(_attribute_from_dict(item) for item in _of(list, data.get("attributes") or [], "attributes"))
    if len(allocations) != network.num_addresses:
        raise ValueError(f"{len(allocations)} allocations in a block of {network.num_addresses} addresses")
    for ordinal, index in enumerate(allocations):
        if index is not None and not (type(index) is int and 0 <= index < len(attributes)):
            raise ValueError(f"allocation {ordinal} points to attribute {index!r} of {len(attributes)}")
    seen: set[int] = set()
    for ordinal in unallocated:
        if type(ordinal) is not int or not 0 <= ordinal < len(allocations) or ordinal in seen:
            raise ValueError(f"unallocated holds {ordinal!r}, which is no ordinal or stands there twice")
        if allocations[ordinal] is not None:
            raise ValueError(f"ordinal {ordinal} is both allocated and unallocated")
        seen.add(ordinal)
    claimed = data.get("affinity_claim_time")
    sequences = _of(dict, data.get("sequenceNumberForAllocation") or {}, "sequenceNumberForAllocation")
    sequence = data.get("sequenceNumber") or 0
    if type(sequence) is not int or not 0 <= sequence <= SEQUENCE_MASK:
        raise ValueError(f"sequenceNumber {sequence!r} is not an unsigned 64-bit integer")
    return Block(
        cidr=str(network),
        affinity=_of(str, data.get("affinity") or "", "affinity") or None,
        claim_time=parse_time(_of(str, claimed, "affinity_claim_time")) if claimed else None,
        allocations=allocations,
        unallocated=unallocated,
        attributes=attributes,
        sequence_number=sequence,
        sequences={int(ordinal): int(number) for ordinal, number in sequences.items()},
        deleted=bool(data.get("deleted")),
        extra=_rest(data, _BLOCK_MEMBERS),
    )
