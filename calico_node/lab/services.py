"""Services: cluster IPs, and the table ``ip kube-proxy`` that a node needs to reach them.

The table is one transaction that replaces the former one: a verdict map from (address, protocol, port) to a chain per
service port, in which each endpoint takes its share of new connections by ``numgen random``, and masquerading for a
pod that reaches itself by way of its own Service.
"""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, cast

from attrs import field, frozen

from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables.expressions import (
    META_L4PROTO,
    NETWORK_HEADER,
    NFT_GOTO,
    TRANSPORT_HEADER,
    Cmp,
    Expression,
    Immediate,
    Lookup,
    Masquerade,
    Meta,
    Nat,
    Payload,
    Verdict,
)
from calico_node.errors import ValidationError
from calico_node.lab.spec import CLUSTER_NETWORK
from calico_node.linux.netlink import NETLINK_NETFILTER, NetlinkSocket

DNS_ADDRESS = "10.96.0.10"
TABLE = "kube-proxy"
_FAMILY_IP = socket.AF_INET
_RESERVED = 16
"""The first addresses are kept for Services that ask for them (the API server's .1, the name server's .10)."""
_PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
_NF_INET_PRE_ROUTING, _NF_INET_LOCAL_OUT, _NF_INET_POST_ROUTING = 0, 3, 4
_DSTNAT, _SRCNAT = -100, 100


@frozen
class Endpoint:
    address: str
    port: int


@frozen
class ServicePort:
    """``number`` is the Service's own port, each endpoint's is the resolved targetPort."""

    name: str
    protocol: str
    number: int
    endpoints: tuple[Endpoint, ...] = ()


@frozen
class Service:
    """``address`` is "" for a headless Service; ``hostnames`` are (hostname, address) of the pods behind it."""

    namespace: str
    name: str
    address: str = ""
    ports: tuple[ServicePort, ...] = ()
    hostnames: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def assign_addresses(wanted: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """A cluster IP for each Service of ``wanted`` (``ns/name`` -> the address it asks for, or "").

    A Service keeps what ``known`` says it has; a new one's address follows from its name, so that it is the same in
    every lab unless two names meet.  Raises ``ValidationError`` for an address outside 10.96.0.0/12 or taken twice.
    """
    taken: dict[str, str] = {}
    for key, address in wanted.items():
        if not address:
            continue
        if ":" in address or ipaddress.ip_address(address) not in CLUSTER_NETWORK:
            reason = f"is not in the lab's service network {CLUSTER_NETWORK}"
            raise ValidationError(reason, resource=f"Service({key})", field="spec.clusterIP", value=address)
        if address in taken:
            reason = f"is the cluster IP of Service({taken[address]}) too"
            raise ValidationError(reason, resource=f"Service({key})", field="spec.clusterIP", value=address)
        taken[address] = key
    result = {key: address for address, key in taken.items()}
    for key in wanted:
        address = known.get(key, "")
        if key not in result and address and address not in taken:
            taken[address] = key
            result[key] = address
    span = CLUSTER_NETWORK.num_addresses - _RESERVED - 1
    for key in sorted(wanted):
        if key in result:
            continue
        number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % span
        while (address := str(CLUSTER_NETWORK[_RESERVED + number])) in taken:
            number = (number + 1) % span
        taken[address] = key
        result[key] = address
    return result


@frozen
class _Numgen:
    """Load a random number below ``modulus``."""

    name: ClassVar[str] = "numgen"
    modulus: int = field(metadata={"attribute": 2, "kind": "u32"})
    type: int = field(default=1, metadata={"attribute": 3, "kind": "u32"})
    dreg: int = field(default=1, metadata={"attribute": 1, "kind": "u32"})


def _destination() -> list[Expression]:
    """Load destination address, protocol and port, each in 4 bytes, side by side."""
    return [
        Payload(NETWORK_HEADER, 16, 4, 1),
        Meta(META_L4PROTO, 9),
        Payload(TRANSPORT_HEADER, 2, 2, 10),
    ]


def _key(address: str, protocol: str, port: int) -> bytes:
    return socket.inet_aton(address) + struct.pack(">B3xH2x", _PROTOCOLS[protocol], port)


def _chain(service: Service, port: ServicePort) -> str:
    text = f"{service.key}/{port.protocol}/{port.number}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"svc-{digest}-{service.namespace}-{service.name}-{port.number}"[:100]


def _endpoint_rule(endpoint: Endpoint, of: int) -> list[Expression]:
    """Send one new connection in ``of`` to ``endpoint``."""
    chance = [cast(Expression, _Numgen(of)), Cmp(bytes(4))] if of > 1 else []
    return [
        *chance,
        Immediate(socket.inet_aton(endpoint.address), 1),
        Immediate(struct.pack(">H", endpoint.port), 2),
        Nat(1, _FAMILY_IP, min_address_reg=1, min_port_reg=2),
    ]


def table_messages(services: Iterable[Service]) -> list[bytes]:
    """The netlink batch that makes the table say exactly ``services``; Services without endpoints have no entry."""
    usable = [(service, port) for service in services if service.address for port in service.ports if port.endpoints]
    ids = itertools.count(100)

    def rule(chain: str, expressions: Sequence[Expression], comment: str = "") -> list[bytes]:
        return codec.new_rule(_FAMILY_IP, TABLE, chain, expressions, comment, lambda: next(ids))

    messages = [
        codec.new_table(_FAMILY_IP, TABLE),
        codec.delete_table(_FAMILY_IP, TABLE),
        codec.new_table(_FAMILY_IP, TABLE),
    ]
    for name, hook, priority in (
        ("prerouting", _NF_INET_PRE_ROUTING, _DSTNAT),
        ("output", _NF_INET_LOCAL_OUT, _DSTNAT),
        ("postrouting", _NF_INET_POST_ROUTING, _SRCNAT),
    ):
        messages.append(codec.new_chain(_FAMILY_IP, TABLE, name, codec.Hook("nat", hook, priority)))
    key_type = codec.concatenated(codec.TYPE_IPADDR, codec.TYPE_INET_PROTOCOL, codec.TYPE_INET_SERVICE)
    messages.append(codec.new_verdict_map(_FAMILY_IP, TABLE, "services", key_type, 12, set_id=1))
    pair_type = codec.concatenated(codec.TYPE_IPADDR, codec.TYPE_IPADDR)
    messages.append(codec.new_set(_FAMILY_IP, TABLE, "hairpin", pair_type, 8, set_id=2))
    for service, port in usable:
        chain = _chain(service, port)
        messages.append(codec.new_chain(_FAMILY_IP, TABLE, chain))
        count = len(port.endpoints)
        for index, endpoint in enumerate(port.endpoints):
            messages += rule(chain, _endpoint_rule(endpoint, count - index), service.key if not index else "")
    elements = [
        codec.verdict_element(
            _key(service.address, port.protocol, port.number), Verdict(NFT_GOTO, _chain(service, port))
        )
        for service, port in usable
    ]
    addresses = sorted({endpoint.address for _, port in usable for endpoint in port.endpoints})
    if elements:
        messages += codec.add_elements(_FAMILY_IP, TABLE, "services", elements)
        pairs = [codec.key_element(socket.inet_aton(address) * 2) for address in addresses]
        messages += codec.add_elements(_FAMILY_IP, TABLE, "hairpin", pairs)
    for chain in ("prerouting", "output"):
        messages += rule(chain, [*_destination(), Lookup("services", verdict_map=True)])
    hairpin: list[Expression] = [
        Payload(NETWORK_HEADER, 12, 4, 1),
        Payload(NETWORK_HEADER, 16, 4, 9),
        Lookup("hairpin"),
        Masquerade(),
    ]
    messages += rule("postrouting", hairpin, "a pod by its own Service")
    return messages


def write_table(netns: str, services: Iterable[Service]) -> None:
    """Replace the table in the network namespace ``netns``.  Raises ``NetlinkError``."""
    messages = codec.batch(table_messages(services))
    with NetlinkSocket(NETLINK_NETFILTER, netns=netns) as netlink:
        for error in netlink.request_now(messages, atomic=True, what="write table ip kube-proxy"):
            if error is not None:
                raise error
