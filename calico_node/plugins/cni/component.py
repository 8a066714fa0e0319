"""The CNI server as a component of the agent."""

from __future__ import annotations

from calico_node.hookspecs import AgentContext
from calico_node.plugins.cni.operations import Operations
from calico_node.plugins.cni.server import Server


class CNI:
    """Serves the ``calico`` and ``calico-ipam`` executables at ``$CALICO_RUN_DIR/cni.sock``."""

    name = "cni"

    async def run(self, context: AgentContext) -> None:
        health = context.health.reporter(self.name)
        health.report(ready=False, reason="is not listening yet")
        server = Server(context.settings.cni_socket, Operations(context).perform)
        await server.serve(lambda: health.report())
