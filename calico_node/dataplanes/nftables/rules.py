"""DataplaneRule -> kernel rules.

One policy rule is one kernel rule, but where a side has alternatives of different shape (numeric ports and named
ones, or several named ones): then each alternative sets a scratch mark bit, and the rule itself asks for the bits.
"""

from __future__ import annotations

from attrs import frozen

from calico_node.addresses import IPNetwork
from calico_node.dataplanes.contract import DataplaneRule
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables import matches as m
from calico_node.dataplanes.nftables.config import RenderConfig
from calico_node.dataplanes.nftables.layout import Family, Rule, set_name
from calico_node.errors import ValidationError
from calico_node.model import PolicyKey, Port

LOG_GROUP = 51729
"""The NFLOG group of Log rules, one that no other program is likely to read."""
LOG_SNAPLEN = 80
_LOG_PREFIX_LIMIT = 127
_PORT_PROTOCOLS = frozenset({6, 17, 132, 136})


class RenderError(Exception):
    """A rule that cannot be expressed; its text says what in it."""


class _NeverMatches(Exception):
    """The rule has no meaning in this family: leave it out."""


@frozen
class RuleOrigin:
    """Where a rule comes from, for log prefixes and comments."""

    tier: str = ""
    key: PolicyKey | None = None
    profile: str = ""

    @property
    def kind(self) -> str:
        return self.key.kind if self.key else "Profile"

    @property
    def name(self) -> str:
        return self.key.name if self.key else self.profile

    @property
    def path(self) -> str:
        return "/".join(part for part in (self.key.namespace if self.key else "", self.name) if part)


def referenced_sets(rule: DataplaneRule) -> frozenset[str]:
    """Ids of all IP sets the rule looks up."""
    return frozenset().union(
        rule.src_named_port_ip_set_ids,
        rule.not_src_named_port_ip_set_ids,
        rule.src_ip_set_ids,
        rule.not_src_ip_set_ids,
        rule.dst_named_port_ip_set_ids,
        rule.not_dst_named_port_ip_set_ids,
        rule.dst_ip_set_ids,
        rule.not_dst_ip_set_ids,
        rule.dst_ip_port_set_ids,
    )


def render_rule(family: Family, config: RenderConfig, rule: DataplaneRule, origin: RuleOrigin) -> list[Rule]:
    """The kernel rules of one policy rule in one family; none where it cannot match there.

    Raises ``RenderError`` for a rule that says something impossible; the caller closes the chain.
    """
    action = _action(config, rule.action, origin)
    try:
        if rule.ip_version not in (None, family.version):
            return []
        protocol = _protocol_matches(family, rule)
        matches = _matches(family, rule)
        blocks, marks, ports = _port_blocks(family, config, rule)
    except _NeverMatches:
        return []
    except (ValidationError, ValueError) as error:
        raise RenderError(str(error)) from None
    return [*blocks, Rule((*marks, *protocol, *ports, *matches, *action))]


def _action(config: RenderConfig, action: str, origin: RuleOrigin) -> m.Expressions:
    marks = config.marks
    if action == "allow":
        return (e.Counter(), *m.mark_set(marks.accept), e.Verdict(e.NFT_RETURN))
    if action in ("next-tier", "pass"):
        return (e.Counter(), *m.mark_set(marks.passed), e.Verdict(e.NFT_RETURN))
    if action == "deny":
        return m.deny(config)
    if action == "log":
        log = e.Log(log_prefix(config.log_prefix, origin), LOG_GROUP, LOG_SNAPLEN)
        if config.log_rate is None:
            return (e.Counter(), log)
        rate, unit = config.log_rate
        return (e.Counter(), e.Limit(rate, unit, config.log_burst), log)
    raise RenderError(f"unknown action {action!r}")


def log_prefix(template: str, origin: RuleOrigin) -> str:
    """``%t`` the tier, ``%k`` the kind, ``%n`` the name, ``%p`` namespace/name; ": " is appended."""
    values = {"t": origin.tier or "default", "k": origin.kind, "n": origin.name, "p": origin.path}
    parts = template.split("%")
    text = parts[0] + "".join(values[part[0]] + part[1:] if part[:1] in values else "%" + part for part in parts[1:])
    return text.encode()[: _LOG_PREFIX_LIMIT - 2].decode(errors="ignore") + ": "


def protocol_number(protocol: str | int) -> int:
    """Raises ``RenderError`` for a name that is none."""
    if isinstance(protocol, int):
        number = protocol
    elif protocol.lower() in m.PROTOCOLS:
        return m.PROTOCOLS[protocol.lower()]
    elif protocol.isdigit():
        number = int(protocol)
    else:
        raise RenderError(f"unknown protocol {protocol!r}")
    if not 0 <= number <= 255:
        raise RenderError(f"protocol {number} is not in 0..255")
    return number


def _matches(family: Family, rule: DataplaneRule) -> m.Expressions:
    found: list[e.Expression] = []
    for source, wanted, unwanted in (
        (True, rule.src_nets, rule.not_src_nets),
        (False, rule.dst_nets, rule.not_dst_nets),
    ):
        found += _net_matches(family, wanted, unwanted, source=source)
    for source, negated, ids in (
        (True, False, rule.src_ip_set_ids),
        (True, True, rule.not_src_ip_set_ids),
        (False, False, rule.dst_ip_set_ids),
        (False, True, rule.not_dst_ip_set_ids),
    ):
        for set_id in ids:
            found += m.in_set(family, set_name(family, set_id), source=source, negated=negated)
    for source, negated, ids in (
        (False, False, rule.dst_ip_port_set_ids),
        (True, True, rule.not_src_named_port_ip_set_ids),
        (False, True, rule.not_dst_named_port_ip_set_ids),
    ):
        for set_id in ids:
            found += m.in_address_and_port_set(family, set_name(family, set_id), source=source, negated=negated)
    for source, unwanted_ports in ((True, rule.not_src_ports), (False, rule.not_dst_ports)):
        if unwanted_ports:
            found += m.ports(_numeric(rule, unwanted_ports), source=source, negated=True)
    return tuple(found)


def _protocol_matches(family: Family, rule: DataplaneRule) -> list[e.Expression]:
    found: list[e.Expression] = []
    has_icmp = rule.icmp_type is not None or rule.not_icmp_type is not None
    number = None
    if rule.protocol is not None:
        number = protocol_number(rule.protocol)
        if number in (1, 58) and number != family.icmp_protocol:
            raise _NeverMatches
    elif has_icmp:
        number = family.icmp_protocol
    if has_icmp and number != family.icmp_protocol:
        raise RenderError(f"an ICMP type needs protocol icmp or icmpv6, not {rule.protocol!r}")
    if number is not None:
        found += m.protocol(number)
    if rule.not_protocol is not None:
        found += m.protocol(protocol_number(rule.not_protocol), negated=True)
    for type_, code, negated in (
        (rule.icmp_type, rule.icmp_code, False),
        (rule.not_icmp_type, rule.not_icmp_code, True),
    ):
        if type_ is None:
            if code is not None:
                raise RenderError("an ICMP code without a type")
            continue
        if not 0 <= type_ <= 254 or not 0 <= (code or 0) <= 255:
            raise RenderError(f"ICMP type {type_} code {code} out of range")
        found += m.icmp(type_, code, negated=negated)
    return found


def _net_matches(
    family: Family, wanted: tuple[str, ...], unwanted: tuple[str, ...], *, source: bool
) -> list[e.Expression]:
    found: list[e.Expression] = []
    if wanted:
        networks = m.collapse(wanted, family)
        if not networks:
            raise _NeverMatches
        if not _is_everything(networks):
            found += m.nets(family, networks, source=source)
    if unwanted:
        networks = m.collapse(unwanted, family)
        if _is_everything(networks):
            raise _NeverMatches
        if networks:
            found += m.nets(family, networks, source=source, negated=True)
    return found


def _is_everything(networks: list[IPNetwork]) -> bool:
    return bool(networks) and networks[0].prefixlen == 0


def _numeric(rule: DataplaneRule, ports: tuple[Port, ...]) -> list[tuple[int, int]]:
    number = None if rule.protocol is None else protocol_number(rule.protocol)
    if number not in _PORT_PROTOCOLS:
        raise RenderError(f"ports need protocol tcp, udp or sctp, not {rule.protocol!r}")
    for port in ports:
        if port.name or not 0 <= port.low <= (port.high or port.low) <= 65535:
            raise RenderError(f"port {port.name or f'{port.low}:{port.high}'!r} is no port number or range")
    return m.merge_ports(ports)


def _port_blocks(
    family: Family, config: RenderConfig, rule: DataplaneRule
) -> tuple[list[Rule], m.Expressions, m.Expressions]:
    """Rules that come before the rule itself, the marks it then asks for, and the ports it asks for directly."""
    blocks: list[Rule] = []
    asked: list[e.Expression] = []
    bits = 0
    for source, scratch, numeric, named in (
        (True, config.marks.scratch0, rule.src_ports, rule.src_named_port_ip_set_ids),
        (False, config.marks.scratch1, rule.dst_ports, rule.dst_named_port_ip_set_ids),
    ):
        alternatives: list[m.Expressions] = []
        if numeric:
            alternatives.append(m.ports(_numeric(rule, numeric), source=source))
        for set_id in named:
            alternatives.append(m.in_address_and_port_set(family, set_name(family, set_id), source=source))
        if len(alternatives) == 1:
            asked += alternatives[0]
            continue
        side = "source" if source else "destination"
        for index, alternative in enumerate(alternatives):
            bits |= scratch
            protocol = m.protocol(protocol_number(rule.protocol or "")) if numeric and index == 0 else ()
            text = f"{side} port, alternative {index + 1}"
            blocks.append(Rule((*protocol, *alternative, *m.mark_set(scratch)), text))
    if blocks:
        blocks.insert(0, Rule(m.mark_set(0, clear=bits)))
    return blocks, m.mark_is(bits) if bits else (), tuple(asked)
