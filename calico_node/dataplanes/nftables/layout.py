"""The shape of our tables: families, mark bits, names, and chains as lists of hashed rules."""

from __future__ import annotations

import base64
import hashlib
from functools import cached_property

import attrs
from attrs import frozen

from calico_node.dataplanes.nftables.codec import (
    TYPE_INET_PROTOCOL,
    TYPE_INET_SERVICE,
    TYPE_IP6ADDR,
    TYPE_IPADDR,
    Hook,
    concatenated,
)
from calico_node.dataplanes.nftables.expressions import Expression, encode
from calico_node.model import PolicyKey

TABLE = "calico"
NAME_LIMIT = 255
SET_NAME_LIMIT = 31
HASH_PREFIX = "cali:"
HASH_LENGTH = 16

FROM_WORKLOAD_DISPATCH = "filter-cali-from-wl-dispatch"
TO_WORKLOAD_DISPATCH = "filter-cali-to-wl-dispatch"


@frozen
class Family:
    """``number`` NFPROTO_*; where the addresses stand in the network header and how long they are, in bytes."""

    number: int
    version: int
    address_length: int
    source_offset: int
    destination_offset: int
    address_type: int
    icmp_protocol: int

    @property
    def address_and_port_type(self) -> int:
        return concatenated(self.address_type, TYPE_INET_PROTOCOL, TYPE_INET_SERVICE)


IPV4 = Family(2, 4, 4, 12, 16, TYPE_IPADDR, 1)
IPV6 = Family(10, 6, 16, 8, 24, TYPE_IP6ADDR, 58)


@frozen
class Marks:
    """Packet mark bits, taken from the configured mask lowest first."""

    accept: int
    passed: int
    drop: int
    scratch0: int
    scratch1: int

    @classmethod
    def from_mask(cls, mask: int) -> Marks:
        """Raises ``ValueError`` when ``mask`` has fewer than five bits."""
        bits = [1 << position for position in range(32) if mask >> position & 1]
        if len(bits) < 5:
            raise ValueError(f"NftablesMarkMask {mask:#x} has {len(bits)} bits; five are needed")
        return cls(*bits[:5])


@frozen
class Rule:
    """``text`` says to a reader of ``nft list ruleset`` what the rule is for."""

    expressions: tuple[Expression, ...]
    text: str = ""

    @property
    def identity(self) -> bytes:
        return b"".join([encode(expression) for expression in self.expressions]) + b"\0" + self.text.encode()


@attrs.define(frozen=True, slots=False)
class Chain:
    """A chain as it should be.

    ``hashes`` has one entry per rule, each covering the chain's name and every rule up to it: two chains are equal
    exactly when their lists are, and equal up to a point when the lists are.
    """

    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        digest = hashlib.sha224(self.name.encode()).digest()
        hashes = []
        for rule in self.rules:
            digest = hashlib.sha224(digest + rule.identity).digest()
            hashes.append(base64.urlsafe_b64encode(digest).decode()[:HASH_LENGTH])
        return tuple(hashes)

    def comment(self, index: int) -> str:
        return f"{HASH_PREFIX}{self.hashes[index]}; {self.rules[index].text}".rstrip()


def hash_of_comment(comment: str) -> str:
    """The rule hash in a comment of ours, "" for any other rule."""
    if not comment.startswith(HASH_PREFIX):
        return ""
    return comment[len(HASH_PREFIX) :].partition(";")[0]


def limited_name(prefix: str, suffix: str, limit: int = NAME_LIMIT) -> str:
    """``prefix + suffix``, or a hash in the suffix's place where that is too long or could be mistaken for one."""
    name = prefix + suffix
    length = len(name.encode())
    if length < limit or (length == limit and not suffix.startswith("_")):
        return name
    digest = base64.urlsafe_b64encode(hashlib.sha256(suffix.encode()).digest()).decode()
    return (prefix + "_" + digest)[:limit]


_KIND_PREFIX = {
    "NetworkPolicy": "np",
    "GlobalNetworkPolicy": "gnp",
    "StagedNetworkPolicy": "snp",
    "StagedGlobalNetworkPolicy": "sgnp",
    "StagedKubernetesNetworkPolicy": "sknp",
    "KubernetesNetworkPolicy": "knp",
    "KubernetesClusterNetworkPolicy": "kcnp",
    "Profile": "pro",
}


def policy_id(key: PolicyKey) -> str:
    """``np/default/web``, ``gnp/deny-all``."""
    kind = _KIND_PREFIX.get(key.kind, key.kind)
    return "/".join(part for part in (kind, key.namespace, key.name) if part)


def policy_chain_name(key: PolicyKey, *, inbound: bool) -> str:
    return limited_name(f"filter-cali-{'pi' if inbound else 'po'}-", policy_id(key))


def profile_chain_name(name: str, *, inbound: bool) -> str:
    return limited_name(f"filter-cali-{'pri' if inbound else 'pro'}-", name)


def workload_chain_name(interface: str, *, inbound: bool) -> str:
    """``inbound``: towards the workload."""
    return f"filter-cali-{'tw' if inbound else 'fw'}-{interface}"


def set_name(family: Family, set_id: str) -> str:
    """``cali40s-5y5I3VdRZfDU01O--xXAPx2`` of ``s:5y5I3VdRZfDU01O--xXAPx2…``."""
    return f"cali{family.version}0{set_id}"[:SET_NAME_LIMIT].replace(":", "-")
