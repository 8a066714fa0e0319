"""Speakers wired back to back in memory under a virtual clock."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Any

from attrs import define, evolve, field

from calico_node.dataplanes.contract import ConnectedPrefix, KernelView, Route
from calico_node.plugins.bgp.peers import PeerConfig
from calico_node.plugins.bgp.policy import PolicyConfig, Pool
from calico_node.plugins.bgp.prefix import address_to_number, parse_prefix
from calico_node.plugins.bgp.session import Close, Connect
from calico_node.plugins.bgp.speaker import Speaker, SpeakerConfig


@define(eq=False)
class Node:
    """One speaker with its address, its kernel and the routes it asked for."""

    address: str
    speaker: Speaker
    config: SpeakerConfig
    view: KernelView
    routes: dict[str, Route] = field(factory=dict)
    peers: dict[str, PeerConfig] = field(factory=dict)
    alive: bool = True
    wire: list[bytes] = field(factory=list)
    links: dict[tuple[str, int], tuple[str, str, int]] = field(factory=dict)  # ours -> (address, peer, connection)

    def configure(self, now: float, **changes: Any) -> None:
        self.config = evolve(self.config, **changes)
        self.peers = {peer.name: peer for peer in self.config.peers}
        self.speaker.configure(self.config, now)

    def state(self, address: str) -> str:
        return next(session.state.value for config, session, *_ in self.speaker.peers() if config.address == address)


class Network:
    """Delivers bytes after ``latency`` seconds; ``random`` is a constant, so that every run is the same."""

    def __init__(self, latency: float = 0.001, random: Callable[[], float] = lambda: 0.5) -> None:
        self.now = 0.0
        self.nodes: dict[str, Node] = {}
        self.latency = latency
        self._random = random
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.cut: set[frozenset[str]] = set()

    def add(
        self,
        address: str,
        *peers: PeerConfig,
        blocks: tuple[str, ...] = (),
        pools: tuple[str, ...] = ("192.168.0.0/16",),
        adopted: tuple[Route, ...] = (),
        config: SpeakerConfig | None = None,
    ) -> Node:
        speaker = Speaker(4, self._random, self.now)
        if config is None:
            prefixes = [parse_prefix(block) for block in blocks]
            policy = PolicyConfig(
                pools=tuple(Pool(parse_prefix(pool)) for pool in pools),
                blocks=tuple((prefix, "confirmed") for prefix in prefixes),
                subnet=parse_prefix(f"{address}/24"),
            )
            config = SpeakerConfig(address_to_number(address), peers, policy, blackholes=frozenset(prefixes))
        view = KernelView(adopted, (ConnectedPrefix(f"{address}/24", "eth0"),))
        node = Node(address, speaker, config, view)
        self.nodes[address] = node
        speaker.set_kernel(view)
        node.configure(self.now)
        if adopted:
            node.routes.update({route.dst: route for route in adopted})
            speaker.recover(self.now)
        self.settle(node)
        return node

    def kill(self, address: str) -> Node:
        """The process ends: its connections close, its kernel routes stay."""
        node = self.nodes.pop(address)
        node.alive = False
        for remote, peer, connection in node.links.values():
            self._close_far(remote, peer, connection)
        return node

    def restart(self, address: str) -> Node:
        old = self.kill(address)
        return self.add(address, config=old.config, adopted=tuple(r for r in old.routes.values()))

    def later(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), action))

    def run(self, seconds: float) -> None:
        """Advance the clock, handling what falls due."""
        end = self.now + seconds
        while True:
            deadlines = [node.speaker.deadline() for node in self.nodes.values()]
            due = min([*deadlines, self._events[0][0] if self._events else end + 1])
            if due > end:
                break
            self.now = max(self.now, due)
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()
            for node in list(self.nodes.values()):
                if node.speaker.deadline() <= self.now:
                    node.speaker.tick(self.now)
                self.settle(node)
        self.now = end

    def settle(self, node: Node) -> None:
        """Do all the work a node has, and carry out what it asks."""
        while True:
            more = node.speaker.step(1000, self.now)
            commands = node.speaker.take_commands()
            for name, command in commands:
                self._perform(node, name, command)
            add, remove = node.speaker.take_routes()
            node.routes.update({route.dst: route for route in add})
            for dst in remove:
                node.routes.pop(dst, None)
            if not more and not commands:
                return

    def _perform(self, node: Node, name: str, command: object) -> None:
        if isinstance(command, Connect):
            peer = node.peers[name]
            self.later(self.latency, lambda: self._connect(node, peer, command.connection))
            return
        key = (name, command.connection)  # type: ignore[attr-defined]
        link = node.links.get(key)
        if link is None:
            return
        if isinstance(command, Close):
            del node.links[key]
            self._close_far(*link)
        else:
            data = command.data  # type: ignore[attr-defined]
            node.wire.append(data)
            self.later(self.latency, lambda: self._deliver(*link, data))

    def _connect(self, node: Node, peer: PeerConfig, connection: int) -> None:
        if not node.alive:
            return
        far = self.nodes.get(peer.address)
        found = None
        if far is not None and frozenset((node.address, peer.address)) not in self.cut:
            found = far.speaker.incoming(node.address, far.address, self.now)
        if far is None or found is None:
            node.speaker.closed(peer.name, connection, self.now, "Connection refused")
            return
        far.links[found] = (node.address, peer.name, connection)
        node.links[peer.name, connection] = (far.address, *found)
        node.speaker.connected(peer.name, connection, node.address, self.now)

    def _deliver(self, address: str, peer: str, connection: int, data: bytes) -> None:
        node = self.nodes.get(address)
        if node is not None and (peer, connection) in node.links:
            far = node.links[peer, connection][0]
            if frozenset((far, address)) not in self.cut:
                node.speaker.receive(peer, connection, data, self.now)

    def _close_far(self, address: str, peer: str, connection: int) -> None:
        def close() -> None:
            node = self.nodes.get(address)
            if node is not None and node.links.pop((peer, connection), None) is not None:
                node.speaker.closed(peer, connection, self.now, "connection closed")

        self.later(self.latency, close)


def mesh_peer(own: str, other: str, **changes: Any) -> PeerConfig:
    """The mesh session of ``own`` with ``other``."""
    peer = PeerConfig(
        name=f"Mesh_{other.replace('.', '_')}",
        address=other,
        asn=64512,
        local_as=64512,
        kind="mesh",
        source=own,
        passive=other > own,
    )
    return evolve(peer, **changes)
