"""From what is in the kernel and what should be there to the messages that make up the difference.

Pure.  The steps come in an order that is safe to cut between any two of them: whatever is named exists before it is
named, and stops being named before it goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from attrs import define, field, frozen

from calico_node.dataplanes.contract import ObjectID
from calico_node.dataplanes.nftables import codec
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables.codec import Hook
from calico_node.dataplanes.nftables.layout import TABLE, Chain
from calico_node.dataplanes.nftables.members import SetShape, delta_groups
from calico_node.dataplanes.nftables.tables import MAPS, DesiredSet, DesiredTable

_GROUP = 1000
"""Set members changed in one step."""


@define
class KnownChain:
    hashes: tuple[str, ...] = ()
    hook: Hook | None = None


@define
class KnownSet:
    shape: SetShape
    keys: set[bytes] = field(factory=set)


@define
class KnownTable:
    """One family's table as the kernel has it, by the last look and all that was done since.

    ``discard`` says that it is to be deleted and made anew, in one transaction.
    """

    exists: bool = False
    discard: bool = False
    chains: dict[str, KnownChain] = field(factory=dict)
    sets: dict[str, KnownSet] = field(factory=dict)
    maps: dict[str, dict[bytes, e.Verdict]] = field(factory=dict)


@frozen
class Step:
    """Messages that belong together; ``done`` records their effect on the known table."""

    messages: tuple[bytes, ...]
    done: Callable[[], None] = field(repr=False)
    owner: ObjectID | None = None

    @property
    def size(self) -> int:
        return sum(len(message) for message in self.messages)


_RANKS = (("filter-cali-pi-", 1), ("filter-cali-po-", 1), ("filter-cali-pri-", 1), ("filter-cali-pro-", 1))


def _rank(name: str) -> int:
    """Called chains before those that call them; the static ones, which close unknown interfaces, before all."""
    for prefix, rank in _RANKS:
        if name.startswith(prefix):
            return rank
    return 2 if name.startswith(("filter-cali-tw-", "filter-cali-fw-")) else 0


class IncompatibleError(Exception):
    """A set in the kernel is made for other keys than the one of its name that is wanted."""


class Planner:
    """The difference of one family's table; ``prune`` also removes what nobody asked for."""

    def __init__(self, desired: DesiredTable, known: KnownTable, ids: Iterator[int], *, prune: bool) -> None:
        self.desired = desired
        self.known = known
        self.prune = prune
        self.number = desired.family.number
        self._ids = ids

    def steps(self) -> Iterator[Step]:
        """In order.  The known table must not change while this runs, but by each step's ``done`` after its use.

        Raises ``IncompatibleError`` where only a new table helps.
        """
        for name, content in self.desired.sets.items():
            if name in self.known.sets and self.known.sets[name].shape != content.shape:
                raise IncompatibleError(f"set {name} has another key type than it should")
        yield from self._create()
        names = sorted(name for name in self.desired.changed_chains if name in self.desired.chains)
        static = [name for name in names if _rank(name) == 0]
        yield from self._static(static)
        yield from self._set_changes()
        for rank in (1, 2):
            for name in names:
                if _rank(name) == rank:
                    yield from self._chain(self.desired.chains[name])
        yield from self._elements()
        yield from self._remove_chains()
        yield from self._remove_sets()

    def _create(self) -> Iterator[Step]:
        """The table, its maps and the sets that static chains look up."""
        messages: list[bytes] = []
        if self.known.discard:
            messages.append(codec.delete_table(self.number, TABLE))
        if not self.known.exists:
            messages.append(codec.new_table(self.number, TABLE))
        maps = [name for name in MAPS if name not in self.known.maps]
        for name in maps:
            messages.append(
                codec.new_verdict_map(
                    self.number, TABLE, name, codec.TYPE_IFNAME, codec.IFNAME_LENGTH, set_id=next(self._ids)
                )
            )

        def done() -> None:
            self.known.exists = True
            self.known.discard = False
            for name in maps:
                self.known.maps[name] = {}

        if messages:
            yield Step(tuple(messages), done)
        yield from self._new_sets(static=True)

    def _new_sets(self, *, static: bool) -> Iterator[Step]:
        for name in sorted(self.desired.changed_sets):
            content = self.desired.sets.get(name)
            if content is not None and name not in self.known.sets and (content.owner is None) == static:
                yield self._new_set(name, content)

    def _new_set(self, name: str, content: DesiredSet) -> Step:
        shape = content.shape
        create = codec.new_set(
            self.number,
            TABLE,
            name,
            shape.key_type,
            shape.key_length,
            interval=shape.interval,
            set_id=next(self._ids),
        )

        def done() -> None:
            self.known.sets[name] = KnownSet(shape)

        return Step((create,), done, content.owner)

    def _static(self, names: list[str]) -> Iterator[Step]:
        """The static chains in one step: they call each other, and half of them would be half a wall."""
        messages: list[bytes] = []
        effects: list[Callable[[], None]] = []
        chains = [self.desired.chains[name] for name in names]
        stale = [chain for chain in chains if self._differs(chain)]
        for chain in stale:
            known = self.known.chains.get(chain.name)
            if known is not None and known.hook != chain.hook:
                messages.append(codec.delete_chain(self.number, TABLE, chain.name))
                known = None
            if known is None:
                messages.append(codec.new_chain(self.number, TABLE, chain.name, chain.hook))
            elif known.hashes:
                messages.append(codec.flush_chain(self.number, TABLE, chain.name))
        for chain in stale:
            messages += self._rules(chain, 0)
            effects.append(self._chain_done(chain))

        def done() -> None:
            for effect in effects:
                effect()

        if messages:
            yield Step(tuple(messages), done)

    def _differs(self, chain: Chain) -> bool:
        known = self.known.chains.get(chain.name)
        return known is None or known.hashes != chain.hashes or known.hook != chain.hook

    def _chain_done(self, chain: Chain) -> Callable[[], None]:
        def done() -> None:
            self.known.chains[chain.name] = KnownChain(chain.hashes, chain.hook)

        return done

    def _rules(self, chain: Chain, start: int) -> list[bytes]:
        messages: list[bytes] = []
        for index in range(start, len(chain.rules)):
            messages += codec.new_rule(
                self.number,
                TABLE,
                chain.name,
                chain.rules[index].expressions,
                chain.comment(index),
                lambda: next(self._ids),
            )
        return messages

    def _chain(self, chain: Chain) -> Iterator[Step]:
        if not self._differs(chain):
            return
        known = self.known.chains.get(chain.name)
        messages: list[bytes] = []
        start = 0
        if known is None:
            messages.append(codec.new_chain(self.number, TABLE, chain.name))
        elif known.hashes == chain.hashes[: len(known.hashes)]:
            start = len(known.hashes)
        else:
            messages.append(codec.flush_chain(self.number, TABLE, chain.name))
        messages += self._rules(chain, start)
        yield Step(tuple(messages), self._chain_done(chain), self.desired.owners.get(chain.name))

    def _set_changes(self) -> Iterator[Step]:
        yield from self._new_sets(static=False)
        for name in sorted(self.desired.changed_sets):
            content = self.desired.sets.get(name)
            if content is None:
                continue
            known = self.known.sets.get(name)
            if known is not None and not self.prune and not content.fresh:
                added = [key for key, is_added in content.changed.items() if is_added and key not in known.keys]
                removed = [key for key, is_added in content.changed.items() if not is_added and key in known.keys]
            else:
                present = set() if known is None else known.keys
                added = list(content.keys - present)
                removed = list(present - content.keys)
            for out, into in delta_groups(content.shape, removed, added, _GROUP):
                yield self._set_step(name, content, out, into)

    def _set_step(self, name: str, content: DesiredSet, out: list[bytes], into: list[bytes]) -> Step:
        messages: list[bytes] = []
        if out:
            messages += codec.delete_elements(self.number, TABLE, name, content.shape.elements(out))
        if into:
            messages += codec.add_elements(self.number, TABLE, name, content.shape.elements(into))

        def done() -> None:
            known = self.known.sets[name].keys
            known.difference_update(out)
            known.update(into)

        return Step(tuple(messages), done, content.owner)

    def _elements(self) -> Iterator[Step]:
        changed = set(self.desired.changed_elements)
        if self.prune:
            changed.update((name, key) for name in MAPS for key in self.known.maps.get(name, ()))
        for name, key in sorted(changed):
            wanted = self.desired.maps[name].get(key)
            present = self.known.maps.get(name, {}).get(key)
            if wanted != present:
                yield self._element(name, key, present, wanted)

    def _element(self, name: str, key: bytes, present: e.Verdict | None, wanted: e.Verdict | None) -> Step:
        messages: list[bytes] = []
        if present is not None:
            element = codec.verdict_element(key, present)
            messages += codec.delete_elements(self.number, TABLE, name, [element])
        if wanted is not None:
            messages += codec.add_elements(self.number, TABLE, name, [codec.verdict_element(key, wanted)])

        def done() -> None:
            content = self.known.maps[name]
            if wanted is None:
                content.pop(key, None)
            else:
                content[key] = wanted

        owner = self.desired.owners.get(wanted.chain) if wanted is not None else None
        return Step(tuple(messages), done, owner)

    def _remove_chains(self) -> Iterator[Step]:
        gone = {name for name in self.desired.changed_chains if name not in self.desired.chains}
        if self.prune:
            gone.update(self.known.chains)
        names = sorted(name for name in gone if name in self.known.chains and name not in self.desired.chains)
        if not names:
            return

        def done() -> None:
            for name in names:
                self.known.chains.pop(name, None)

        # They may call each other: first no rule is left, then no chain.
        messages = [codec.flush_chain(self.number, TABLE, name) for name in names if self.known.chains[name].hashes]
        messages += [codec.delete_chain(self.number, TABLE, name) for name in names]
        yield Step(tuple(messages), done)

    def _remove_sets(self) -> Iterator[Step]:
        gone = {name for name in self.desired.changed_sets if name not in self.desired.sets}
        if self.prune:
            gone.update(self.known.sets)
        for name in sorted(gone):
            if name not in self.known.sets or name in self.desired.sets:
                continue
            yield Step((codec.delete_set(self.number, TABLE, name),), self._set_gone(name))

    def _set_gone(self, name: str) -> Callable[[], None]:
        def done() -> None:
            self.known.sets.pop(name, None)

        return done


def plan(desired: DesiredTable, known: KnownTable, ids: Iterator[int], *, prune: bool = False) -> Iterable[Step]:
    """The steps from ``known`` to ``desired``: of what changed, or with ``prune`` of everything.

    ``ids`` numbers the sets of a transaction, which all families share.
    """
    return Planner(desired, known, ids, prune=prune).steps()
