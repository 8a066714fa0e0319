"""A component that reports itself healthy and counts the nodes of the cluster every few seconds."""

from __future__ import annotations

import anyio

from calico_node.hookspecs import AgentContext


class Heartbeat:
    """Selected by naming it in ``CALICO_COMPONENTS``."""

    name = "heartbeat"

    async def run(self, context: AgentContext) -> None:
        reporter = context.health.reporter(self.name, timeout=30)
        while True:
            nodes = await context.client.list("Node")
            reporter.report(reason=f"sees {len(nodes.items)} node(s)", revision=nodes.revision)
            await anyio.sleep(5)
