"""The health listener: ``/liveness``, ``/readiness``, ``/status`` and ``/metrics``.

It listens on FELIX_HEALTHHOST:FELIX_HEALTHPORT, and once more for Prometheus alone on port 9091 where
FELIX_PROMETHEUSMETRICSENABLED asks for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
import orjson
import prometheus_client
from aiohttp import web

from calico_node.errors import CalicoError
from calico_node.health import ComponentHealth
from calico_node.hookspecs import AgentContext, Health

_Handler = Callable[[web.Request], Awaitable[web.Response]]


def table(states: Sequence[ComponentHealth], *, readiness: bool) -> str:
    """The reporters as an ASCII table, as Felix shows them, with the revision applied and what was rejected."""
    rows = [("COMPONENT", "READY" if readiness else "LIVE", "REVISION", "REJECTED", "REASON")]
    for state in states:
        good = state.ready if readiness else state.live
        rejected = "; ".join(f"{name}: {why}" for name, why in sorted(state.rejected.items()))
        row = (state.name, "yes" if good else "NO", str(state.revision), rejected or "-", state.reason or "-")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]) for row in rows
    ]
    return "\n".join(lines) + "\n"


def _probe(health: Health, *, readiness: bool) -> _Handler:
    async def handler(_: web.Request) -> web.Response:
        states = health.states()
        if not states:
            return web.Response(status=204)
        good = all(state.ready if readiness else state.live for state in states)
        return web.Response(status=200 if good else 503, text=table(states, readiness=readiness))

    return handler


def _status(health: Health) -> _Handler:
    async def handler(_: web.Request) -> web.Response:
        document = {"components": {state.name: state.as_json() for state in health.states()}}
        return web.Response(body=orjson.dumps(document), content_type="application/json")

    return handler


REJECTED = prometheus_client.Gauge(
    "calico_node_rejected_objects", "Objects that a component leaves out or does not carry out wholly.", ["component"]
)


def _metrics(health: Health) -> _Handler:
    async def handler(_: web.Request) -> web.Response:
        for state in health.states():
            REJECTED.labels(state.name).set(len(state.rejected))
        body = prometheus_client.generate_latest()
        return web.Response(body=body, headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST})

    return handler


async def _listen(app: web.Application, hosts: str | None, port: int, what: str) -> web.AppRunner:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, hosts, port, reuse_address=True).start()
    except OSError as error:
        await runner.cleanup()
        raise CalicoError(f"{what} cannot listen on {hosts or '*'}:{port}: {error.strerror or error}") from error
    return runner


class HealthServer:
    """The component ``health``."""

    name = "health"

    async def run(self, context: AgentContext) -> None:
        settings = context.settings
        app = web.Application()
        app.router.add_get("/liveness", _probe(context.health, readiness=False))
        app.router.add_get("/readiness", _probe(context.health, readiness=True))
        app.router.add_get("/status", _status(context.health))
        app.router.add_get("/metrics", _metrics(context.health))
        runners = [await _listen(app, settings.health_host, settings.health_port, "the health listener")]
        try:
            if settings.prometheus_enabled:
                metrics = web.Application()
                metrics.router.add_get("/metrics", _metrics(context.health))
                host = settings.prometheus_host or None
                runners.append(await _listen(metrics, host, settings.prometheus_port, "the metrics listener"))
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                for runner in runners:
                    await runner.cleanup()
