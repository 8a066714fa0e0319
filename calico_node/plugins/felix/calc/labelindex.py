"""Which selectors match which labelled items, kept up to date at a cost that follows the change.

Items (endpoints, network sets) have labels of their own and inherit labels from parents (profiles): an item's own
label beats an inherited one, and among its parents the first in its list that defines a label wins.

Two indexes carry it.  The inverted index ``label -> value -> bitmap of items`` answers a new selector with bitmap
algebra, without looking at items.  The restriction index files every selector under a label (or label and value)
without which it cannot match, and there under each label that it mentions, so that a changed item evaluates only
those of the few selectors its labels call for that the changed labels can make a difference to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeAlias, TypeVar

from pyroaring import BitMap

from calico_node.selectors import Selector
from calico_node.selectors.ast import (
    All,
    And,
    Contains,
    EndsWith,
    Equal,
    Global,
    Has,
    In,
    Node,
    Not,
    NotEqual,
    NotIn,
    Or,
    StartsWith,
    walk,
)

ItemT = TypeVar("ItemT")
SelectorT = TypeVar("SelectorT")
PlaceT = TypeVar("PlaceT")
Labels: TypeAlias = Mapping[str, str]

Bucket: TypeAlias = tuple[str, str | None]
"""(label, value): the item's label has that value; (label, None): the item has that label."""

_NO_LABELS: Labels = {}


class _Selector(Generic[SelectorT]):
    """One active selector: ``matches`` are the items it selects, ``pending`` those of them not yet announced."""

    __slots__ = ("buckets", "key", "matches", "mentions", "pending", "selector")

    def __init__(self, key: SelectorT, selector: Selector) -> None:
        self.key = key
        self.selector = selector
        self.mentions = frozenset(node.label for node in walk(selector.node) if hasattr(node, "label"))
        self.buckets: frozenset[Bucket] | None = None
        self.matches = BitMap()
        self.pending = BitMap()


def _bitmap(bitmaps: dict[str, BitMap], key: str) -> BitMap:
    """That of ``key``, which is new where there was none; ``setdefault`` would make one each time."""
    found = bitmaps.get(key)
    if found is None:
        found = bitmaps[key] = BitMap()
    return found


class LabelIndex(Generic[SelectorT, ItemT]):
    """``started(selector, item)`` and ``stopped(selector, item)`` are called as matches come and go.

    Fan-outs are not done at once: a new selector's matches and the items of a changed parent wait in the index until
    ``step`` works them off.  Once ``step`` returns 0 the announced matches are exact.
    """

    def __init__(
        self, started: Callable[[SelectorT, ItemT], None], stopped: Callable[[SelectorT, ItemT], None]
    ) -> None:
        self._started = started
        self._stopped = stopped
        self._ids: dict[ItemT, int] = {}
        self._items: list[ItemT | None] = []
        self._own: list[Labels] = []
        self._parents: list[tuple[str, ...]] = []
        self._labels: list[Labels] = []  # effective: own and inherited
        self._free: list[int] = []
        self._all = BitMap()
        self._has: dict[str, BitMap] = {}
        self._values: dict[str, dict[str, BitMap]] = {}
        self._parent_labels: dict[str, Labels] = {}
        self._children: dict[str, BitMap] = {}
        self._stale = BitMap()  # items whose parents' labels changed since they were indexed
        self._selectors: dict[SelectorT, _Selector[SelectorT]] = {}
        self._filed: dict[Bucket, dict[SelectorT, _Selector[SelectorT]]] = {}
        self._unfiled: dict[SelectorT, _Selector[SelectorT]] = {}
        # label that is mentioned -> bucket (None: the unfiled) -> selectors
        self._mentioning: dict[str, dict[Bucket | None, dict[SelectorT, _Selector[SelectorT]]]] = {}
        self._unannounced: dict[SelectorT, _Selector[SelectorT]] = {}
        self.evaluations = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, item: ItemT) -> bool:
        return item in self._ids

    @property
    def selector_count(self) -> int:
        return len(self._selectors)

    # Items

    def set_item(self, item: ItemT, labels: Labels, parents: tuple[str, ...]) -> None:
        """Add ``item`` or change its labels and parents."""
        number = self._ids.get(item)
        if number is None:
            number = self._new_id(item)
            old_labels = None
        else:
            if self._own[number] == labels and self._parents[number] == parents and number not in self._stale:
                return
            old_labels = self._labels[number]
        if self._parents[number] != parents:
            self._unlink_parents(number)
            self._parents[number] = parents
            for parent in parents:
                _bitmap(self._children, parent).add(number)
        self._own[number] = labels
        self._stale.discard(number)
        self._relabel(number, old_labels)

    def delete_item(self, item: ItemT) -> None:
        """Forget ``item``; nothing there is fine."""
        number = self._ids.pop(item, None)
        if number is None:
            return
        labels = self._labels[number]
        for selector in self._candidates(labels):
            if number in selector.matches:
                self._stop(selector, number, item)
        for label, value in labels.items():
            self._remove_label(number, label, value)
        self._unlink_parents(number)
        self._all.discard(number)
        self._stale.discard(number)
        self._items[number] = None
        self._own[number] = self._labels[number] = _NO_LABELS
        self._parents[number] = ()
        self._free.append(number)

    def set_parent_labels(self, parent: str, labels: Labels | None) -> None:
        """The labels that ``parent`` hands down; None when it has none (any more)."""
        if (self._parent_labels.get(parent) or _NO_LABELS) == (labels or _NO_LABELS):
            return
        if labels:
            self._parent_labels[parent] = labels
        else:
            self._parent_labels.pop(parent, None)
        children = self._children.get(parent)
        if children:
            self._stale |= children

    def matching(self, item: ItemT) -> Iterator[SelectorT]:
        """The selectors whose match with ``item`` has been announced."""
        number = self._ids.get(item)
        if number is not None:
            for selector in self._candidates(self._labels[number]):
                if number in selector.matches and number not in selector.pending:
                    yield selector.key

    # Selectors

    def set_selector(self, key: SelectorT, selector: Selector) -> None:
        """Add a selector under ``key``, or give ``key`` another one (only the difference is announced)."""
        old = self._selectors.get(key)
        if old is not None and old.selector == selector:
            return
        new = _Selector(key, selector)
        new.matches = self._evaluate(selector.node)
        if old is None:
            new.pending = new.matches.copy()
        else:
            announced = old.matches - old.pending
            self._unfile(old)
            new.pending = new.matches - announced
            for number in announced - new.matches:
                self._stopped(key, self._item(number))
        self._selectors[key] = new
        new.buckets = self._choose_buckets(selector.node)
        self._file(new)
        if new.pending:
            self._unannounced[key] = new

    def delete_selector(self, key: SelectorT) -> None:
        """Forget the selector without announcing the end of its matches."""
        selector = self._selectors.pop(key, None)
        if selector is not None:
            self._unfile(selector)

    def step(self, budget: int) -> int:
        """Do at most ``budget`` units of deferred work and return how many were done."""
        done = 0
        while done < budget and self._stale:
            number = self._stale.pop()
            done += 1
            self._relabel(number, self._labels[number])
        while done < budget and self._unannounced:
            key, selector = next(iter(self._unannounced.items()))
            while done < budget and selector.pending:
                number = selector.pending.pop()
                done += 1
                self._started(key, self._item(number))
            if not selector.pending:
                self._unannounced.pop(key, None)
        return done

    # Inside

    def _new_id(self, item: ItemT) -> int:
        if self._free:
            number = self._free.pop()
            self._items[number] = item
        else:
            number = len(self._items)
            self._items.append(item)
            self._own.append(_NO_LABELS)
            self._labels.append(_NO_LABELS)
            self._parents.append(())
        self._ids[item] = number
        self._all.add(number)
        return number

    def _item(self, number: int) -> ItemT:
        item = self._items[number]
        assert item is not None
        return item

    def _unlink_parents(self, number: int) -> None:
        for parent in self._parents[number]:
            children = self._children.get(parent)
            if children is not None:
                children.discard(number)
                if not children:
                    del self._children[parent]

    def _effective(self, number: int) -> Labels:
        inherited = [
            labels for parent in self._parents[number] if (labels := self._parent_labels.get(parent)) is not None
        ]
        if not inherited:
            return self._own[number]
        merged: dict[str, str] = {}
        for labels in reversed(inherited):
            merged.update(labels)
        merged.update(self._own[number])
        return merged

    def _relabel(self, number: int, old: Labels | None) -> None:
        """Bring the index and the matches to the item's present labels; ``old`` None for a new item."""
        new = self._effective(number)
        self._labels[number] = new
        if old is None:
            for label, value in new.items():
                self._add_label(number, label, value)
            affected = self._candidates(new)
        else:
            changed = {label for label, _ in old.items() ^ new.items()}
            for label in changed:
                if label in old:
                    self._remove_label(number, label, old[label])
                if label in new:
                    self._add_label(number, label, new[label])
            affected = self._concerned(changed, old, new)
        item = self._item(number)
        self.evaluations += len(affected)
        for selector in affected:
            matches = selector.selector.node.matches(new)
            if matches != (number in selector.matches):
                if matches:
                    selector.matches.add(number)
                    self._started(selector.key, item)
                else:
                    self._stop(selector, number, item)

    def _stop(self, selector: _Selector[SelectorT], number: int, item: ItemT) -> None:
        selector.matches.discard(number)
        if number in selector.pending:
            selector.pending.discard(number)
        else:
            self._stopped(selector.key, item)

    def _add_label(self, number: int, label: str, value: str) -> None:
        by_value = self._values.get(label)
        if by_value is None:
            by_value = self._values[label] = {}
        _bitmap(by_value, value).add(number)
        _bitmap(self._has, label).add(number)

    def _remove_label(self, number: int, label: str, value: str) -> None:
        by_value = self._values[label]
        items = by_value[value]
        items.discard(number)
        if not items:
            del by_value[value]
        having = self._has[label]
        having.discard(number)
        if not having:
            del self._has[label], self._values[label]

    def _candidates(self, labels: Labels) -> list[_Selector[SelectorT]]:
        """Every selector that can match an item with ``labels``, each once."""
        found = dict(self._unfiled)
        filed = self._filed
        for label, value in labels.items():
            for bucket in ((label, value), (label, None)):
                selectors = filed.get(bucket)
                if selectors:
                    found.update(selectors)
        return list(found.values())

    def _concerned(self, changed: set[str], before: Labels, now: Labels) -> list[_Selector[SelectorT]]:
        """The candidates of an item, before or now, that mention one of its ``changed`` labels; each once."""
        found: dict[SelectorT, _Selector[SelectorT]] = {}
        gone = {label: before[label] for label in changed if label in before}
        for mentioned in changed:
            by_bucket = self._mentioning.get(mentioned)
            if by_bucket is None:
                continue
            buckets: list[Bucket | None] = [None, *now.items(), *gone.items()]
            buckets += [(label, None) for label in (*now, *gone)]
            for bucket in buckets:
                selectors = by_bucket.get(bucket)
                if selectors:
                    found.update(selectors)
        return list(found.values())

    def _file(self, selector: _Selector[SelectorT]) -> None:
        key, buckets = selector.key, selector.buckets
        if buckets is None:
            self._unfiled[key] = selector
        else:
            for bucket in buckets:
                self._filed.setdefault(bucket, {})[key] = selector
        for label in selector.mentions:
            for place in (None,) if buckets is None else buckets:
                self._mentioning.setdefault(label, {}).setdefault(place, {})[key] = selector

    def _unfile(self, selector: _Selector[SelectorT]) -> None:
        key, buckets = selector.key, selector.buckets
        self._unannounced.pop(key, None)
        if buckets is None:
            self._unfiled.pop(key, None)
        else:
            for bucket in buckets:
                _take(self._filed, bucket, key)
        for label in selector.mentions:
            by_bucket = self._mentioning.get(label, {})
            for place in (None,) if buckets is None else buckets:
                _take(by_bucket, place, key)
            if not by_bucket:
                self._mentioning.pop(label, None)

    def _choose_buckets(self, node: Node) -> frozenset[Bucket] | None:
        """The buckets of which a matching item must be in at least one; None when nothing is required."""
        match node:
            case Equal(label, value):
                return frozenset({(label, value)})
            case In(label, values):
                return frozenset((label, value) for value in values)
            case Has(label) | Contains(label) | StartsWith(label) | EndsWith(label):
                return frozenset({(label, None)})
            case And(operands):
                options = [option for one in operands if (option := self._choose_buckets(one)) is not None]
                return min(options, key=self._crowding, default=None)
            case Or(operands):
                union: set[Bucket] = set()
                for one in operands:
                    option = self._choose_buckets(one)
                    if option is None:
                        return None
                    union |= option
                return frozenset(union)
            case _:
                return None

    def _crowding(self, buckets: frozenset[Bucket]) -> tuple[bool, int, list[tuple[str, str]]]:
        presence_only = any(value is None for _, value in buckets)
        filed = sum(1 + len(self._filed.get(bucket, ())) for bucket in buckets)
        return presence_only, filed, sorted((label, value or "") for label, value in buckets)

    def _evaluate(self, node: Node) -> BitMap:
        """The items that ``node`` selects."""
        match node:
            case All() | Global():
                return self._all.copy()
            case Has(label):
                return self._has.get(label, BitMap()).copy()
            case Equal(label, value):
                return self._values.get(label, {}).get(value, BitMap()).copy()
            case NotEqual(label, value):
                return self._all - self._values.get(label, {}).get(value, BitMap())
            case In(label, values):
                return self._with_values(label, values)
            case NotIn(label, values):
                return self._all - self._with_values(label, values)
            case Contains(label) | StartsWith(label) | EndsWith(label):
                by_value = self._values.get(label, {})
                found = [items for value, items in by_value.items() if node.matches({label: value})]
                return BitMap.union(BitMap(), *found)
            case Not(operand):
                return self._all - self._evaluate(operand)
            case And(operands):
                return BitMap.intersection(*(self._evaluate(one) for one in operands))
            case Or(operands):
                return BitMap.union(*(self._evaluate(one) for one in operands))

    def _with_values(self, label: str, values: Iterable[str]) -> BitMap:
        by_value = self._values.get(label, {})
        return BitMap.union(BitMap(), *(by_value[value] for value in values if value in by_value))


def _take(places: dict[PlaceT, dict[SelectorT, _Selector[SelectorT]]], place: PlaceT, key: SelectorT) -> None:
    """Remove ``key`` from one of ``places``, and the place once nothing is left there."""
    home = places.get(place)
    if home is not None:
        home.pop(key, None)
        if not home:
            del places[place]
