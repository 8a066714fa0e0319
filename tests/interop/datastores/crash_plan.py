"""What the writer of the crash walk does, and what everyone must see of it.

A plan is a list of steps, of which it is known beforehand which revisions they make and with which events.  So a plan
that was interrupted anywhere can be judged (which of its revisions are there, is each whole?), and carried on by the
next writer from where it stands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from attrs import field, frozen

from calico_node.datastores.embedded import EmbeddedEngine, store
from calico_node.datastores.embedded.clock import Clock
from calico_node.datastores.kv import Delete, Put
from calico_node.errors import Compacted

Change: TypeAlias = Put | Delete
LEASE_SECONDS = 3600
KEPT = 3


@frozen
class Write:
    """One transaction."""

    changes: tuple[Change, ...]
    leased: bool = False


@frozen
class Together:
    """Transactions that are asked for at once, so that they share a commit; each has a revision of its own."""

    writes: tuple[Write, ...]


@frozen
class Expire:
    """Time passes; the lease of ``keys`` runs out, and someone looks."""

    keys: tuple[str, ...]


@frozen
class Compact:
    """Up to a revision that everyone who watches has been told of: ``KEPT`` before the present one."""


@frozen
class Look:
    """What each engine does once a second."""


@frozen
class Open:
    """Where the plan's engine is not open yet."""


@frozen
class Close:
    pass


Step: TypeAlias = Write | Together | Expire | Compact | Look | Open | Close
Plan: TypeAlias = Sequence[Step]


def revisions(step: Step) -> list[tuple[Change, ...]]:
    """The changes of each revision that the step makes."""
    if isinstance(step, Write):
        return [step.changes]
    if isinstance(step, Together):
        return [write.changes for write in step.writes]
    if isinstance(step, Expire):
        return [tuple(Delete(key) for key in step.keys)]
    return []


def rest(plan: Plan, done: int) -> list[Step]:
    """What is left of the plan when its first ``done`` revisions are there."""
    left = list(plan)
    for position, step in enumerate(plan):
        count = len(revisions(step))
        if not count or done <= 0:
            continue
        if done < count:
            assert isinstance(step, Together)
            return [Together(step.writes[done:]), *plan[position + 1 :]]
        done -= count
        left = list(plan[position + 1 :])
    return left


def state_after(changes: Sequence[tuple[Change, ...]]) -> dict[str, bytes]:
    """What is stored after these revisions."""
    state: dict[str, bytes] = {}
    for change in (change for revision in changes for change in revision):
        if isinstance(change, Put):
            state[change.key] = change.value
        else:
            del state[change.key]
    return state


@frozen
class ShiftedClock(Clock):
    """The system's, put forward at will."""

    shift: list[float] = field(factory=lambda: [0.0])

    def now(self) -> float:
        return super().now() + self.shift[0]


class Writer:
    """Carries out plans; ``acknowledged`` is told each revision that the engine has answered with.

    ``one_by_one``: nothing together, where some may be refused and others not, and no plan knows which.
    """

    def __init__(
        self,
        path: Path,
        acknowledged: Callable[[int], None] = lambda revision: None,
        one_by_one: bool = False,
    ) -> None:
        self._path = path
        self._acknowledged = acknowledged
        self._one_by_one = one_by_one
        self._clock = ShiftedClock(Clock.system().boot)
        self.engine: EmbeddedEngine | None = None

    async def open(self) -> EmbeddedEngine:
        if self.engine is None:
            self.engine = await EmbeddedEngine.open(self._path, clock=self._clock)
        return self.engine

    async def carry_out(self, plan: Plan) -> None:
        for step in plan:
            engine = await self.open()
            if isinstance(step, Write):
                await self._write(engine, step)
            elif isinstance(step, Together) and self._one_by_one:
                for write in step.writes:
                    await self._write(engine, write)
            elif isinstance(step, Together):
                await asyncio.gather(*(self._write(engine, write) for write in step.writes))
            elif isinstance(step, Expire):
                self._clock.shift[0] += 2 * LEASE_SECONDS
                await self._look(engine)
            elif isinstance(step, Compact):
                try:
                    await engine.compact((await engine.get("/last"))[1] - KEPT)
                except Compacted:
                    pass  # done before the plan was interrupted
            elif isinstance(step, Look):
                await self._look(engine)
            elif isinstance(step, Close):
                await self.close()

    async def _look(self, engine: EmbeddedEngine) -> None:
        try:
            await engine._look_once()
        except OSError:
            pass  # as the engine takes it: what could not be told now is seen a second later

    async def _write(self, engine: EmbeddedEngine, write: Write) -> None:
        changes = list(write.changes)
        if write.leased:
            lease = await engine.grant(LEASE_SECONDS)
            changes = [Put(change.key, change.value, lease) for change in changes if isinstance(change, Put)]
        self._acknowledged((await engine.txn((), changes)).revision)

    async def close(self) -> None:
        if self.engine is not None:
            await self.engine.close()
            self.engine = None


def write(number: int, size: int = 40) -> Write:
    """Transaction ``number``: three keys of its own, one that all write, and one of two before deleted."""
    changes: list[Change] = [Put(f"/w/{number:03}/{key}", b"%d:" % number + bytes(size)) for key in range(3)]
    changes.append(Put("/last", b"%d" % number))
    if number >= 2:
        changes.append(Delete(f"/w/{number - 2:03}/0"))
    return Write(tuple(changes))


def writes(start: int, end: int, size: int = 40) -> list[Step]:
    return [write(number, size) for number in range(start, end)]


@frozen
class Scenario:
    """``before`` is done in peace, ``prepare`` by the writer before it can be killed, ``act`` while it can.

    ``watched``: another engine has the datastore open and watches it all the time.  ``crashed``: the one who did
    ``before`` was killed behind it, so that what it wrote stands in the write-ahead log alone.  ``passive`` and
    ``truncate`` are sizes of the write-ahead log, in bytes, from which on it is written back.
    """

    name: str
    before: Plan
    prepare: Plan
    act: Plan
    watched: bool = True
    crashed: bool = False
    passive: int = store._WAL_PASSIVE_BYTES
    truncate: int = store._WAL_TRUNCATE_BYTES

    @property
    def plan(self) -> list[Step]:
        return [*self.before, *self.prepare, *self.act]

    @property
    def compacts(self) -> bool:
        return any(isinstance(step, Compact) for step in self.plan)

    def set_limits(self) -> None:
        """In the writer: small limits make few calls do what many do otherwise."""
        store._WAL_PASSIVE_BYTES = self.passive
        store._WAL_TRUNCATE_BYTES = self.truncate
        store._SWEEP_REVISIONS = 4


_leased = Write(tuple(Put(f"/leased/{number}", b"") for number in range(3)), leased=True)
_expired = Expire(tuple(f"/leased/{number}" for number in range(3)))
_first, _second = writes(0, 3), writes(3, 5)

SCENARIOS = (
    Scenario("commit", _first, [Open()], [*writes(3, 5), Together((write(5), write(6), write(7)))]),
    Scenario("passive checkpoint", _first, writes(3, 5), writes(5, 8), passive=60_000),
    Scenario("truncating checkpoint", _first, writes(3, 5), writes(5, 8), passive=60_000, truncate=60_000),
    Scenario(
        "compaction",
        _first,
        writes(3, 9),
        [Compact(), Look(), Look(), write(9), Compact(), Look(), Look(), write(10)],
    ),
    Scenario("lease expiry", _first, [Open()], [_leased, write(3), _expired, write(4)]),
    Scenario("close", _first, _second, [Close()]),
    Scenario("close of the last", _first, _second, [Close()], watched=False),
    Scenario("creation", [], [], [Open(), write(0), Close()], watched=False),
    Scenario("opening", _first, [], [Open(), write(3), Close()]),
    Scenario("opening alone", _first, [], [Open(), write(3), Close()], watched=False),
    Scenario("opening after a crash", _first, [], [Open(), write(3), Close()], watched=False, crashed=True),
)

BIG = Scenario("checkpoint of big values", _first, writes(3, 7, 300_000), writes(7, 9, 300_000))
"""Under the limits that hold outside of tests: thousands of calls."""


def scenario_named(name: str) -> Scenario:
    return next(scenario for scenario in (*SCENARIOS, BIG) if scenario.name == name)
