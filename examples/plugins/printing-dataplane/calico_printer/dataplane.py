"""A dataplane that enforces nothing and prints, one line a message, what it was asked to enforce."""

from __future__ import annotations

import sys

import attrs

from calico_node.dataplanes.contract import (
    CONTRACT_VERSION,
    Applied,
    Batch,
    ObjectState,
    ObjectStatus,
    WorkloadEndpointUpdate,
)
from calico_node.hookspecs import AgentContext


class Printer:
    """Selected with ``CALICO_DATAPLANE=printer``."""

    contract_version = CONTRACT_VERSION

    def __init__(self, context: AgentContext) -> None:
        self._node = context.settings.node_name

    async def start(self) -> None:
        self._say("starts; nothing will be enforced")

    async def apply(self, batch: Batch) -> Applied:
        status = {}
        for message in batch.messages:
            fields = attrs.asdict(message, recurse=False, filter=lambda _, value: bool(value))
            self._say(f"{type(message).__name__} {fields}")
            if isinstance(message, WorkloadEndpointUpdate):
                status[message.id] = ObjectStatus(ObjectState.DOWN, "the printer enforces nothing")
        self._say(f"is at revision {batch.revision}")
        return Applied(batch.revision, status)

    async def interfaces_changed(self, up: frozenset[str]) -> Applied:
        self._say(f"sees interfaces {sorted(up)}")
        return Applied(0)

    async def stop(self) -> None:
        self._say("stops")

    def _say(self, text: str) -> None:
        print(f"printer on {self._node}: {text}", file=sys.stdout, flush=True)
