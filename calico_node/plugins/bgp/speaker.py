"""One address family's BGP speaker: sessions, table, policy and announcements wired together, without I/O.

Input only marks work; ``step`` does a bounded slice of it.  Output is drained with ``take_commands`` (what sessions
want of their connections) and ``take_routes`` (what the kernel must learn).
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from attrs import define, evolve, field, frozen

from calico_node.dataplanes.contract import KernelView, Route
from calico_node.plugins.bgp.announcements import Announcer, Outbox
from calico_node.plugins.bgp.forwarding import Forwarder, Hole
from calico_node.plugins.bgp.kernel import KernelRoutes, local_addresses
from calico_node.plugins.bgp.packet import (
    LLGR_STALE,
    NLRI,
    NO_LLGR,
    Attributes,
    Cease,
    Refresh,
    RouteRefresh,
    Update,
    encode,
    end_of_rib,
)
from calico_node.plugins.bgp.peers import PeerConfig
from calico_node.plugins.bgp.policy import (
    ExportTo,
    Filter,
    PolicyConfig,
    add_communities,
    import_route,
)
from calico_node.plugins.bgp.prefix import Prefix, address_to_number, is_routable, parse_prefix
from calico_node.plugins.bgp.rib import PREFERENCE, Origin, Path, PathKey, Table
from calico_node.plugins.bgp.session import (
    Close,
    Connect,
    Down,
    Negotiated,
    Received,
    Send,
    Session,
    SessionConfig,
    State,
    Up,
)

RECOVERY_TIME = 120.0

Wire: TypeAlias = Connect | Send | Close


@frozen
class SpeakerConfig:
    """All a speaker is told.  ``blackholes`` are the prefixes we originate; ``ignored_interfaces`` add to those whose
    addresses are not connected routes."""

    router_id: int
    peers: tuple[PeerConfig, ...] = ()
    policy: PolicyConfig = field(factory=PolicyConfig)
    filters: Mapping[str, Filter] = field(factory=dict)
    blackholes: frozenset[Prefix] = frozenset()
    ignored_interfaces: tuple[str, ...] = ()


@define(eq=False)
class _Peer:
    config: PeerConfig
    session: Session
    filters: tuple[Filter, ...] = ()
    negotiated: Negotiated | None = None
    local_address: str = ""
    received: dict[NLRI, tuple[Attributes, int]] = field(factory=dict)  # attributes as received, generation
    generation: int = 0
    peer_id: int = 0
    stale_deadline: float = float("inf")
    long_lived: int = 0  # seconds that stale routes stay after the restart time, as a last resort (RFC 9494)
    last_resort: bool = False
    waiting: bool = False  # our restart waits for this peer's End-of-RIB
    addresses_by_connection: dict[int, str] = field(factory=dict)


class Speaker:
    """``now`` arguments are seconds of one monotonic clock; ``random`` returns 0..1."""

    def __init__(
        self,
        version: int,
        random: Callable[[], float],
        now: float = 0.0,
        *,
        connect_delay: float = 2.0,
        recovery_time: float = RECOVERY_TIME,
    ) -> None:
        self.version = version
        self.table = Table(version)
        self.faults: dict[str, tuple[int, str]] = {}
        """By peer name: UPDATEs with malformed attributes, answered as RFC 7606 says, and what the last one had."""
        self._random = random
        self._connect_delay = connect_delay
        self._config: SpeakerConfig | None = None
        self._peers: dict[str, _Peer] = {}
        self._kernel_routes = KernelRoutes(version)
        self._connections = itertools.count(1)
        self._kernel: dict[Prefix, dict[PathKey, Path]] = {}
        self._statics: dict[Prefix, Path] = {}
        self._announcer = Announcer(self.table, self._statics)
        self._forwarder = Forwarder(self.table)
        self._view: KernelView | None = None
        self._commands: list[tuple[str, Wire]] = []
        self._purges: deque[tuple[_Peer, deque[NLRI], int]] = deque()
        self._imports: deque[tuple[_Peer, deque[NLRI]]] = deque()
        self._rescans: deque[tuple[deque[Prefix], tuple[Prefix, ...] | None]] = deque()
        self._recovering = False
        self._recovery_deadline = now + recovery_time

    # --- configuration

    def configure(self, config: SpeakerConfig, now: float) -> None:
        """Bring sessions and policy to ``config``; what did not change is left alone."""
        old, self._config = self._config, config
        self._announcer.policy = self._forwarder.policy = config.policy
        self._set_statics(config)
        if old is not None and (old.router_id != config.router_id):
            for name in list(self._peers):
                self._remove_peer(name, Cease.CONFIG_CHANGE, now)
        wanted = {peer.name: peer for peer in config.peers}
        for name in [name for name in self._peers if name not in wanted]:
            self._remove_peer(name, Cease.DECONFIGURED, now)
        for peer in config.peers:
            self._set_peer(peer, now)
        if old is not None:
            self._policy_changed(old.policy, config.policy)
        ignored = old.ignored_interfaces if old is not None else ()
        if self._view is not None and ignored != config.ignored_interfaces:
            self.set_kernel(self._view)
        self._check_recovery(now)

    def _policy_changed(self, old: PolicyConfig, new: PolicyConfig) -> None:
        """Decide again what the change can concern: parts of a block that came or went, or everything."""
        if old == new:
            return
        if evolve(old, blocks=()) == evolve(new, blocks=()):
            changed = {prefix for prefix, _ in set(old.blocks) ^ set(new.blocks)}
            self._rescans.append((deque(self.table.selected), tuple(changed)))
            return
        self._rescans.append((deque(self.table.selected), None))
        if old.normal_priority != new.normal_priority:
            for peer in self._peers.values():
                self._import_again(peer)

    def recover(self, now: float) -> None:
        """Routes of an earlier run are in the kernel: ``recovered`` waits for every peer's End-of-RIB."""
        self._recovering = True
        for peer in self._peers.values():
            peer.waiting = True
        self._check_recovery(now)

    @property
    def recovered(self) -> bool:
        """Whether what is not desired may be removed: nothing waits for a peer any more."""
        return not self._recovering

    def _set_statics(self, config: SpeakerConfig) -> None:
        wanted: dict[Prefix, Path] = {
            prefix: Path(PathKey("static"), Origin.STATIC, PREFERENCE[Origin.STATIC], blackhole=True)
            for prefix in config.blackholes
        }
        for peer in config.peers:
            if peer.reachable_by:
                wanted[parse_prefix(peer.address)] = Path(
                    PathKey("static"), Origin.STATIC, PREFERENCE[Origin.STATIC], gateway=peer.reachable_by
                )
        for prefix in [prefix for prefix in self._statics if prefix not in wanted]:
            del self._statics[prefix]
            self.table.remove(prefix, PathKey("static"))
        for prefix, path in wanted.items():
            present = self._statics.get(prefix)
            if present is None or (present.gateway, present.blackhole) != (path.gateway, path.blackhole):
                self._statics[prefix] = path
                self.table.set(prefix, path)

    def _set_peer(self, config: PeerConfig, now: float) -> None:
        assert self._config is not None
        filters = tuple(self._config.filters[name] for name in config.filters if name in self._config.filters)
        peer = self._peers.get(config.name)
        if (
            peer is not None
            and peer.config != config
            and evolve(peer.config, filters=()) != evolve(config, filters=())
        ):
            self._remove_peer(config.name, Cease.CONFIG_CHANGE, now)
            peer = None
        if peer is None:
            session = Session(
                SessionConfig(
                    version=self.version,
                    local_as=config.local_as,
                    remote_as=config.asn,
                    router_id=self._config.router_id,
                    passive=config.passive,
                    keepalive=config.keepalive,
                    restart_time=config.restart_time,
                    connect_delay=self._connect_delay,
                ),
                self._random,
                self._connections,
            )
            session.restarting = session.forwarding = True
            peer = self._peers[config.name] = _Peer(config, session, filters, waiting=self._recovering)
            session.start(now)
            return
        peer.config = config
        if peer.filters != filters:
            imports = [f.imports for f in peer.filters] != [f.imports for f in filters]
            peer.filters = filters
            if imports:
                self._import_again(peer)
            if peer.negotiated is not None:
                self._join(peer)

    def _remove_peer(self, name: str, subcode: int, now: float) -> None:
        peer = self._peers.pop(name)
        self.faults.pop(name, None)
        peer.session.stop(now, subcode)
        for command in peer.session.take():
            if isinstance(command, (Connect, Send, Close)):
                self._commands.append((name, command))
        self._announcer.leave(peer.config.name)
        peer.generation += 1
        self._purge(peer)

    def stop(self, now: float) -> None:
        """End every session by closing its connection, so that peers keep our routes."""
        for name, peer in self._peers.items():
            peer.session.stop(now)
            self._drain(name, peer, now)

    # --- the kernel's routes

    def set_kernel(self, view: KernelView) -> None:
        """The main table and the addresses as they are now."""
        self._view = view
        ignored = self._config.ignored_interfaces if self._config is not None else ()
        for prefix, paths in self._kernel_routes.update(view, ignored).items():
            old = self._kernel.pop(prefix, {})
            for key in old.keys() - paths.keys():
                self.table.remove(prefix, key)
            for key, path in paths.items():
                present = old.get(key)
                if present is not None and _same(present, path):
                    paths[key] = present
                else:
                    self.table.set(prefix, path)
            if paths:
                self._kernel[prefix] = paths
        self.table.set_local_addresses(local_addresses(view, self.version))

    # --- sessions: events

    def incoming(self, address: str, local: str, now: float) -> tuple[str, int] | None:
        """A connection from ``address`` to our ``local``: (peer, connection number), None to refuse it."""
        for name, peer in self._peers.items():
            if peer.config.address == address:
                number = peer.session.incoming(now)
                if number is not None:
                    peer.addresses_by_connection[number] = local
                self._drain(name, peer, now)
                if number is not None:
                    return name, number
        return None

    def connected(self, name: str, number: int, local: str, now: float) -> None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.addresses_by_connection[number] = local
            peer.session.connected(number, now)
            self._drain(name, peer, now)

    def closed(self, name: str, number: int, now: float, reason: str) -> None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.addresses_by_connection.pop(number, None)
            peer.session.closed(number, now, reason)
            self._drain(name, peer, now)

    def receive(self, name: str, number: int, data: bytes, now: float) -> None:
        peer = self._peers.get(name)
        if peer is not None:
            peer.session.receive(number, data, now)
            self._drain(name, peer, now)

    def congested(self, name: str, congested: bool) -> None:
        """Whether the peer's connection has more queued than it should: no announcements until it has drained."""
        outbox = self._announcer.outboxes.get(name)
        if outbox is not None:
            outbox.congested = congested

    def deadline(self) -> float:
        """When ``tick`` must be called next."""
        times = [self._recovery_deadline] if self._recovering else []
        for peer in self._peers.values():
            times += (peer.session.deadline(), peer.stale_deadline)
        return min(times, default=float("inf"))

    def tick(self, now: float) -> None:
        """Time has passed."""
        for name, peer in list(self._peers.items()):
            if now >= peer.session.deadline():
                peer.session.tick(now)
                self._drain(name, peer, now)
            if now >= peer.stale_deadline:
                self._stale_time_over(peer, now)
        self._check_recovery(now)

    # --- sessions: outcomes

    def _drain(self, name: str, peer: _Peer, now: float) -> None:
        for command in peer.session.take():
            if isinstance(command, (Connect, Send, Close)):
                if isinstance(command, Close):
                    peer.addresses_by_connection.pop(command.connection, None)
                self._commands.append((name, command))
            elif isinstance(command, Up):
                self._up(peer, command.negotiated, now)
            elif isinstance(command, Down):
                self._down(peer, command.graceful, now)
            elif isinstance(command, Received):
                if isinstance(command.message, Update):
                    self._update(peer, command.message, now)
                else:
                    self._refresh(peer, command.message, now)

    def _up(self, peer: _Peer, negotiated: Negotiated, now: float) -> None:
        peer.negotiated = negotiated
        peer.peer_id = negotiated.peer_id
        peer.session.restarting = False
        peer.local_address = next(reversed(peer.addresses_by_connection.values()), peer.config.source)
        if not negotiated.graceful_restart or negotiated.peer_restarting:
            peer.waiting = False
        if peer.generation and not negotiated.peer_forwarding:
            self._drop_stale(peer)
        self._join(peer)
        self._check_recovery(now)

    def _down(self, peer: _Peer, graceful: bool, now: float) -> None:
        negotiated, peer.negotiated = peer.negotiated, None
        self._announcer.leave(peer.config.name)
        peer.generation += 1
        if graceful and negotiated is not None and negotiated.peer_restart_time:
            peer.long_lived = negotiated.long_lived_time
            if peer.stale_deadline == float("inf"):
                peer.stale_deadline = now + negotiated.peer_restart_time
        else:
            self._drop_stale(peer)

    def _stale_time_over(self, peer: _Peer, now: float) -> None:
        """The restart time has passed: stale routes go, or become a last resort where the peer asked for that."""
        if peer.long_lived and not peer.last_resort:
            peer.last_resort = True
            peer.stale_deadline = now + peer.long_lived
            self._import_again(peer)
            return
        self._drop_stale(peer)

    def _drop_stale(self, peer: _Peer) -> None:
        peer.last_resort = False
        peer.stale_deadline = float("inf")
        self._purge(peer)

    def _join(self, peer: _Peer) -> None:
        """Put an established peer into its group and feed it everything."""
        negotiated = peer.negotiated
        assert negotiated is not None
        c = peer.config
        cluster = address_to_number(c.cluster_id) if c.cluster_id else 0
        to = ExportTo(
            ibgp=c.ibgp,
            local_as=c.local_as,
            source=c.source or peer.local_address,
            rr_client=c.rr_client,
            cluster_id=cluster,
            next_hop_self=c.next_hop_self,
            next_hop_keep=c.next_hop_keep,
            add_path=self.version in negotiated.context.add_path_send,
            long_lived=negotiated.long_lived,
            filters=peer.filters,
        )
        self._announcer.join(c.name, to, negotiated.context)

    def _check_recovery(self, now: float) -> None:
        if self._recovering and (
            now >= self._recovery_deadline or not any(peer.waiting for peer in self._peers.values())
        ):
            self._recovering = False

    # --- received routes

    def _update(self, peer: _Peer, update: Update, now: float) -> None:
        if update.faults:
            count, _ = self.faults.get(peer.config.name, (0, ""))
            self.faults[peer.config.name] = (count + 1, update.faults[-1])
        if update.end_of_rib == self.version:
            peer.waiting = False
            self._drop_stale(peer)
            self._check_recovery(now)
            return
        for nlri in update.withdrawn:
            self._withdraw(peer, nlri)
        attributes = update.attributes
        if attributes is None:
            return
        if self._looped(peer, attributes):
            for nlri in update.announced:
                self._withdraw(peer, nlri)
            return
        routes = [
            nlri for nlri in update.announced if nlri.prefix.version == self.version and is_routable(nlri.prefix)
        ]
        entry = (attributes, peer.generation)
        for nlri in routes:
            peer.received[nlri] = entry
        self._import(peer, routes, attributes)

    def _looped(self, peer: _Peer, attributes: Attributes) -> bool:
        """RFC 4271 9.1.2 (our AS), RFC 4456 section 8 (our id, our cluster)."""
        assert self._config is not None
        c = peer.config
        if attributes.as_path and attributes.as_count(c.local_as) > c.allow_own_as:
            return True
        if not c.ibgp:
            return False
        if attributes.originator_id == self._config.router_id:
            return True
        return bool(c.cluster_id) and address_to_number(c.cluster_id) in attributes.cluster_list

    def _import(self, peer: _Peer, routes: Sequence[NLRI], attributes: Attributes) -> None:
        """Put ``routes``, which share ``attributes``, into the table as the import rules say."""
        assert self._config is not None
        c = peer.config
        peer_id = peer.peer_id
        peer_address = address_to_number(c.address)
        outcome = None
        for index, nlri in enumerate(routes):
            if index == 0 or peer.filters:  # without filters the prefix makes no difference
                outcome = import_route(self._config.policy, peer.filters, c.ibgp, nlri.prefix, attributes)
            key = PathKey(c.name, nlri.path_id)
            if outcome is None:
                self.table.remove(nlri.prefix, key)
                continue
            imported, preference = outcome
            path = Path(
                key,
                Origin.BGP,
                preference,
                imported,
                ebgp=not c.ibgp,
                rr_client=c.rr_client,
                peer_id=peer_id,
                peer_address=peer_address,
            )
            self.table.set(nlri.prefix, path)

    def _import_one(self, peer: _Peer, nlri: NLRI, attributes: Attributes, generation: int) -> None:
        if peer.last_resort and generation < peer.generation:
            if NO_LLGR in attributes.communities:
                self._withdraw(peer, nlri)
                return
            attributes = add_communities(attributes, (LLGR_STALE,), ())
        self._import(peer, [nlri], attributes)

    def _withdraw(self, peer: _Peer, nlri: NLRI) -> None:
        if peer.received.pop(nlri, None) is not None:
            self.table.remove(nlri.prefix, PathKey(peer.config.name, nlri.path_id))

    def _import_again(self, peer: _Peer) -> None:
        """Queue every route of ``peer`` for another pass through the import rules."""
        self._imports.append((peer, deque(peer.received)))

    def _purge(self, peer: _Peer) -> None:
        """Queue the removal of every route that was not announced again since the present generation began."""
        if peer.received:
            self._purges.append((peer, deque(peer.received), peer.generation))

    def _refresh(self, peer: _Peer, message: RouteRefresh, now: float) -> None:
        if message.version != self.version or peer.negotiated is None:
            return
        if message.subtype == Refresh.BEGIN:
            peer.generation += 1
        elif message.subtype == Refresh.END:
            self._purge(peer)
        elif message.subtype == Refresh.REQUEST:
            if peer.negotiated.enhanced_refresh:
                peer.session.send(encode(RouteRefresh(self.version, Refresh.BEGIN)), now)
            self._announcer.refresh(peer.config.name, enhanced=peer.negotiated.enhanced_refresh)

    # --- work

    def step(self, max_items: int, now: float) -> bool:
        """Do up to about ``max_items`` pieces of work; True when some is left that could be done now."""
        budget = max_items - self._step_purges(max_items)
        budget -= self._step_imports(budget)
        budget -= self._step_rescans(budget)
        while self.table.dirty and budget > 0:
            prefix = next(iter(self.table.dirty))
            del self.table.dirty[prefix]
            self._decide(prefix)
            budget -= 1
        for name, outbox in self._announcer.outboxes.items():
            if budget <= 0:
                break
            peer = self._peers[name]
            budget -= self._announcer.step(outbox, budget, functools.partial(peer.session.send, now=now))
            if outbox.idle:
                self._fed(peer, outbox, now)
            self._drain(name, peer, now)
        return bool(self._waiting_work or self._announcer.busy)

    @property
    def _waiting_work(self) -> bool:
        return bool(self._purges or self._imports or self._rescans or self.table.dirty)

    @property
    def settled(self) -> bool:
        """Whether everything that was received is decided and handed out."""
        return not (self._waiting_work or self._forwarder.pending)

    def _step_imports(self, budget: int) -> int:
        done = 0
        while self._imports and done < budget:
            peer, keys = self._imports[0]
            while keys and done < budget:
                nlri = keys.popleft()
                entry = peer.received.get(nlri)
                if entry is not None and self._peers.get(peer.config.name) is peer:
                    self._import_one(peer, nlri, *entry)
                done += 1
            if not keys:
                self._imports.popleft()
        return done

    def _step_rescans(self, budget: int) -> int:
        done = 0
        while self._rescans and done < budget:
            prefixes, scope = self._rescans[0]
            while prefixes and done < budget:
                prefix = prefixes.popleft()
                if scope is None or any(prefix.within(outer) for outer in scope):
                    self.table.dirty[prefix] = None
                done += 1
            if not prefixes:
                self._rescans.popleft()
        return done

    def _step_purges(self, budget: int) -> int:
        done = 0
        while self._purges and done < budget:
            peer, keys, generation = self._purges[0]
            while keys and done < budget:
                nlri = keys.popleft()
                entry = peer.received.get(nlri)
                if entry is not None and entry[1] < generation:
                    del peer.received[nlri]
                    if self._peers.get(peer.config.name) in (peer, None) or not self._has(peer.config.name, nlri):
                        self.table.remove(nlri.prefix, PathKey(peer.config.name, nlri.path_id))
                done += 1
            if not keys:
                self._purges.popleft()
        return done

    def _has(self, name: str, nlri: NLRI) -> bool:
        """Whether the peer now called ``name`` has announced ``nlri``."""
        return nlri in self._peers[name].received

    def _decide(self, prefix: Prefix) -> None:
        self._forwarder.decided(prefix, self.table.select(prefix))
        self._announcer.decided(prefix)

    def _fed(self, peer: _Peer, outbox: Outbox, now: float) -> None:
        """The peer has been told everything: say so where that is owed."""
        if outbox.refreshing:
            outbox.refreshing = False
            peer.session.send(encode(RouteRefresh(self.version, Refresh.END)), now)
        restart = peer.negotiated is not None and peer.negotiated.graceful_restart
        if restart and not outbox.ended and not self._recovering and not self._waiting_work:
            outbox.ended = True
            peer.session.send(end_of_rib(self.version), now)

    # --- output

    def take_commands(self) -> list[tuple[str, Wire]]:
        """What connections must do, in order, with the peer's name."""
        commands, self._commands = self._commands, []
        return commands

    def take_routes(self) -> tuple[list[Route], list[str]]:
        """(added or changed, removed destinations) since the last call."""
        return self._forwarder.take()

    @property
    def holes(self) -> Mapping[Prefix, Hole]:
        """Received routes that nobody has programmed."""
        return self._forwarder.holes

    @property
    def desired(self) -> frozenset[Prefix]:
        """The destinations that the kernel should have from us."""
        return self._forwarder.desired

    def peers(self) -> Iterable[tuple[PeerConfig, Session, int, int]]:
        """(configuration, session, prefixes received, prefixes sent) of each peer, by name."""
        for name, peer in sorted(self._peers.items()):
            outbox = self._announcer.outboxes.get(name)
            yield peer.config, peer.session, len(peer.received), len(outbox.sent) if outbox else 0

    def not_established(self) -> list[str]:
        """The sessions that are not up, with their state."""
        return [
            f"{config.name} ({config.address}) {session.state.value}"
            + (f": {session.last_error}" if session.last_error else "")
            for config, session, _, _ in self.peers()
            if session.state is not State.ESTABLISHED
        ]


def _same(a: Path, b: Path) -> bool:
    return (a.metric, a.device, a.gateway, a.blackhole) == (b.metric, b.device, b.gateway, b.blackhole)
