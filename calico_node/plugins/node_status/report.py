"""A CalicoNodeStatus' status from what the BGP speakers say.  Pure.

Source: Calico ``node/pkg/status/populators``, whose texts are those of BIRD's control socket.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from calico_node.hookspecs import BGPRoute, BGPSession, BGPSpeaker
from calico_node.resources.bgp import (
    AgentStatus,
    BGPStatus,
    CalicoNodeStatusStatus,
    DaemonStatus,
    PeerStatus,
    RouteSource,
    RoutesStatus,
    RouteStatus,
)

RECENT = timedelta(hours=20)
"""Older times are told by their day alone."""
_STATES = frozenset(("Idle", "Connect", "Active", "OpenSent", "OpenConfirm", "Established", "Close"))
_PEER_TYPES = {"mesh": "NodeMesh", "node": "NodePeer", "global": "GlobalPeer"}
_SOURCES = {"kernel": "Kernel", "static": "Static", "direct": "Direct", "mesh": "NodeMesh", "peer": "BGPPeer"}


def build(
    before: CalicoNodeStatusStatus,
    classes: Collection[str],
    speakers: Mapping[int, BGPSpeaker],
    routes: Mapping[int, Sequence[BGPRoute]],
    now: datetime,
) -> CalicoNodeStatusStatus:
    """The status at ``now``, whose time zone is the one shown; what is of no class asked for stays as ``before``.

    ``lastUpdated`` is left to the writer.
    """
    status = before
    if "Agent" in classes:
        agent = AgentStatus(bird_v4=_daemon(speakers.get(4), now), bird_v6=_daemon(speakers.get(6), now))
        status = attrs.evolve(status, agent=agent)
    if "BGP" in classes:
        status = attrs.evolve(status, bgp=_bgp(speakers, now))
    if "Routes" in classes:
        found = RoutesStatus(routes_v4=_routes(routes.get(4, ())), routes_v6=_routes(routes.get(6, ())))
        status = attrs.evolve(status, routes=found)
    return status


def _daemon(speaker: BGPSpeaker | None, now: datetime) -> DaemonStatus:
    if speaker is None:
        return DaemonStatus(state="NotReady")
    return DaemonStatus(
        state="Ready" if speaker.ready else "NotReady",
        version=speaker.version,
        router_id=speaker.router_id,
        last_boot_time=_moment(speaker.booted, now),
        last_reconfiguration_time=_moment(speaker.reconfigured, now),
    )


def _moment(moment: datetime, now: datetime) -> str:
    return moment.astimezone(now.tzinfo).strftime("%Y-%m-%d %H:%M:%S")


def _since(moment: datetime, now: datetime) -> str:
    return moment.astimezone(now.tzinfo).strftime("%H:%M:%S" if now - moment < RECENT else "%Y-%m-%d")


def _bgp(speakers: Mapping[int, BGPSpeaker], now: datetime) -> BGPStatus:
    peers: dict[int, list[PeerStatus]] = {}
    up: dict[int, int] = {}
    for version in (4, 6):
        speaker = speakers.get(version)
        sessions = [s for s in (speaker.sessions if speaker else ()) if s.kind in _PEER_TYPES]
        peers[version] = [_peer(session, now) for session in sessions]
        up[version] = sum(session.state == "Established" for session in sessions)
    return BGPStatus(
        number_established_v4=up[4],
        number_not_established_v4=len(peers[4]) - up[4],
        number_established_v6=up[6],
        number_not_established_v6=len(peers[6]) - up[6],
        peers_v4=peers[4],
        peers_v6=peers[6],
    )


def _peer(session: BGPSession, now: datetime) -> PeerStatus:
    # Passive and Down are states of BIRD's that the resource has no word for: they are left empty.
    state = session.state if session.state in _STATES else ""
    return PeerStatus(
        peer_ip=session.peer, type=_PEER_TYPES[session.kind], state=state, since=_since(session.since, now)
    )


def _routes(routes: Sequence[BGPRoute]) -> list[RouteStatus]:
    """In an order that says nothing, but stays: what is the same must not be written again."""
    ordered = sorted(routes, key=lambda r: (r.destination, not r.best, r.source, r.peer, r.gateway, r.device))
    return [
        RouteStatus(
            type="FIB" if route.best else "RIB",
            destination=route.destination,
            gateway=route.gateway or "N/A",
            interface=route.device,
            learned_from=RouteSource(source_type=_SOURCES[route.source], peer_ip=route.peer or None),
        )
        for route in ordered
    ]
