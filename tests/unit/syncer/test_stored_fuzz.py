"""Whatever stands in the datastore, it costs its own object alone; and the order of changes shows in nothing."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calico_node.datastores.client import Client, ResourceEvent, ResourceEventType
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.names import parse_resource_key, resource_key
from calico_node.errors import ValidationError
from calico_node.model import SyncStatus, TierKey
from calico_node.syncer import SyncerKind, stream
from calico_node.syncer.stream import Buffer
from tests.benchmarks.fuzz_documents import guarded
from tests.benchmarks.fuzz_stored import Consumers, Fuzz
from tests.unit.syncer.test_stream import Consumer, network_set
from tests.unit.syncer.test_translator import document


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    engine = await EmbeddedEngine.open(tmp_path / "datastore.db")
    yield Client(engine)
    await engine.close()


def test_a_mutated_object_disturbs_no_consumer() -> None:
    logging.disable(logging.WARNING)
    try:
        fuzz = Fuzz(seed=7)
        outcomes = set()
        for _ in range(1500):
            key, value = fuzz.given()
            outcome, _ = guarded(lambda k=key, v=value: fuzz.trial(k, v), (key, value))  # type: ignore[misc]
            outcomes.add(outcome)
        assert {"left out (readable)", "left out (unreadable)", "taken (readable)", "taken (IPAM)"} <= outcomes
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.anyio
async def test_get_list_watch_and_streams_over_mutated_objects(client: Client) -> None:
    """One after another through a real store: reads answer or refuse, watches and streams go on."""
    fuzz = Fuzz(seed=12)  # its documents have NetworkPolicies among them
    events: list[ResourceEvent] = []
    rejected: dict[str, str | None] = {}
    source = stream(client, SyncerKind.FELIX, node_name="n1", on_rejected=rejected.__setitem__)
    async with aclosing(source), aclosing(client.watch("NetworkPolicy", 1)) as watch:
        consumer = Consumer(source)
        for _ in range(150):
            key, value = fuzz.given()
            await client.kv.put(key, value)
            name = parse_resource_key(key)
            if name is None:
                continue
            with suppress(ValidationError):
                await client.get(name.kind, name.name, name.namespace)
            await client.list(name.kind)
            await client.kv.delete(key)
        for value in (b"{", b"[]"):
            await client.kv.put(watched := resource_key("NetworkPolicy", "default.bad", "prod"), value)
            await client.kv.delete(watched)
        made = await client.create(network_set("sound", "10.0.0.0/8"))
        revision = int(made.metadata.resource_version)
        await consumer.until(revision)
        assert [key for key in consumer.values if getattr(key, "name", "") == "sound"]
        async for event in watch:
            events.append(event)
            if event.revision >= revision:
                break
    assert consumer.statuses[-1] is SyncStatus.IN_SYNC
    assert {event.type for event in events} >= {ResourceEventType.ERROR, ResourceEventType.DELETED}


POOLS = st.fixed_dictionaries({"cidr": st.sampled_from(("10.0.0.0/16", "10.0.0.1/16", "10.1.0.0/16", "bad"))})
NODES = st.fixed_dictionaries({}, optional={"ipv4VXLANTunnelAddr": st.sampled_from(("10.0.0.1", "10.0.0.2", "no"))})
SETS = st.fixed_dictionaries({"nets": st.lists(st.sampled_from(("10.0.0.0/8", "fd00::/8", "?")), max_size=2)})
POLICIES = st.fixed_dictionaries({"selector": st.sampled_from(("all()", "a == 'b'", "a ==")), "types": st.just([])})
PEERS = st.fixed_dictionaries({"peerIP": st.sampled_from(("10.0.0.9", "x")), "asNumber": st.sampled_from((1, 64512))})
STEPS = st.lists(
    st.tuples(
        st.one_of(
            *(
                st.tuples(st.just(kind), st.sampled_from(names), specs)
                for kind, names, specs in (
                    ("IPPool", ("a", "b", "c"), POOLS),
                    ("Node", ("n1", "n10"), NODES),
                    ("GlobalNetworkSet", ("a", "b"), SETS),
                    ("GlobalNetworkPolicy", ("a", "b"), POLICIES),
                    ("BGPPeer", ("a", "b"), PEERS),
                )
            )
        ),
        st.booleans() | st.just(True),
    ),
    max_size=30,
)


def _stored(step: Any) -> tuple[str, bytes | None]:
    (kind, name, spec), present = step
    return resource_key(kind, name), document(kind, name, spec) if present else None


@settings(max_examples=150, deadline=None)
@given(STEPS, st.randoms(use_true_random=False))
def test_every_consumer_ends_the_same_whatever_the_way(steps: list[Any], random: Any) -> None:
    """Streams, rejections, Felix's graph and the BGP data: from the history, and from the last state in any order."""
    logging.disable(logging.WARNING)
    try:
        by_history, by_state = Consumers(), Consumers()
        last: dict[str, bytes | None] = {}
        for key, value in map(_stored, steps):
            by_history.store(key, value)
            last[key] = value
        final = [item for item in last.items() if item[1] is not None]
        random.shuffle(final)
        for key, value in [*final, *((key, None) for key, _ in final[::2]), *final]:
            by_state.store(key, value)
        assert by_history.snapshot() == by_state.snapshot()
    finally:
        logging.disable(logging.NOTSET)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 2)), max_size=60),
    st.lists(st.integers(0, 59)),
    st.integers(1, 4),
)
def test_the_buffer_ends_at_the_last_values_and_says_nothing_twice(
    puts: list[tuple[int, int | None]], takes: list[int], limit: int
) -> None:
    buffer = Buffer()
    seen: dict[TierKey, object] = {}
    last: dict[TierKey, object] = {}

    def take(limit: int) -> None:
        for update in buffer.take(limit):
            assert seen.get(update.key) != update.value
            if update.value is None:
                del seen[update.key]  # what was never delivered is never removed
            else:
                seen[update.key] = update.value

    for number, (name, value) in enumerate(puts):
        buffer.put(TierKey(str(name)), value, number + 1)
        last[TierKey(str(name))] = value
        assert len(buffer) <= 5
        if number in takes:
            take(limit)
    take(100)
    assert seen == {key: value for key, value in last.items() if value is not None}
