"""Probes and expectations: who is asked to reach whom, what came of it, and whether that was expected.

A probes file is a YAML or JSON list; each item has ``from`` (``ns/pod``, ``host:NAME`` or ``node:NAME``), ``to`` (the
same, ``service:ns/name`` or an address), ``protocol`` (TCP when left out; UDP, SCTP, ICMP) and ``port``, or for ICMP
``type`` and ``code`` (8 and 0 when left out).  ``from`` and ``to`` may be lists: the item then stands for every pair,
in order, without those from a place to itself.  An expectations file is such a list in which every item also says
``allowed``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from typing import Any

from attrs import evolve, field, frozen

from calico_node.errors import ValidationError
from calico_node.lab.spec import Listen
from calico_node.resources import Document, load_documents

PROTOCOLS = ("TCP", "UDP", "SCTP", "ICMP")
DNS_POD = "kube-system/kube-dns"


@frozen
class Probe:
    """One question.  ``port`` is None for ICMP, ``icmp_type`` and ``icmp_code`` None for the others."""

    source: str
    target: str
    protocol: str = "TCP"
    port: int | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    origin: str = field(default="", eq=False)
    """Where it stands, for error messages."""

    @property
    def service(self) -> str:
        """How the protocol and port read in a matrix: ``TCP 80``, ``ICMP 8/0``."""
        if self.protocol == "ICMP":
            return f"ICMP {self.icmp_type}/{self.icmp_code}"
        return f"{self.protocol} {self.port}"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target} {self.service}"


def probe_to_json(probe: Probe) -> dict[str, Any]:
    """For the way to the supervisor and back."""
    return {
        "from": probe.source,
        "to": probe.target,
        "protocol": probe.protocol,
        "port": probe.port,
        "type": probe.icmp_type,
        "code": probe.icmp_code,
        "origin": probe.origin,
    }


def probe_from_json(item: Mapping[str, Any]) -> Probe:
    """The inverse of ``probe_to_json``."""
    return Probe(
        item["from"], item["to"], item["protocol"], item["port"], item["type"], item["code"], item.get("origin", "")
    )


@frozen
class Result:
    """The answer: ``ip`` is the address that was tried, ``error`` why it was not reached ("" when it was)."""

    probe: Probe
    ip: str
    allowed: bool
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        probe = self.probe
        what = (
            {"type": probe.icmp_type, "code": probe.icmp_code} if probe.protocol == "ICMP" else {"port": probe.port}
        )
        head = {"from": probe.source, "to": probe.target, "ip": self.ip, "protocol": probe.protocol}
        return {**head, **what, "allowed": self.allowed, "error": self.error}


@frozen
class Expectation:
    probe: Probe
    allowed: bool


@frozen
class Place:
    """Something that sends and answers: a pod (``ns/name``), ``host:NAME`` or ``node:NAME``."""

    name: str
    ip: str
    node: str = ""
    listen: tuple[Listen, ...] = ()
    ips: tuple[str, ...] = field(default=())

    @property
    def is_node(self) -> bool:
        return self.name.startswith("node:")


def parse_probes(text: str, origin: str) -> list[Probe]:
    """A probes file.  Raises ``ValidationError`` with item, field, value and reason."""
    return [probe for item in _items(text, origin) for probe in _item(item, answers=False)]


def parse_expectations(text: str, origin: str) -> list[Expectation]:
    """An expectations file.  Raises ``ValidationError`` with item, field, value and reason."""
    found = []
    for item in _items(text, origin):
        allowed = item.data.get("allowed")
        if not isinstance(allowed, bool):
            raise item.error("true or false is required", "allowed", allowed)
        found += [Expectation(probe, allowed) for probe in _item(item, answers=True)]
    return found


@frozen
class _Item:
    data: Mapping[str, Any]
    document: Document
    index: int

    def origin(self, name: str = "") -> str:
        line = self.document.line_of(f"[{self.index}].{name}" if name else f"[{self.index}]")
        return f"{self.document.source}, line {line}"

    def error(self, reason: str, name: str, value: object) -> ValidationError:
        return ValidationError(
            reason, resource=f"item {self.index + 1}", field=name, value=value, origin=self.origin(name)
        )


def _items(text: str, origin: str) -> list[_Item]:
    documents = load_documents(text, origin)
    if len(documents) > 1:
        raise ValidationError("must be one list, this is a second document", origin=documents[1].origin())
    found = []
    for document in documents:
        if not isinstance(document.data, list):
            raise ValidationError("must be a list of probes", origin=document.origin())
        for index, data in enumerate(document.data):
            item = _Item(data, document, index)
            if not isinstance(data, Mapping):
                raise item.error("must be a map", "", data)
            found.append(item)
    return found


def _item(item: _Item, *, answers: bool) -> list[Probe]:
    known = ["from", "to", "protocol", "port", "type", "code", "allowed"]
    if not answers:
        # Answers that a list carries anyway (an earlier run's output) are not asked for, and do no harm.
        known += ["ip", "error"]
    for name in item.data:
        if name not in known:
            raise item.error(f"unknown field; known are {', '.join(known)}", str(name), item.data[name])
    protocol = item.data.get("protocol", "TCP")
    if not isinstance(protocol, str) or protocol.upper() not in PROTOCOLS:
        raise item.error(f"must be one of {', '.join(PROTOCOLS)}", "protocol", protocol)
    protocol = protocol.upper()
    port = icmp_type = icmp_code = None
    if protocol == "ICMP":
        if item.data.get("port") is not None:
            raise item.error("ICMP has no ports; give type and code", "port", item.data["port"])
        icmp_type, icmp_code = _number(item, "type", 0, 255, 8), _number(item, "code", 0, 255, 0)
    else:
        for name in ("type", "code"):
            if item.data.get(name) is not None:
                raise item.error("only ICMP has it", name, item.data[name])
        port = _number(item, "port", 1, 65535, None)
    sources, targets = _names(item, "from"), _names(item, "to")
    for source in sources:
        if source.startswith("service:") or _is_address(source):
            raise item.error("must be ns/pod, host:NAME or node:NAME", "from", source)
    several = len(sources) > 1 or len(targets) > 1
    return [
        Probe(source, target, protocol, port, icmp_type, icmp_code, f"{item.origin()}: item {item.index + 1}")
        for source in sources
        for target in targets
        if not (several and source == target)
    ]


def _number(item: _Item, name: str, low: int, high: int, default: int | None) -> int:
    value = item.data.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise item.error(f"must be a number from {low} to {high}", name, value)
    return value


def _names(item: _Item, name: str) -> list[str]:
    value = item.data.get(name)
    values: list[Any] = value if isinstance(value, list) and value else [value]
    for text in values:
        if not isinstance(text, str) or not _is_name(text):
            raise item.error(
                "must be ns/pod, host:NAME or node:NAME"
                + (", service:ns/name or an address" if name == "to" else ""),
                name,
                text,
            )
    return values


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_name(text: str) -> bool:
    if text.startswith(("host:", "node:")):
        return len(text) > 5 and "/" not in text
    namespace, slash, name = text.removeprefix("service:").partition("/")
    return _is_address(text) or bool(namespace and slash and name and "/" not in name)


def default_probes(places: Iterable[Place]) -> list[Probe]:
    """Every pod and host to every declared port of every pod, host and node, but not to itself.

    The lab's own name server is asked, and asks nobody.
    """
    everything = sorted(places, key=_rank)
    sources = [place for place in everything if not place.is_node and place.name != DNS_POD]
    return [
        Probe(source.name, target.name, listen.protocol, listen.port)
        for source in sources
        for target in everything
        if target.name != source.name
        for listen in target.listen
    ]


def _rank(place: Place) -> tuple[int, str]:
    if place.name == DNS_POD:
        return (1, place.name)
    return (2 if place.name.startswith("host:") else 3 if place.is_node else 0, place.name)


@frozen
class Difference:
    """An expectation that did not hold."""

    result: Result
    expected: bool

    def __str__(self) -> str:
        was = "allowed" if self.result.allowed else f"denied ({self.result.error})"
        return f"{self.result.probe}: expected {'allowed' if self.expected else 'denied'}, was {was}"


def differences(results: Iterable[Result], expectations: Iterable[Expectation]) -> list[Difference]:
    """Every expectation whose probe came out otherwise, in the order of the expectations."""
    by_probe = {result.probe: result for result in results}
    wrong = []
    for expectation in expectations:
        result = by_probe.get(expectation.probe)
        if result is None:
            result = Result(expectation.probe, "", False, "was not probed")
            wrong.append(Difference(result, expectation.allowed))
        elif result.allowed != expectation.allowed:
            wrong.append(Difference(result, expectation.allowed))
    return wrong


def renamed(probe: Probe, names: Mapping[str, str]) -> Probe:
    """``probe`` with source and target replaced where ``names`` knows them."""
    return evolve(probe, source=names.get(probe.source, probe.source), target=names.get(probe.target, probe.target))
