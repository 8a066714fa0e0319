"""Felix's reports to the datastore: that this host is alive, and how its endpoints are.

The keys and documents are those of Calico's Felix in etcd mode (``felix/statusrep``); the parameters are
ReportingInterval, ReportingTTL, EndpointReportingEnabled, EndpointReportingDelay and OpenstackRegion.  A report that
cannot be stored is made anew later: nothing here may cost the node its policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import anyio
import orjson
import structlog
from attrs import frozen

from calico_node.dataplanes.contract import WorkloadEndpointID
from calico_node.datastores.kv import KVEngine
from calico_node.errors import DatastoreError
from calico_node.model.paths import (
    felix_last_status_path,
    felix_status_path,
    host_endpoint_status_path,
    host_endpoint_status_prefix,
    workload_status_path,
    workload_status_prefix,
)

log = structlog.get_logger("felix")

FIRST_REPORT = 10.0
"""Seconds after the first sync."""
RESYNC_DELAYS = 180
"""The endpoint statuses are compared with the datastore once in so many EndpointReportingDelays."""
_SHORTEST_DELAY = 0.05
_PAGE = 1000


@frozen
class ReportSettings:
    """Seconds; an ``interval`` of 0 means no heartbeat.  ``endpoints``: their statuses are reported too."""

    interval: float = 30.0
    ttl: float = 90.0
    endpoints: bool = False
    delay: float = 1.0
    region: str = ""

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> ReportSettings:
        return cls(
            interval=float(values["ReportingIntervalSecs"]),
            ttl=float(values["ReportingTTLSecs"]),
            endpoints=values["EndpointReportingEnabled"] == "true",
            delay=max(float(values["EndpointReportingDelaySecs"]), _SHORTEST_DELAY),
            region=values["OpenstackRegion"],
        )


class StatusReports:
    """Keeps this host's status keys; ``run`` writes them.

    Nothing is written before ``configure``, which is called once the endpoints are known, nor while ``paused``
    (ClusterInformation's datastoreReady is false).
    """

    def __init__(self, kv: KVEngine, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._kv = kv
        self._host = host
        self._clock = clock
        self._born = clock()
        self._settings: ReportSettings | None = None
        self._changed = anyio.Event()
        self._states: dict[WorkloadEndpointID | str, str] = {}
        self._pending: dict[str, bytes | None] = {}
        self.paused = False

    def configure(self, settings: ReportSettings) -> None:
        if settings != self._settings:
            self._settings = settings
            self._changed.set()
            self._changed = anyio.Event()

    def set_endpoint(self, identity: WorkloadEndpointID | str, state: str | None) -> None:
        """``state`` is up, down or error, None once it is gone; a host endpoint is identified by its name alone."""
        if state == self._states.get(identity):
            return
        if state is None:
            del self._states[identity]
        else:
            self._states[identity] = state
        if self._settings is not None and self._settings.endpoints:
            self._pending[self._path(identity, self._settings.region)] = _document(state)
            self._changed.set()
            self._changed = anyio.Event()

    async def run(self) -> None:
        """Write until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._beat)
            tasks.start_soon(self._report_endpoints)

    # The heartbeat

    async def _beat(self) -> None:
        settings = await self._configured()
        await anyio.sleep(FIRST_REPORT)
        first = True
        while True:
            settings = self._settings or settings
            began = self._clock()
            if settings.interval and not self.paused:
                try:
                    await self._report_alive(settings, first)
                    first = False
                except DatastoreError as error:
                    log.debug("the heartbeat could not be stored", error=str(error))
            await self._rest(settings, settings.interval - (self._clock() - began))

    async def _configured(self) -> ReportSettings:
        while self._settings is None:
            await self._changed.wait()
        return self._settings

    async def _rest(self, settings: ReportSettings, seconds: float) -> None:
        """Until the next report is due, or the settings are others."""
        deadline = self._clock() + seconds if settings.interval else float("inf")
        while settings == self._settings and self._clock() < deadline:
            changed = self._changed
            with anyio.move_on_after(deadline - self._clock()):
                await changed.wait()

    async def _report_alive(self, settings: ReportSettings, first: bool) -> None:
        report = orjson.dumps(
            {
                "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "uptime": self._clock() - self._born,
                "first_update": first,
            }
        )
        # A lease for each report, as Calico's: a host that dies is missed one TTL after its last report.
        lease = await self._kv.grant(max(int(settings.ttl), 1))
        await self._kv.put(felix_status_path(settings.region, self._host), report, lease=lease)
        await self._kv.put(felix_last_status_path(settings.region, self._host), report)

    # The endpoints

    def _path(self, identity: WorkloadEndpointID | str, region: str) -> str:
        if isinstance(identity, str):
            return host_endpoint_status_path(self._host, identity)
        return workload_status_path(region, self._host, identity.orchestrator, identity.workload, identity.endpoint)

    async def _report_endpoints(self) -> None:
        compared: tuple[ReportSettings, float] | None = None
        while True:
            settings = await self._configured()
            changed = self._changed
            if not settings.endpoints or self.paused:
                self._pending.clear()
                compared = None
                with anyio.move_on_after(settings.delay if self.paused else float("inf")):
                    await changed.wait()
                continue
            due = compared is None or compared[0] != settings or self._clock() >= compared[1]
            try:
                if due:
                    await self._compare(settings)
                    compared = (settings, self._clock() + RESYNC_DELAYS * settings.delay)
                elif self._pending:
                    await self._write_one()
                else:
                    assert compared is not None
                    with anyio.move_on_after(compared[1] - self._clock()):
                        await changed.wait()
                    continue
            except DatastoreError as error:
                log.debug("an endpoint's status could not be stored", error=str(error))
            await anyio.sleep(settings.delay)

    async def _compare(self, settings: ReportSettings) -> None:
        """Mark what the datastore has otherwise than it is, or of endpoints that are not here any more."""
        present: dict[str, bytes] = {}
        for prefix in (workload_status_prefix(settings.region, self._host), host_endpoint_status_prefix(self._host)):
            after = ""
            while True:
                page = await self._kv.range(prefix, start_after=after, limit=_PAGE)
                present.update((stored.key, stored.value) for stored in page.kvs)
                if not page.more:
                    break
                after = page.kvs[-1].key
        # Only now: a status may have changed while the datastore was read.
        wanted = {self._path(identity, settings.region): state for identity, state in self._states.items()}
        self._pending = dict.fromkeys(present.keys() - wanted.keys())
        for path, state in wanted.items():
            if present.get(path) != _document(state):
                self._pending[path] = _document(state)

    async def _write_one(self) -> None:
        path, document = next(iter(self._pending.items()))
        if document is None:
            await self._kv.delete(path)
        else:
            await self._kv.put(path, document)
        if self._pending.get(path) == document:
            self._pending.pop(path, None)


def _document(state: str | None) -> bytes | None:
    return None if state is None else orjson.dumps({"status": state})
