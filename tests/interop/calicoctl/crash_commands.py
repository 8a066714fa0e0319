"""calicoctl killed at its commits: what it leaves, and whether the same command, once more, gets to the same end."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import yaml
from attrs import Factory, define, frozen

from calico_node.datastores import Client
from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.ipam import IPAM, AssignRequest, KVStore
from tests.interop.datastores.crash_walk import PATIENCE, Walk, attach, inject
from tests.unit.calicoctl.test_ipam import ENDPOINT

KINDS = Path(__file__).parents[2] / "unit" / "calicoctl" / "kinds.yaml"
WORLD = """\
kind: Node
apiVersion: projectcalico.org/v3
metadata: {name: n1}
---
kind: IPPool
apiVersion: projectcalico.org/v3
metadata: {name: pool}
spec: {cidr: 10.65.0.0/24, blockSize: 29}
---
"""
FLUSH = "fdatasync"
LOCK = ("datastore", "migrate", "lock")
VOLATILE = ("uid", "creationTimestamp", "resourceVersion", "clusterGUID")


def resources(label: str) -> str:
    """One resource of every kind, and some policies more."""
    documents = [
        {
            "apiVersion": "projectcalico.org/v3",
            "kind": kind,
            "metadata": {**case["metadata"], "labels": {"round": label}},
            "spec": case["spec"],
        }
        for kind, case in yaml.safe_load(KINDS.read_text()).items()
    ]
    for number in range(20):
        name, spec = f"policy-{number}", {"selector": f"app == 'a{number}'", "order": len(label) + number}
        policy = {"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "spec": spec}
        documents.append({**policy, "metadata": {"name": name}})
    return yaml.safe_dump_all(documents)


@frozen
class Command:
    """``before`` in peace, ``argv`` killed, then ``again``.  ``world``: there are addresses, some of them leaked.

    ``other_end``: what stays may differ (a node keeps blocks that it has claimed), but for addresses and handles.
    """

    name: str
    argv: tuple[str, ...]
    before: tuple[tuple[str, ...], ...] = ()
    again: tuple[tuple[str, ...], ...] = ()
    world: bool = False
    other_end: bool = False


_one = ("ipam", "release", "--ip=10.65.0.2")
_check = ("ipam", "check", "-o", "two.json")
_release = ("ipam", "release", "--from-report=one.json")
_repair = (LOCK, _check, ("ipam", "release", "--from-report=two.json"))
COMMANDS = (
    Command("apply", ("apply", "-f", "one.yaml")),
    Command("apply of changes", ("apply", "-f", "two.yaml"), before=(("apply", "-f", "one.yaml"),)),
    Command("replace", ("replace", "-f", "two.yaml"), before=(("apply", "-f", "one.yaml"),)),
    Command("create", ("create", "-f", "one.yaml"), again=(("create", "--skip-exists", "-f", "one.yaml"),)),
    Command(
        "delete",
        ("delete", "--skip-not-exists", "-f", "one.yaml"),
        before=(("apply", "-f", "one.yaml"),),
    ),
    Command("ipam configure", ("ipam", "configure", "--strictaffinity=true", "--max-blocks-per-host=4"), world=True),
    Command("ipam release", _one, again=(_one, *_repair), world=True),
    Command(
        "ipam release of a report",
        _release,
        before=(LOCK, ("ipam", "check", "-o", "one.json")),
        again=(_release, *_repair),
        world=True,
    ),
    Command("ipam split", ("ipam", "split", "8", "--name=pool"), before=(LOCK,), world=True),
    Command("datastore migrate lock", LOCK, world=True),
    Command(
        "unassign", ("unassign", "net.many"), again=(("unassign", "net.many"), *_repair), other_end=True, world=True
    ),
    Command("assign", ("assign", "net.new"), again=(("unassign", "net.new"), *_repair), other_end=True, world=True),
)


@define
class Outcome:
    command: str
    number: int
    killed: bool
    faults: list[str] = Factory(list)

    def __str__(self) -> str:
        return f"{self.command}, killed before flush {self.number}"


@define
class Commands:
    """Runs and kills commands, each in a folder of its own."""

    walk: Walk
    _ends: dict[str, tuple[dict[str, Any], int]] = Factory(dict)
    _serial: Iterator[int] = Factory(itertools.count)

    async def _begin(self, command: Command) -> Path:
        folder = self.walk.folder / f"before {command.name}"
        if not folder.exists():
            folder.mkdir()
            for name in ("one", "two"):
                (folder / f"{name}.yaml").write_text(resources(name))
            if command.world:
                (folder / "world.yaml").write_text(WORLD + ENDPOINT)
                await self.peaceful(folder, "apply", "-f", "world.yaml")
                await _assign(folder / "db")
            for argv in command.before:
                await self.peaceful(folder, *argv)
        work = self.walk.folder / f"command {next(self._serial)}"
        shutil.copytree(folder, work)
        return work

    async def peaceful(self, folder: Path, *argv: str) -> str:
        """A command that nobody kills and that must succeed; what it prints."""
        status, said = await self._run(folder, argv)
        if status != 0:
            raise AssertionError(f"{argv} ended with {status}: {said}")
        return said

    async def _run(self, folder: Path, argv: Sequence[str], options: Sequence[str] = ()) -> tuple[int | None, str]:
        """The exit status, None when it was killed, and what it said."""
        reader, conversation = await self.walk.start("calicoctl", json.dumps(argv), folder)
        try:
            pid = int((await reader.readline()).split()[1])
            tracer = await attach(pid, options) if options else None
            conversation.write(b"!")
            answer = await asyncio.wait_for(reader.read(), 4 * PATIENCE)
            if tracer is not None:
                assert tracer.stderr is not None
                await tracer.stderr.read()
                await tracer.wait()
        finally:
            conversation.close()
        return (int(answer) if answer else None), (folder / "said").read_text()

    async def end(self, command: Command) -> tuple[dict[str, Any], int]:
        """What is stored when nobody kills the command, and how often it flushes to the disk, as each commit does."""
        if command.name not in self._ends:
            folder = await self._begin(command)
            status, said = await self._run(
                folder, command.argv, ["-o", str(folder / "trace"), "-e", f"trace={FLUSH}"]
            )
            if status != 0:
                raise AssertionError(f"{command.name} ended with {status}: {said}")
            flushes = len(re.findall(rf"^\d+ +{FLUSH}\(", (folder / "trace").read_text(), re.M))
            for argv in command.again:
                await self._run(folder, argv)
            self._ends[command.name] = await _stored(folder / "db"), flushes
        return self._ends[command.name]

    async def kill(self, command: Command, number: int) -> Outcome:
        """Kill the command before its ``number``-th flush, look what is there, and give it again."""
        end, _ = await self.end(command)
        folder = await self._begin(command)
        status, said = await self._run(folder, command.argv, inject(FLUSH, number))
        outcome = Outcome(command.name, number, killed=status is None)
        if status:
            outcome.faults.append(f"ended with {status}: {said}")
        if command.world:
            outcome.faults += await self._judge_check(folder)
        there = await _stored(folder / "db")
        for argv in command.again or (command.argv,):
            status, said = await self._run(folder, argv)
            # Only what had been done before may be refused.
            refused = status != 0 and there != await _stored(folder / "db")
            if refused or status is None or "unexpected" in said:
                outcome.faults.append(f"{argv} ended with {status}: {said}")
        stored = await _stored(folder / "db")
        if command.other_end:
            outcome.faults += await self._judge_check(folder, exactly=True)
            end, stored = _handles(end), _handles(stored)
        different = sorted(key for key in {*stored, *end} if stored.get(key) != end.get(key))
        if different:
            key = different[0]
            outcome.faults.append(f"{different} differ, {key}: {stored.get(key)} and not {end.get(key)}")
        shutil.rmtree(folder)
        return outcome

    async def _judge_check(self, folder: Path, *, exactly: bool = False) -> list[str]:
        """``ipam check`` must name whatever is wrong; and nothing may be that a release would pass by.

        ``exactly``: nor may a handle count too much.
        """
        faults = []
        said = await self.peaceful(folder, "ipam", "check", "--show-problem-ips")
        for line in ("handles named by blocks but not stored", "handles that count too few IPs", "break their rules"):
            if not any(found.startswith("Found 0 ") for found in said.splitlines() if line in found):
                faults.append(f"ipam check: {line}: {said}")
        stored = await _stored(folder / "db")
        for key, handle in stored.items():
            name = key.removeprefix("/calico/ipam/v2/handle/")
            if name == key:
                continue
            held = {
                block["cidr"]: sum(block["attributes"][index]["handle_id"] == name for index in block["allocations"]
                                   if index is not None)
                for path, block in stored.items() if "/assignment/" in path
            }  # fmt: skip
            if handle["block"] != {cidr: count for cidr, count in held.items() if count} and (
                exactly or name not in said
            ):
                faults.append(f"the handle {name} counts {handle['block']}, ipam check said {said}")
        return faults


async def _assign(path: Path) -> None:
    """Addresses of one workload that is there and of eleven that are gone, in some blocks, one handle of several."""
    engine = await EmbeddedEngine.open(path)
    try:
        ipam = IPAM(KVStore(Client(engine)))
        await ipam.assign_ip("10.65.0.1", hostname="n1", handle_id="net.web", attributes={"node": "n1"})
        for number in range(10):
            attributes = {"node": "n1", "pod": f"p{number}", "namespace": "prod"}
            assigned = await ipam.auto_assign(
                AssignRequest("n1", num4=1, handle_id=f"net.{number:03}", attributes=attributes)
            )
            assert assigned.complete
        assert (await ipam.auto_assign(AssignRequest("n1", num4=8, handle_id="net.many", attributes={}))).complete
    finally:
        await engine.close()


def _handles(stored: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if "/handle/" in key}


async def _stored(path: Path) -> dict[str, Any]:
    """Everything that is stored, but for what differs from run to run."""
    engine = await EmbeddedEngine.open(path)
    try:
        return {kv.key: _steady(orjson.loads(kv.value)) for kv in (await engine.range("")).kvs}
    finally:
        await engine.close()


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _steady(member) for name, member in value.items() if name not in VOLATILE}
    return value
