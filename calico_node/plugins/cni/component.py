"""The CNI server as a component of the agent."""

from __future__ import annotations

from calico_node.hookspecs import AgentContext
from calico_node.plugins.cni.operations import Operations
from calico_node.plugins.cni.protocol import Call
from calico_node.plugins.cni.server import Server


class CNI:
    """Serves the ``calico`` and ``calico-ipam`` executables at ``$CALICO_RUN_DIR/cni.sock``."""

    name = "cni"

    async def run(self, context: AgentContext) -> None:
        health = context.health.reporter(self.name)
        health.report(ready=False, reason="is not listening yet")
        operations = Operations(context)

        async def perform(call: Call) -> bytes:
            try:
                return await operations.perform(call)
            finally:
                health.report(rejected=operations.rejected())

        server = Server(context.settings.cni_socket, perform)
        await server.serve(lambda: health.report())
