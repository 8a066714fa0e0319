"""The label index against plain evaluation of every selector over every item."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from calico_node.plugins.felix.calc.labelindex import LabelIndex
from calico_node.selectors import parse

LABELS = st.dictionaries(st.sampled_from("abc"), st.sampled_from(("1", "2", "12")), max_size=3)
PARENTS = st.lists(st.sampled_from("PQ"), max_size=2, unique=True).map(tuple)
ITEMS = st.integers(0, 5)
TERMS = st.sampled_from(
    (
        "all()",
        "a == '1'",
        "a != '1'",
        "has(b)",
        "!has(c)",
        "b in {'1', '12'}",
        "b not in {'1'}",
        "c contains '2'",
        "c starts with '1'",
        "a ends with '2'",
        "a in {}",
    )
)
SELECTORS = st.recursive(
    TERMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} && {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} || {pair[1]})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=5,
)


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.announced: set[tuple[str, int]] = set()
        self.items: dict[int, tuple[dict[str, str], tuple[str, ...]]] = {}
        self.parents: dict[str, dict[str, str]] = {}
        self.selectors: dict[str, str] = {}
        self.index: LabelIndex[str, int] = LabelIndex(self.started, self.stopped)

    def started(self, selector: str, item: int) -> None:
        assert (selector, item) not in self.announced
        self.announced.add((selector, item))

    def stopped(self, selector: str, item: int) -> None:
        self.announced.remove((selector, item))

    @rule(item=ITEMS, labels=LABELS, parents=PARENTS)
    def set_item(self, item: int, labels: dict[str, str], parents: tuple[str, ...]) -> None:
        self.items[item] = (labels, parents)
        self.index.set_item(item, labels, parents)

    @rule(item=ITEMS)
    def delete_item(self, item: int) -> None:
        self.items.pop(item, None)
        self.index.delete_item(item)

    @rule(parent=st.sampled_from("PQ"), labels=st.none() | LABELS)
    def set_parent(self, parent: str, labels: dict[str, str] | None) -> None:
        self.parents[parent] = labels or {}
        self.index.set_parent_labels(parent, labels)

    @rule(key=st.sampled_from("XYZ"), text=SELECTORS)
    def set_selector(self, key: str, text: str) -> None:
        self.selectors[key] = text
        self.index.set_selector(key, parse(text))

    @rule(key=st.sampled_from("XYZ"))
    def delete_selector(self, key: str) -> None:
        self.selectors.pop(key, None)
        self.index.delete_selector(key)
        self.announced = {pair for pair in self.announced if pair[0] != key}

    @rule(budget=st.integers(1, 3))
    def work(self, budget: int) -> None:
        assert self.index.step(budget) <= budget

    @rule()
    def settle(self) -> None:
        while self.index.step(100):
            pass
        expected = set()
        for item, (own, parents) in self.items.items():
            labels: dict[str, str] = {}
            for parent in reversed(parents):
                labels.update(self.parents.get(parent, {}))
            labels.update(own)
            expected |= {(key, item) for key, text in self.selectors.items() if parse(text).matches(labels)}
        assert self.announced == expected
        for item in self.items:
            assert set(self.index.matching(item)) == {key for key, one in expected if one == item}

    @invariant()
    def sizes(self) -> None:
        assert len(self.index) == len(self.items)
        assert self.index.selector_count == len(self.selectors)


IndexMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)
TestLabelIndex = IndexMachine.TestCase


def test_first_parent_wins_and_own_label_beats_both() -> None:
    matches: set[tuple[str, str]] = set()
    index: LabelIndex[str, str] = LabelIndex(lambda *pair: matches.add(pair), lambda *pair: matches.discard(pair))
    for value in "123":
        index.set_selector(value, parse(f"a == '{value}'"))
    index.set_parent_labels("P", {"a": "1"})
    index.set_parent_labels("Q", {"a": "2"})
    index.set_item("x", {}, ("P", "Q"))
    assert matches == {("1", "x")}
    index.set_item("x", {"a": "3"}, ("P", "Q"))
    assert matches == {("3", "x")}
    index.set_item("x", {}, ("Q", "P"))
    assert matches == {("2", "x")}


@pytest.mark.parametrize("items", [2_000])
def test_cost_follows_the_change(items: int) -> None:
    """One pod's label change looks at the selectors of its own application alone, however many there are."""
    index: LabelIndex[int, int] = LabelIndex(lambda *_: None, lambda *_: None)
    for number in range(items):
        index.set_item(number, {"ns": f"n{number % 50}", "app": f"a{number % 100}", "v": "1"}, ())
    for number in range(1000):
        index.set_selector(number, parse(f"ns == 'n{number % 50}' && app == 'a{number % 100}' && v != '{number}'"))
    while index.step(1000):
        pass
    before = index.evaluations
    index.set_item(0, {"ns": "n0", "app": "a0", "v": "7"}, ())
    assert index.evaluations - before <= 20


def test_alternatives_that_differ_in_a_value_and_a_presence() -> None:
    matches: set[tuple[str, str]] = set()
    index: LabelIndex[str, str] = LabelIndex(lambda *pair: matches.add(pair), lambda *pair: matches.discard(pair))
    index.set_selector("s", parse("(a == '1' || has(b)) && (a == '1' || a ends with '2')"))
    for item, labels in {"x": {"a": "1"}, "y": {"a": "2"}, "z": {"a": "2", "b": ""}}.items():
        index.set_item(item, labels, ())
    assert matches == {("s", "x"), ("s", "z")}
