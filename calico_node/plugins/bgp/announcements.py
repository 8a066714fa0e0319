"""What peers are told: announcements decided once per group of like peers, and each peer's way to that state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import TypeAlias

from attrs import define, field

from calico_node.plugins.bgp.packet import NLRI, Attributes, Context, announce, withdraw
from calico_node.plugins.bgp.policy import ExportTo, PolicyConfig, export_route
from calico_node.plugins.bgp.prefix import Prefix
from calico_node.plugins.bgp.rib import Origin, Table

_Exported: TypeAlias = tuple[tuple[int, Attributes, str], ...]  # path id, attributes, the peer it came from


@define(eq=False)
class _Group:
    """Peers that see the same announcements, and what those are."""

    to: ExportTo
    members: dict[str, Outbox] = field(factory=dict)
    out: dict[Prefix, _Exported] = field(factory=dict)


@define(eq=False)
class Outbox:
    """One established peer: what it has been told (None: to be told again) and what is still to be looked at.

    ``congested`` holds everything back; meanwhile only the latest state of each prefix counts.
    """

    name: str
    context: Context
    group: _Group
    feed: deque[Prefix] = field(factory=deque)
    pending: dict[Prefix, None] = field(factory=dict)
    sent: dict[Prefix, dict[int, Attributes | None]] = field(factory=dict)
    congested: bool = False
    refreshing: bool = False  # an EoRR message is owed (RFC 7313)
    ended: bool = False  # End-of-RIB was sent (RFC 4724)

    @property
    def idle(self) -> bool:
        """Whether the peer has been told everything."""
        return not self.feed and not self.pending


class Announcer:
    """Announcements of one table.  ``statics`` are the prefixes we originate."""

    def __init__(self, table: Table, statics: Container[Prefix]) -> None:
        self.policy = PolicyConfig()
        self._table = table
        self._statics = statics
        self._groups: dict[ExportTo, _Group] = {}
        self._outboxes: dict[str, Outbox] = {}

    @property
    def outboxes(self) -> Mapping[str, Outbox]:
        """The established peers by name."""
        return self._outboxes

    @property
    def busy(self) -> bool:
        """Whether some peer could be told something now."""
        return any(not outbox.idle and not outbox.congested for outbox in self._outboxes.values())

    def join(self, name: str, to: ExportTo, context: Context) -> None:
        """``name`` is established, or the rules towards it changed: compare everything with what it was told."""
        group = self._groups.get(to)
        if group is None:
            group = self._groups[to] = _Group(to)
        outbox = self._outboxes.get(name)
        if outbox is None:
            outbox = self._outboxes[name] = Outbox(name, context, group)
        elif outbox.group is not group:
            self._leave_group(outbox)
            outbox.group = group
        group.members[name] = outbox
        self._feed(outbox)

    def leave(self, name: str) -> None:
        """``name`` is no longer established."""
        outbox = self._outboxes.pop(name, None)
        if outbox is not None:
            self._leave_group(outbox)

    def refresh(self, name: str, *, enhanced: bool) -> None:
        """``name`` asked for everything again (RFC 2918)."""
        outbox = self._outboxes[name]
        outbox.refreshing = enhanced
        self._feed(outbox)
        outbox.sent = {prefix: dict.fromkeys(sent) for prefix, sent in outbox.sent.items()}

    def decided(self, prefix: Prefix) -> None:
        """The table has decided ``prefix`` anew."""
        for group in self._groups.values():
            new = self._exports(group, prefix)
            old = group.out.get(prefix)
            if new:
                group.out[prefix] = new
            elif old:
                del group.out[prefix]
            if new != (old or ()):
                for outbox in group.members.values():
                    outbox.pending[prefix] = None

    def step(self, outbox: Outbox, budget: int, send: Callable[[bytes], None]) -> int:
        """Tell one peer up to about ``budget`` prefixes; how many were looked at."""
        if outbox.congested:
            return 0
        group, done = outbox.group, 0
        while outbox.feed and done < budget:
            prefix = outbox.feed.popleft()
            if prefix not in group.out:
                exports = self._exports(group, prefix)
                if exports:
                    group.out[prefix] = exports
            if prefix in group.out or prefix in outbox.sent:
                outbox.pending[prefix] = None
            done += 1
        return done + _tell(outbox, max(budget - done, 1), send)

    def _feed(self, outbox: Outbox) -> None:
        outbox.feed = deque(self._table.selected)
        outbox.feed.extend(prefix for prefix in outbox.sent if prefix not in self._table.selected)

    def _leave_group(self, outbox: Outbox) -> None:
        outbox.group.members.pop(outbox.name, None)
        if not outbox.group.members:
            self._groups.pop(outbox.group.to, None)

    def _exports(self, group: _Group, prefix: Prefix) -> _Exported:
        """All paths with ADD-PATH, else the best one, as far as the rules let them out."""
        selection = self._table.selected.get(prefix)
        if selection is None:
            return ()
        paths = self._table.paths[prefix] if group.to.add_path else (selection.best,)
        found = []
        for path in paths:
            if path.origin is Origin.KERNEL and path.blackhole and prefix in self._statics:
                continue  # Felix's black hole for a block that we announce ourselves
            device = path.device or self._table.resolution(path).device
            attributes = export_route(self.policy, group.to, prefix, path, device)
            if attributes is not None:
                source = path.key.source if path.origin is Origin.BGP else ""
                found.append((path.id if group.to.add_path else 0, attributes, source))
        return tuple(found)


def _tell(outbox: Outbox, budget: int, send: Callable[[bytes], None]) -> int:
    """Send what differs from what the peer was told; never its own routes back."""
    announced: dict[Attributes, list[NLRI]] = {}
    withdrawn: list[NLRI] = []
    done = 0
    while outbox.pending and done < budget:
        prefix = next(iter(outbox.pending))
        del outbox.pending[prefix]
        exported = outbox.group.out.get(prefix, ())
        wanted = {number: attributes for number, attributes, source in exported if source != outbox.name}
        sent = outbox.sent.get(prefix, {})
        withdrawn.extend(NLRI(prefix, number) for number in sent if number not in wanted)
        for number, attributes in wanted.items():
            before = sent.get(number)
            if before is not attributes and before != attributes:
                announced.setdefault(attributes, []).append(NLRI(prefix, number))
        if wanted:
            outbox.sent[prefix] = dict(wanted)
        else:
            outbox.sent.pop(prefix, None)
        done += 1
    if withdrawn:
        for message in withdraw(withdrawn, outbox.context):
            send(message)
    for attributes, routes in announced.items():
        for message in announce(attributes, routes, outbox.context):
            send(message)
    return done
