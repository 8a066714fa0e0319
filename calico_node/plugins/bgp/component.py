"""The ``bgp`` component: datastore and kernel in, BGP sessions and kernel routes out."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import random
from collections.abc import Mapping
from pathlib import Path

import anyio
import structlog
from attrs import define

from calico_node.errors import CalicoError
from calico_node.hookspecs import AgentContext, HealthReporter
from calico_node.model import SyncStatus
from calico_node.plugins.bgp.config import Configuration, Datastore, build
from calico_node.plugins.bgp.kernel import adopted_routes
from calico_node.plugins.bgp.prefix import prefix_text
from calico_node.plugins.bgp.session import State
from calico_node.plugins.bgp.speaker import Speaker
from calico_node.plugins.bgp.transport import Transport
from calico_node.resources.bgp import SecretKeyRef
from calico_node.syncer import SyncerKind, stream

log = structlog.get_logger("bgp")

OWNER = "bgp"
SLICE = 200
FILTER_GRACE = 5.0
"""Seconds that peers stay closed after a BGPFilter that could not be read is gone."""
REPORT_INTERVAL = 0.1
"""Seconds between health reports while only sessions and routes move, not the datastore's revision."""
CONNECT_DELAY = 0.25
"""Seconds before the first attempt to connect, and between the first retries: BIRD waits 2 and 5."""

_log = logging.getLogger(__name__)


@define(eq=False)
class _Family:
    speaker: Speaker
    transport: Transport
    configuration: Configuration | None = None


class BGP:
    """Runs a speaker for IPv4, and one for IPv6 where the node has an address of that family.

    Cancellation closes the sessions without NOTIFICATION and leaves the routes in the kernel (RFC 4724).
    """

    name = "bgp"

    def __init__(self) -> None:
        self._given: set[str] = set()  # destinations that the route sink holds for us, across restarts of ``run``

    async def run(self, context: AgentContext) -> None:
        """Work until cancelled."""
        await _Run(context, self._given).run()


class _Run:
    """One life of the component."""

    def __init__(self, context: AgentContext, given: set[str]) -> None:
        self._context = context
        self._given = given
        self._inherited = set(given)  # of an earlier life: removed when it has not come back after recovery
        self._settings = context.settings
        self._reporter: HealthReporter = context.health.reporter("bgp")
        self._data = Datastore()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        now = self._loop.time()
        self._families = {version: self._family(version, now) for version in (4, 6)}
        self._in_sync = False
        self._kernel_seen = False
        self._adopted = False
        self._configured = False
        self._changed = False
        self._pruned = False
        self._reported = 0.0
        self._report_due = False
        self._revision = 0  # of the datastore, as far as read
        self._applied = 0  # of the datastore, as far as carried out
        self._rejected: dict[str, str] = {}
        self._unusable: dict[str, str] = {}
        self._route_error = ""
        self._up: dict[str, str] = {}  # sessions that are Established: name to peer's address

    def _family(self, version: int, now: float) -> _Family:
        speaker = Speaker(version, random.random, now, connect_delay=CONNECT_DELAY)
        return _Family(speaker, Transport(speaker, self._wake.set))

    async def run(self) -> None:
        self._reporter.report(ready=False, reason="waiting for the datastore")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow_datastore)
                group.start_soon(self._follow_kernel)
                group.start_soon(self._timers)
                await self._work()
        finally:
            now = self._loop.time()
            for family in self._families.values():
                family.speaker.stop(now)
                family.transport.close()

    # --- inputs

    async def _follow_datastore(self) -> None:
        batches = stream(
            self._context.client,
            SyncerKind.BGP,
            node_name=self._settings.node_name,
            use_pod_cidr=self._settings.use_pod_cidr,
            on_rejected=self._on_rejected,
        )
        async with contextlib.aclosing(batches):
            async for batch in batches:
                for update in batch.updates:
                    if self._data.apply(update.key, update.value, self._settings.node_name):
                        self._changed = True
                self._revision = batch.revision
                if batch.status is SyncStatus.IN_SYNC:
                    self._in_sync = True
                self._wake.set()

    def _on_rejected(self, name: str, reason: str | None) -> None:
        if reason is None:
            self._unusable.pop(name, None)
        else:
            self._unusable[name] = reason
        if name.startswith("BGPFilter("):
            # Its absence would let everything through: it counts until what came in its place must have been taken.
            delay = FILTER_GRACE if reason is None else 0.0
            self._loop.call_later(delay, self._note_filter, name)

    def _note_filter(self, name: str) -> None:
        known = self._data.unusable_filters
        (known.add if name in self._unusable else known.discard)(name.removeprefix("BGPFilter(")[:-1])
        self._changed = True
        self._wake.set()

    async def _follow_kernel(self) -> None:
        async for view in self._context.route_sink.watch():
            if not self._kernel_seen:
                self._kernel_seen = True
                self._adopted = adopted_routes(view) or bool(self._inherited)
                self._changed = True
            for family in self._families.values():
                family.speaker.set_kernel(view)
            self._wake.set()

    async def _timers(self) -> None:
        """Call ``tick`` when a speaker asks for it; deadlines only move nearer through events, which wake us."""
        while True:
            now = self._loop.time()
            deadline = min(family.speaker.deadline() for family in self._families.values())
            await asyncio.sleep(min(max(deadline - now, 0.02), 0.25))
            now = self._loop.time()
            for family in self._families.values():
                if family.speaker.deadline() <= now:
                    family.speaker.tick(now)
                    self._wake.set()

    # --- the one worker

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if not self._in_sync or not self._kernel_seen:
                continue
            revision = self._revision
            if self._changed:
                self._changed = False
                self._configure()
            busy = True
            while busy:
                busy = False
                for family in self._families.values():
                    busy |= family.speaker.step(SLICE, self._loop.time())
                    family.transport.perform(family.speaker.take_commands())
                await self._set_routes()
                await asyncio.sleep(0)
            moved, self._applied = revision != self._applied, revision
            await self._prune()
            now = self._loop.time()
            if moved or now >= self._reported + REPORT_INTERVAL:
                self._reported, self._report_due = now, False
                self._report()
            elif not self._report_due:
                self._report_due = True
                self._loop.call_later(REPORT_INTERVAL, self._wake.set)

    def _configure(self) -> None:
        """Compute what sessions and policy must be, and tell the speakers."""
        now = self._loop.time()
        rejected: dict[str, str] = {}
        for version, family in self._families.items():
            configuration = build(self._data, self._settings.node_name, version, self._settings.environ, self._secret)
            rejected.update(configuration.rejected)
            if configuration.enabled:
                family.transport.configure(configuration.listen, configuration.port, configuration.speaker.peers)
            if configuration != family.configuration:
                family.configuration = configuration
                family.speaker.configure(configuration.speaker, now)
            if not self._configured and self._adopted:
                family.speaker.recover(now)
        self._configured = True
        self._rejected = rejected

    def _secret(self, reference: SecretKeyRef) -> str | None:
        """A password from ``<state dir>/secrets/<name>/<key>``, laid out as Kubernetes mounts a Secret."""
        name, key = reference.name or "", reference.key
        if not name or "/" in name or "/" in key or name.startswith(".") or key.startswith(".."):
            return None
        path: Path = self._settings.state_dir / "secrets" / name / key
        try:
            return path.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError):
            return None

    # --- outputs

    async def _set_routes(self) -> None:
        for family in self._families.values():
            add, remove = family.speaker.take_routes()
            if not add and not remove:
                continue
            self._given.update(route.dst for route in add)
            self._given.difference_update(remove)
            self._inherited.difference_update(route.dst for route in add)
            try:
                await self._context.route_sink.set_routes(OWNER, add, remove)
                self._route_error = ""
            except CalicoError as error:
                self._route_error = str(error)

    async def _prune(self) -> None:
        if self._pruned or not self._configured:
            return
        if all(family.speaker.recovered and family.speaker.settled for family in self._families.values()):
            self._pruned = True
            await self._context.route_sink.set_routes(OWNER, (), tuple(self._inherited))
            self._given -= self._inherited
            await self._context.route_sink.prune(OWNER)

    def _report(self) -> None:
        reasons = []
        sessions: list[Mapping[str, object]] = []
        for family in self._families.values():
            if family.configuration is None or not family.configuration.enabled:
                continue
            if family.transport.error:
                reasons.append(family.transport.error)
            reasons += family.speaker.not_established()
            reasons += _holes(family.speaker)
            sessions += self._sessions(family.speaker)
        self._log_changes(sessions)
        if self._route_error:
            reasons.append(self._route_error)
        own = self._families[4].configuration, self._families[6].configuration
        if not any(configuration is not None and configuration.enabled for configuration in own):
            reasons.append(f"Node {self._settings.node_name} has no BGP address")
        self._reporter.report(
            ready=not reasons,
            reason="; ".join(reasons),
            revision=self._applied,
            rejected={**self._unusable, **self._rejected},
            extra={"sessions": sessions},
        )

    def _log_changes(self, sessions: list[Mapping[str, object]]) -> None:
        up = {str(s["name"]): str(s["peer"]) for s in sessions if s["state"] == State.ESTABLISHED.value}
        states = {str(s["name"]): s["state"] for s in sessions}
        for name in sorted(up.keys() - self._up.keys()):
            log.info("session up", session=name, peer=up[name])
        for name in sorted(self._up.keys() - up.keys()):
            log.warning("session down", session=name, peer=self._up[name], state=states.get(name, "removed"))
        self._up = up

    def _faults(self, speaker: Speaker, name: str) -> dict[str, object]:
        count, last = speaker.faults.get(name, (0, ""))
        return {"malformed_updates": count, "last_malformed_update": last} if count else {}

    def _sessions(self, speaker: Speaker) -> list[Mapping[str, object]]:
        wall, now = datetime.datetime.now(datetime.UTC), self._loop.time()
        return [
            {
                "peer": config.address,
                "name": config.name,
                "as": config.asn,
                "state": session.state.value,
                "since": (wall - datetime.timedelta(seconds=now - session.since)).isoformat(timespec="seconds"),
                "prefixes_received": received,
                "prefixes_sent": sent,
                **self._faults(speaker, config.name),
            }
            for config, session, received, sent in speaker.peers()
        ]


def _holes(speaker: Speaker) -> list[str]:
    """One sentence per pool and peer whose routes nobody programs."""
    found = {}
    for hole in speaker.holes.values():
        pool = hole.pool
        mode = f"vxlanMode {pool.vxlan_mode}" if pool.vxlan_mode else f"ipipMode {pool.ipip_mode}"
        near = hole.direct and "cross-subnet" in (pool.vxlan_mode, pool.ipip_mode)
        reason = (
            "Felix has not programmed them" if near or not pool.encapsulated else "the encapsulation is not in place"
        )
        found[pool.prefix, hole.peer] = (
            f"pool {prefix_text(pool.prefix)} ({mode if pool.encapsulated else 'no encapsulation'}): routes from "
            f"{hole.peer} by {hole.next_hop} are not in the kernel: {reason}"
        )
    return [found[key] for key in sorted(found)]
