"""Rules of the v1 API as rules of v3.  Pure.  Every function raises ``ValidationError``."""

from __future__ import annotations

from typing import Any

from calico_node.addresses import canonical_cidr
from calico_node.calicoctl.convert.names import selector
from calico_node.calicoctl.convert.reader import Reader
from calico_node.errors import ValidationError

_ACTIONS = {"": "Allow", "allow": "Allow", "deny": "Deny", "log": "Log", "pass": "Pass", "next-tier": "Pass"}
_PROTOCOLS = {name.lower(): name for name in ("TCP", "UDP", "ICMP", "ICMPv6", "SCTP", "UDPLite")}  # v3 spells them so
_NEGATED = {
    "!protocol": "notProtocol", "!icmp": "notICMP", "!net": "notNet", "!nets": "notNets", "!tag": "notTag",
    "!selector": "notSelector", "!ports": "notPorts",
}  # fmt: skip
"""The spelling of the first releases."""


def rules(reader: Reader, name: str) -> list[dict[str, Any]]:
    return [_rule(_modern(rule)) for rule in reader.objects(name)]


def protocol(reader: Reader, name: str) -> Any:
    """A name as v3 spells it; a number stays."""
    value = reader.data.get(name)
    return _PROTOCOLS.get(value.lower(), value) if isinstance(value, str) else value


def _modern(reader: Reader) -> Reader:
    for old, new in _NEGATED.items():
        if old in reader.data and new in reader.data:
            raise ValidationError(f"says the same as {new}", field=reader.at(old))
    return Reader({_NEGATED.get(name, name): value for name, value in reader.data.items()}, reader.path)


def _rule(reader: Reader) -> dict[str, Any]:
    reader.allow(
        "action", "ipVersion", "protocol", "icmp", "notProtocol", "notICMP", "source", "destination"
    )  # fmt: skip
    action = reader.text("action")
    if action.lower() not in _ACTIONS:
        raise ValidationError("must be allow, deny, log or pass", field=reader.at("action"), value=action)
    rule: dict[str, Any] = {
        "action": _ACTIONS[action.lower()],
        "ipVersion": reader.data.get("ipVersion"),
        "protocol": protocol(reader, "protocol"),
        "icmp": reader.data.get("icmp"),
        "notProtocol": protocol(reader, "notProtocol"),
        "notICMP": reader.data.get("notICMP"),
        "source": _entity(_modern(reader.within("source"))),
        "destination": _entity(_modern(reader.within("destination"))),
    }
    return {name: value for name, value in rule.items() if value not in (None, {})}


def _entity(reader: Reader) -> dict[str, Any]:
    reader.allow(
        "net", "nets", "tag", "selector", "ports", "notNet", "notNets", "notTag", "notSelector", "notPorts"
    )  # fmt: skip
    entity: dict[str, Any] = {
        "nets": _nets(reader, "net", "nets"),
        "selector": _selector(reader, "selector", "tag"),
        "ports": reader.items("ports"),
        "notNets": _nets(reader, "notNet", "notNets"),
        "notSelector": _selector(reader, "notSelector", "notTag"),
        "notPorts": reader.items("notPorts"),
    }
    return {name: value for name, value in entity.items() if value}


def _nets(reader: Reader, one: str, many: str) -> list[str]:
    """Both members as one list of masked CIDRs."""
    found = [(one, reader.text(one))] if reader.text(one) else []
    found += [(f"{many}[{index}]", text) for index, text in enumerate(reader.texts(many))]
    nets = []
    for name, text in found:
        try:
            nets.append(canonical_cidr(text))
        except ValidationError as error:
            raise ValidationError(error.reason, field=reader.at(name), value=text) from None
    return nets


def _selector(reader: Reader, name: str, tag_name: str) -> str:
    """A tag is a label without a value in v3."""
    text, tag = selector(reader.text(name)), reader.text(tag_name)
    if not tag:
        return text
    return f"({text}) && {tag} == ''" if text else f"{tag} == ''"
