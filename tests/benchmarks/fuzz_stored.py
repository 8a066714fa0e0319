"""Mutated stored objects by the hundred thousand: ``python -m tests.benchmarks.fuzz_stored [COUNT] [SEED]``.

Valid documents of every kind, IPAM blocks and block affinities are mutated as trees (``fuzz_documents``) and as bytes
(truncated, invalid UTF-8, doubled members, deep nesting, huge numbers, nothing at all) and stored beside sound
objects.  Each goes the way of a read, of all four syncer streams, of Felix's graph, of the BGP configuration and of
the IPAM readers.  Anything raised but an error of ours, a sound object that is disturbed, or anything that stays
after the bad one is deleted ends the run and is printed with its input, as does an input that takes more than a
second.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson

from calico_node.dataplanes.recorder.plugin import State
from calico_node.datastores.client import read_resource
from calico_node.datastores.kv import KeyValue
from calico_node.datastores.names import parse_resource_key, resource_key
from calico_node.errors import CalicoError, ValidationError
from calico_node.ipam.documents import decode_affinity, decode_block, decode_config, decode_handle
from calico_node.model import Key, SyncStatus, Update
from calico_node.plugins.bgp.config import Datastore, build
from calico_node.plugins.felix.calc import CalcGraph
from calico_node.resources import KINDS
from calico_node.syncer.processors import SyncerKind, Translator, interest
from tests.benchmarks.fuzz_documents import LARGEST, Mutator, guarded
from tests.unit.felix.oracle import check_references
from tests.unit.resources.samples import document

NODE = "n1"
BLOCK = "/calico/ipam/v2/assignment/ipv4/block/"
AFFINITY = f"/calico/ipam/v2/host/{NODE}/ipv4/block/"
ENDPOINT = {
    "orchestrator": "k8s", "node": NODE, "pod": "web", "endpoint": "eth0", "containerID": "c0",
    "ipNetworks": ["10.250.0.5/32"], "interfaceName": "cali1", "profiles": ["kns.prod"],
}  # fmt: skip
RULE = {"action": "Allow", "source": {"selector": "a == 'b'"}}
SOUND_OBJECTS: list[dict[str, Any]] = [
    document("Tier", {"order": 1_000_000}),
    document("WorkloadEndpoint", ENDPOINT, name=f"{NODE}-k8s-web-eth0", metadata={"labels": {"a": "b"}}),
    document("NetworkPolicy", {"selector": "a == 'b'", "ingress": [RULE], "types": ["Ingress"]}, name="aa"),
    document("GlobalNetworkSet", {"nets": ["10.9.0.0/16"]}, name="aa", metadata={"labels": {"a": "b"}}),
    document("Profile", {"ingress": [RULE]}, name="kns.prod"),
    document("IPPool", {"cidr": "10.250.0.0/16", "natOutgoing": True}, name="aa"),
    document("Node", {"bgp": {"ipv4Address": "10.0.0.1/24", "asNumber": 64512}}, name=NODE),
    document("Node", {"bgp": {"ipv4Address": "10.0.0.2/24"}}, name="n2"),
    document("BGPPeer", {"peerIP": "10.0.0.9", "asNumber": 64513}, name="aa"),
]
BLOCK_DOCUMENT = {
    "cidr": "10.251.0.0/30", "affinity": f"host:{NODE}", "allocations": [0, None, 1, None],
    "unallocated": [1, 3], "sequenceNumber": 2**64 - 1, "sequenceNumberForAllocation": {"0": 7}, "deleted": False,
    "attributes": [
        {"handle_id": "h", "secondary": {"node": NODE, "type": "ipipTunnelAddress"}},
        {"handle_id": None, "secondary": None, "releasedAt": "2026-08-01T10:00:00Z"},
    ],
}  # fmt: skip
SEEDS: dict[str, Mapping[str, Any]] = {
    f"{BLOCK}10.251.0.0-30": BLOCK_DOCUMENT,
    f"{AFFINITY}10.251.0.0-30": {"state": "confirmed", "deleted": "false"},
}


def _key_of(data: Mapping[str, Any], victim: bool = False) -> str:
    """Mutated documents get names of their own, so that the sound ones come first where both claim one v1 key."""
    name, namespace = data["metadata"]["name"], data["metadata"].get("namespace", "")
    if victim and data["kind"] == "WorkloadEndpoint":
        name = f"{NODE}-k8s-zz-eth0"
    elif (victim and name != "default") or (victim and data["kind"] in ("Tier", "IPPool", "Node", "Profile")):
        name = "zz-victim"
    return resource_key(data["kind"], name, namespace)


class Consumers:
    """One syncer view of each kind, with what hangs on it, as one node has them."""

    def __init__(self) -> None:
        self.translators = {kind: Translator(interest(kind, NODE)) for kind in SyncerKind}
        self.values: dict[SyncerKind, dict[Key, object]] = {kind: {} for kind in SyncerKind}
        self.graph = CalcGraph(NODE)
        self.graph.set_status(SyncStatus.IN_SYNC)
        self.state = State()
        self.bgp = Datastore()
        self._settle()

    def store(self, key: str, value: bytes | None) -> int:
        """Returns how many streams left the object out."""
        stored = None if value is None else KeyValue(key, value, 1, 7)
        for kind, translator in self.translators.items():
            if not key.startswith(interest(kind, NODE).prefixes):
                continue
            for model_key, new in translator.translate(key, stored):
                if new is None:
                    del self.values[kind][model_key]
                else:
                    self.values[kind][model_key] = new
                if kind is SyncerKind.FELIX:
                    self.graph.feed([Update(model_key, new)])
                elif kind is SyncerKind.BGP:
                    self.bgp.apply(model_key, new, NODE)
        self._settle()
        return sum(len(translator.rejected) for translator in self.translators.values())

    def _settle(self) -> None:
        while self.graph.step(1000):
            pass
        for message in self.graph.flush():
            check_references(self.state, message)
            self.state.feed(message)
        self.graph.take_routes()
        for version in (4, 6):
            build(self.bgp, NODE, version, {}, lambda _: None)

    def snapshot(self) -> object:
        rejected = [dict(translator.rejected) for translator in self.translators.values()]
        values = {kind: dict(found) for kind, found in self.values.items()}
        return values, rejected, dict(self.graph.faults), _sorted(self.state), _tables(self.bgp)


def _tables(data: Datastore) -> list[object]:
    tables = (data.pools, data.affinities, data.nodes, data.peers, data.filters, data.configurations)
    return [dict(table) for table in tables]


def _sorted(state: State) -> list[object]:
    tables = (
        state.policies, state.profiles, state.workload_endpoints, state.host_endpoints, state.ip_pools, state.config,
    )  # fmt: skip
    found: list[object] = [sorted(map(repr, table.items())) for table in tables]
    found.append(sorted((name, sorted(one.members)) for name, one in state.ip_sets.items()))
    return [*found, sorted(state.local_blocks)]


class Fuzz:
    """Trials from a seed; equal seeds make equal trials."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed)
        self.random = self.mutator.random
        self.consumers = Consumers()
        for data in SOUND_OBJECTS:
            assert not self.consumers.store(_key_of(data), orjson.dumps(data)), data
        self.consumers.store(f"{BLOCK}10.250.0.0-30", orjson.dumps({**BLOCK_DOCUMENT, "cidr": "10.250.0.0/30"}))
        self.before = self.consumers.snapshot()
        self.sound = {kind: dict(values) for kind, values in self.consumers.values.items()}

    def given(self) -> tuple[str, bytes]:
        """A stored key and its bad (or, now and then, good) value."""
        if self.random.random() < 0.2:
            key = self.random.choice(list(SEEDS))
            data: dict[str, Any] = json.loads(json.dumps(SEEDS[key]))
            for _ in range(self.random.choice((1, 1, 2, 4))):
                name = self.random.choice(list(data))
                items = data[name]
                inner = isinstance(items, list) and bool(items) and self.random.random() < 0.5
                self.mutator.mutate(items if inner else data, 0 if inner else name)
                if not data:
                    break
        else:
            seed = orjson.loads(self.random.choice(self.mutator.seeds))
            data = self.mutator.document()
            key = _key_of(data if _names(data) else seed, victim=True)
        return key, self._bytes(data)

    def _bytes(self, data: dict[str, Any]) -> bytes:
        raw = json.dumps(data, ensure_ascii=self.random.random() < 0.5).encode(errors="surrogatepass")
        roll = self.random.random()
        at = self.random.randint(0, len(raw))
        if roll < 0.75:
            return raw
        if roll < 0.8:
            return raw[:at]
        if roll < 0.85:
            return raw[:at] + self.random.choice((b"\xff", b"\xc3", b"\x00", b"\xed\xa0\x80", b"\\ud800")) + raw[at:]
        if roll < 0.9:
            return raw[:-1] + b',"spec":' + self.random.choice((b"{}", b"null", b"[]", b"7", b'""')) + b"}"
        if roll < 0.95:
            return raw.replace(b"1", self.random.choice((b"1" * 5000, b"1e999", b"-1", b"18446744073709551616")), 1)
        deep = self.random.choice((100, 1024, 50_000))
        return self.random.choice((b"", b"null", b"[]", b'""', b"[" * deep, b'{"a":' * deep, b"\xef\xbb\xbf" + raw))

    def trial(self, key: str, value: bytes) -> str:
        """Raises ``AssertionError`` (or whatever a fault of ours raises) when anything but rejection happens."""
        if len(value) > LARGEST:
            return "larger than a datastore takes"
        outcome = _read(key, value)
        left_out = self.consumers.store(key, value)
        for kind, values in self.sound.items():
            for model_key, wanted in values.items():
                assert self.consumers.values[kind].get(model_key) == wanted, f"{model_key} is disturbed"
        self.consumers.store(key, None)
        assert self.consumers.snapshot() == self.before, "something stays of what was deleted"
        return f"left out ({outcome})" if left_out else f"taken ({outcome})"


def _names(data: Mapping[str, Any]) -> bool:
    metadata = data.get("metadata")
    if not isinstance(metadata, dict) or data.get("kind") not in list(KINDS):
        return False
    if KINDS[data["kind"]].namespaced and metadata.get("namespace") != "prod":
        return False
    name = metadata.get("name")
    return isinstance(name, str) and bool(name) and "/" not in name


def _read(key: str, value: bytes) -> str:
    for reader in (decode_block, decode_affinity, decode_handle, decode_config):
        try:
            reader(value)
        except CalicoError as error:
            str(error)
    name = parse_resource_key(key)
    if name is None:
        return "IPAM"
    try:
        read_resource(name.kind, KeyValue(key, value, 1, 7))
    except ValidationError as error:
        if len(str(error)) > 10_000:
            raise AssertionError("an error text of absurd length") from error
        return "unreadable"
    return "readable"


def main(count: int, seed: int) -> None:
    fuzz = Fuzz(seed)
    outcomes: Counter[str] = Counter()
    worst, start = 0.0, time.monotonic()
    for _ in range(count):
        key, value = fuzz.given()
        outcome, took = guarded(lambda k=key, v=value: fuzz.trial(k, v), (key, value))  # type: ignore[misc]
        outcomes[outcome] += 1
        worst = max(worst, took)
    print(f"seed {seed}: {count} inputs in {time.monotonic() - start:.0f} s, the slowest {worst * 1000:.0f} ms")
    for outcome, times in outcomes.most_common():
        print(f"  {times:8d} {outcome}")


if __name__ == "__main__":
    import logging

    logging.disable(logging.WARNING)  # one line for each of them is what a node writes
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
