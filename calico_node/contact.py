"""Whether the datastore answers: a line of health of its own, since nothing else changes when it goes away.

What is in force stays in force and enforced while the datastore is away; but nobody's changes arrive, and that is
what a readiness probe has to say.
"""

from __future__ import annotations

import time

import anyio
import structlog

from calico_node.datastores import Client
from calico_node.datastores.names import resource_key
from calico_node.errors import DatastoreError
from calico_node.hookspecs import HealthReporter

log = structlog.get_logger("datastore")

PERIOD = 3.0
"""Seconds between two looks, and for how long one may take."""
PATIENCE = 10.0
"""Seconds without an answer until the node says that it is not ready; a new leader is elected in less."""
_PROBE_KEY = resource_key("ClusterInformation", "default")
_EMPTIED = (
    "it was emptied: it has no ClusterInformation; what is in force stays until it is restored, or filled anew by "
    "restarting a calico-node"
)


async def look(client: Client, within: float) -> str:
    """What is wrong with the datastore; "" when nothing is."""
    try:
        with anyio.fail_after(within):
            information, _ = await client.kv.get(_PROBE_KEY)
    except DatastoreError as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {within:g} s"
    return "" if information is not None else _EMPTIED


async def watch_datastore(
    client: Client, reporter: HealthReporter, *, period: float = PERIOD, patience: float = PATIENCE
) -> None:
    """Look at the datastore for ever, and report."""
    answered = time.monotonic()
    fault = ""
    while True:
        last, fault = fault, await look(client, period)
        now = time.monotonic()
        if not fault:
            if last:
                log.info("the datastore is back", away=f"{now - answered:.0f} s")
            answered = now
            reporter.report()
        else:
            if not last:
                log.warning("the datastore is away; what is in force stays", reason=fault)
            reason = f"{fault} (for {now - answered:.0f} s; what is in force stays)"
            reporter.report(ready=now - answered < patience, reason=reason)
        await anyio.sleep(period)
