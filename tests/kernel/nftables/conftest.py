"""Fixtures: the world of packets, and a dataplane driven from synchronous tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from calico_node.dataplanes.contract import (
    ActivePolicyUpdate,
    ActiveProfileUpdate,
    Applied,
    Batch,
    DataplaneRule,
    InSync,
    Message,
    TierInfo,
    WorkloadEndpointID,
    WorkloadEndpointUpdate,
)
from calico_node.dataplanes.nftables.plugin import NFTables
from calico_node.model import PolicyKey
from tests.kernel.nftables.world import World

ALLOW_ALL = ActiveProfileUpdate("kns.default", (DataplaneRule("allow"),), (DataplaneRule("allow"),))


def key(name: str) -> PolicyKey:
    return PolicyKey("NetworkPolicy", "default", name)


def endpoint(name: str, *tiers: TierInfo, profiles: tuple[str, ...] = ("kns.default",), **more):
    """The pod ``name`` of the world."""
    identity = WorkloadEndpointID("k8s", f"default/{name}", "eth0")
    return WorkloadEndpointUpdate(identity, f"cali{name}", profile_ids=profiles, tiers=tiers, **more)


def policy(name: str, *ingress: DataplaneRule, egress: tuple[DataplaneRule, ...] = ()) -> ActivePolicyUpdate:
    return ActivePolicyUpdate(key(name), "default", ingress, egress)


def ingress(*names: str, tier: str = "default", default_action: str = "Deny") -> TierInfo:
    return TierInfo(tier, default_action, ingress_policies=tuple(map(key, names)))


class Driver:
    """A started ``NFTables`` whose methods are called and awaited in one."""

    def __init__(self, world: World) -> None:
        self.runner = asyncio.Runner()
        self.world = world
        self.revision = 0
        self.start()

    def start(self) -> None:
        """A new instance, as after a restart of the process."""
        self.dataplane = NFTables(netns=self.world.node.path)
        self.runner.run(self.dataplane.start())

    def apply(self, *messages: Message) -> Applied:
        self.revision += 1
        return self.runner.run(self.dataplane.apply(Batch(self.revision, messages)))

    def sync(self, *messages: Message) -> Applied:
        return self.apply(ALLOW_ALL, *messages, InSync())

    def repair(self, *, thorough: bool) -> bool:
        return self.runner.run(self.dataplane.repair(thorough=thorough))

    def interfaces(self, *up: str) -> Applied:
        return self.runner.run(self.dataplane.interfaces_changed(frozenset(up)))

    def restart(self) -> None:
        self.runner.run(self.dataplane.stop())
        self.start()

    def close(self) -> None:
        self.runner.run(self.dataplane.stop())
        self.runner.close()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def driver(world: World) -> Iterator[Driver]:
    made = Driver(world)
    yield made
    made.close()
