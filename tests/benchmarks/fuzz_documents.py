"""Mutated documents and selectors by the million: ``python -m tests.benchmarks.fuzz_documents [COUNT] [SEED]``.

Valid documents of every kind are taken apart and put together wrongly: members with wrong types, bounds, Unicode,
absurd sizes, deep nesting, missing, renamed, doubled or moved elsewhere; selectors are cut and spliced from tokens.
Each document goes the way of a user's (read strictly, defaults, validation, JSON) and of a stored one (read
leniently, written back); some also go through YAML text.  A selector is parsed, made canonical and
evaluated.  Anything that comes out but ValidationError or SelectorError ends the run and is printed with its input,
as does an input that takes more than a second.  A third of the inputs are selectors, a third documents with changes
anywhere, and a third documents with one bad value at one field, in turn for every field that a kind has.  Prints how
many were accepted and refused, with which reasons, how often each field was attacked and which were never refused
by their name.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import orjson
from attrs import fields_dict

from calico_node.errors import SelectorError, ValidationError
from calico_node.resources import (
    KINDS,
    Struct,
    apply_defaults,
    decode,
    encode,
    from_dict,
    load_documents,
    to_dict,
    validate,
)
from calico_node.resources.structure import plan_of
from calico_node.selectors import parse, prefix_labels
from calico_node.selectors.parser import parse_tree
from tests.unit.resources.samples import DOCUMENTS

LARGEST = 1_500_000  # bytes of one document: etcd takes no more
LONGEST = 1.0  # seconds of processor time that one input may take
TEXTS = [
    "", " ", "\n", "\x00", "\x7f", "é", "\u2028", "\u202e", "\U0001f600", "\ud800", "K", "İ", "٣", "²", "ſ", "-", ".",
    "a" * 64, "a" * 254, "a.b.c", "A", "_", "*", "%", "{}", "null", "true", "1", "-1", "0x10", "1e3", "1_000", "NaN",
    "10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/08", "10.0.0.0/255.0.0.0", "0.0.0.0/0",
    "::/0", "010.0.0.1", "fe80::1%eth0", "fd00::/8", "::ffff:10.0.0.1", "fd00::1/129", "1.2.3", "10.0.0.1:179",
    "[fd00::1]:0",
    "[fd00::1", "٣.٣.٣.٣", "80:90", "90:80", "80:", ":80", "0", "65536", "99999999999999999999", "1m30s", "-5s",
    "1.5s",
    "9" * 30 + "h", "1", "5y", ".s", "1µs", "all()", "global()", "global( )", "!global()", "has(", "a == 'b'", "a ==",
    "a in {}", "1:1", "65536:1", "1:2:3:4", "1.1", "65536.1", "4294967296", "EF", "AF44", "64", "TCP", "tcp", "6",
    "Allow", "Set", "Delete", "Learn", "Always", "LoadBalancer", "Tunnel", "Ingress", "Enabled", "default", "node.a",
    "knp.default.x.y", "kube-admin", "2026-08-01T10:00:00Z", "2026-13-01T10:00:00Z", "0000-01-01T00:00:00Z",
]  # fmt: skip
NUMBERS = [
    0, -1, 1, 2, 4, 6, 19, 20, 26, 32, 33, 63, 64, 116, 128, 129, 250, 255, 256, 1000, 65535, 65536, 2**31 - 2,
    2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64, 10**30,
    0.0, -0.0, 0.5, 1.0, 26.0, 1e-7, 1e21, 1e308, float("inf"), float("nan"),
]  # fmt: skip
FIELDS = [*sorted({name for document in DOCUMENTS for name in document["spec"]}), "extra", "fault", "__class__", "é"]
TOKENS = [
    "a", "b-c", "has(", "all(", "global(", ")", "(", "!", "&&", "||", "==", "!=", "in", "not in", "notin", "contains",
    "starts with", "endswith", "{", "}", ",", "'x'", '"y"', "'", '"', " ", "\t", "\n", "=", "&", "|", "é", "\x00",
    "projectcalico.org/name", "pcns.", "1", "'\U0001f600'", "'\ud800'", "in {'a', \"b\"}", "a == 'b'", "has(a)",
    "all()",
]  # fmt: skip
SELECTORS = [
    "a == 'b' && has(c) || !(d in {'e', 'f'})",
    "all()",
    "!has(x) && y not in {'z',} && w starts with 'v'",
    'a contains "b" || a ends with \'c"\'',
    "((a != 'b'))",
    "in in {'in'} && contains contains 'contains'",
]

Place = tuple[Any, Any]
Path = tuple[str | int, ...]
Outcome = tuple[str, str]
"""The reason of a refusal, or what was accepted, and the field that it names."""


def leaves(cls: type[Struct], path: Path = ()) -> Iterator[Path]:
    """The path of every member that is no object of a known class; the items of lists are their first."""
    for name, plan in plan_of(cls).items():
        is_list = "list" in str(fields_dict(cls)[plan.attribute].type)
        here = (*path, name, 0) if is_list else (*path, name)
        inner = plan.element or plan.member.shape
        if inner:
            yield from leaves(inner, here)
        else:
            yield here


LEAVES: list[tuple[str, Path]] = [(kind, path) for kind, info in KINDS.items() for path in leaves(info.cls)]


def dotted(path: Path) -> str:
    """As errors name it."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def places(value: Any, out: list[Place]) -> list[Place]:
    """Every (container, key) of a document."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        out.append((value, key))
        places(item, out)
    return out


class Mutator:
    """Makes inputs from a seed; equal seeds make equal inputs."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seeds = [orjson.dumps(document) for document in DOCUMENTS]
        self.by_kind = {kind: [orjson.dumps(d) for d in DOCUMENTS if d["kind"] == kind] for kind in KINDS}
        self.values: list[Any] = [container[key] for document in DOCUMENTS for container, key in places(document, [])]

    def text(self) -> str:
        roll = self.random.random()
        if roll < 0.6:
            return self.random.choice(TEXTS)
        if roll < 0.8:
            return self.selector()
        if roll < 0.999:
            return self.random.choice(TEXTS) + self.random.choice(TEXTS)
        return self.random.choice(TEXTS)[:8] * self.random.choice((10**3, 10**4, 10**5))

    def value(self) -> Any:
        roll = self.random.random()
        if roll < 0.35:
            return self.text()
        if roll < 0.6:
            return self.random.choice(NUMBERS)
        if roll < 0.75:
            return copy.deepcopy(self.random.choice(self.values))
        if roll < 0.85:
            return self.random.choice((None, True, False, [], {}, [None], {"": None}, [[]], [{}]))
        if roll < 0.95:
            return {self.random.choice(FIELDS): self.random.choice(NUMBERS), self.text()[:99]: self.text()}
        if roll < 0.999:
            return [self.random.choice(TEXTS)] * self.random.choice((1, 1, 2, 2, 7, 7, 51, 51, 257, 1025))
        return self.deep(self.random.choice((50, 200, 400, 900)))

    def deep(self, levels: int) -> Any:
        value: Any = self.random.choice(TEXTS)
        for _ in range(levels):
            value = {self.random.choice(("spec", "a")): value} if self.random.random() < 0.5 else [value]
        return value

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = orjson.loads(self.random.choice(self.seeds))
        if self.random.random() < 0.8:  # part of it is as good, and quicker
            spec = document["spec"]
            kept = set(self.random.sample(list(spec), min(len(spec), 6)))
            document["spec"] = {name: value for name, value in spec.items() if name in kept or len(spec) <= 10}
            for name in sorted(kept & {"ingress", "egress", "exportV4", "importV4", "exportV6", "importV6"}):
                spec[name][:] = self.random.sample(spec[name], 1)
        for _ in range(self.random.choice((1, 1, 1, 2, 3, 6))):
            found = places(document, [])
            if self.random.random() < 0.95:  # a document without its kind tests little
                found = [place for place in found if place[0] is not document]
            if found:
                self.mutate(*self.random.choice(found))
        return document

    def attacked(self, kind: str, path: Path) -> dict[str, Any]:
        """A valid document but for one value, at the path."""
        document: dict[str, Any] = orjson.loads(self.random.choice(self.by_kind[kind]))
        value: Any = document
        for step, following in pairwise(path):
            empty: Any = [None] if isinstance(following, int) else {}
            if isinstance(step, int):
                value[step] = value[step] or empty
            else:
                value[step] = value.get(step) or empty
            value = value[step]
        last = path[-1]
        known = isinstance(last, int) or last in value
        value[last] = self.distort(value[last]) if known and self.random.random() < 0.3 else self.value()
        return document

    def mutate(self, container: Any, key: Any) -> None:
        """One change to one member."""
        roll = self.random.random()
        if roll < 0.4:
            container[key] = self.value()
        elif roll < 0.65:
            container[key] = self.distort(container[key])
        elif roll < 0.75:
            del container[key]
        elif isinstance(container, list):
            small = len(places(container[key], [])) < 30
            container.extend([container[key]] * self.random.choice((1, 1, 1, 2, 2, 10, 300) if small else (1,)))
        elif roll < 0.88:
            container[self.random.choice(FIELDS)] = self.value()
        else:
            container[self.random.choice(FIELDS) if roll < 0.95 else self.text()] = container.pop(key)

    def distort(self, value: Any) -> Any:
        """The same value, a little wrong."""
        if isinstance(value, bool):
            return self.random.choice((not value, int(value), str(value).lower()))
        if isinstance(value, int | float):
            return self.random.choice((value + 1, value - 1, -value, float(value), str(value), value * 2**32))
        if isinstance(value, str):
            at = self.random.randint(0, len(value))
            return self.random.choice((value[:at], value[at:], value[:at] + self.text()[:50] + value[at:], value * 2))
        return [value] if self.random.random() < 0.5 else {"a": value}

    def selector(self) -> str:
        roll = self.random.random()
        if roll < 0.4:
            return "".join(self.random.choice(TOKENS) for _ in range(self.random.randint(1, 12)))
        if roll < 0.7:
            return " ".join(self.random.choice(TOKENS) for _ in range(self.random.randint(1, 20)))
        text = self.random.choice(SELECTORS)
        if roll < 0.995:
            at, to = sorted((self.random.randint(0, len(text)), self.random.randint(0, len(text))))
            return text[:at] + self.random.choice(TOKENS) + text[to:]
        piece = self.random.choice(("(", "!", "has(a)&&", "a=='b'||", "(has(a)||(", "a in {", "'", " ", "!(", "a"))
        return piece * self.random.choice((100, 130, 1000, 20_000)) + text


def described(error: ValidationError | SelectorError) -> Outcome:
    """Reason and field, once the whole text has been made and found short enough to be read."""
    if len(str(error)) > 10_000:
        raise AssertionError("an error text of absurd length") from error
    return error.reason, error.field if isinstance(error, ValidationError) else ""


def try_document(document: dict[str, Any], through_text: bool) -> Outcome:
    """Both ways of one document; gives the reason why it was refused, or "accepted"."""
    kind = document.get("kind")
    try:
        raw = orjson.dumps(document)
    except (TypeError, ValueError):
        raw = b""
    if len(raw) > LARGEST:
        return "larger than a datastore takes", ""
    if isinstance(kind, str) and kind in KINDS:
        for data in (raw, document)[: 1 + through_text]:
            try:
                stored = encode(decode(kind, data))
                assert encode(decode(kind, stored)) == stored
            except ValidationError as error:
                described(error)
    try:
        if through_text:
            document = load_documents(json.dumps(document), "fuzz")[0].data
        resource = from_dict(document, origin="fuzz")
        written = to_dict(resource)
        apply_defaults(resource)
        validate(resource)
        first = encode(resource)
    except ValidationError as error:
        return described(error)
    again = decode(resource.kind, first)
    assert encode(again) == first
    apply_defaults(again)
    validate(again)
    assert encode(again) == first
    json.loads(first)
    assert list(written)[:2] == ["kind", "apiVersion"]
    return "accepted", ""


LABELS: tuple[dict[str, str], ...] = (
    {},
    {"a": "b"},
    {"a": "x", "in": "in", "c": ""},
    {"projectcalico.org/name": "é"},
)


def try_selector(text: str) -> Outcome:
    try:
        selector = parse(text)
    except SelectorError as error:
        if not 0 <= error.position <= len(text) or prefix_labels(text, "pcns."):
            raise AssertionError("a refused selector is not refused everywhere") from error
        return f"selector: {described(error)[0]}", ""
    canonical = selector.canonical
    again = parse_tree(canonical)
    assert str(again) == canonical or "!!" in canonical  # Calico's own canonical text keeps a doubled negation
    for labels in LABELS:
        assert selector.matches(labels) is again.matches(labels)
    assert selector.uid().startswith("s:")
    parse(prefix_labels(text, "pcns."))
    return "selector accepted", ""


def guarded(trial: Callable[[], Outcome], given: Any) -> tuple[Outcome, float]:
    """Run one trial; whatever it raises ends the run with the input."""
    start = time.perf_counter()
    try:
        outcome = trial()
    except BaseException:
        print(f"input: {ascii(given)[:3000]}", file=sys.stderr)
        raise
    took = time.perf_counter() - start
    if took > LONGEST:  # perhaps the machine was busy
        start = time.process_time()
        trial()
        took = time.process_time() - start
    if took > LONGEST:
        print(f"input: {ascii(given)[:3000]}", file=sys.stderr)
        raise AssertionError(f"took {took:.2f} s")
    return outcome, took


def main(count: int, seed: int) -> None:
    mutator = Mutator(seed)
    outcomes: Counter[str] = Counter()
    attacks: Counter[tuple[str, Path]] = Counter()
    named: Counter[tuple[str, Path]] = Counter()
    worst = 0.0
    start = time.monotonic()
    for number in range(count):
        leaf = None
        if number % 3 == 0:
            text = mutator.selector()
            (outcome, field), took = guarded(lambda text=text: try_selector(text), text)  # type: ignore[misc]
        else:
            leaf = LEAVES[number // 3 % len(LEAVES)] if number % 3 == 1 else None
            document = mutator.attacked(*leaf) if leaf else mutator.document()
            through_text = number % 60 < 2
            (outcome, field), took = guarded(lambda d=document, t=through_text: try_document(d, t), document)  # type: ignore[misc]
        if leaf:
            attacks[leaf] += 1
            named[leaf] += field.startswith(dotted(leaf[1][:-1] if leaf[1][-1] == 0 else leaf[1]))
        outcomes[outcome[:60]] += 1
        worst = max(worst, took)
    elapsed = time.monotonic() - start
    accepted, selectors = outcomes.pop("accepted", 0), outcomes.pop("selector accepted", 0)
    refused = sum(outcomes.values())
    print(f"seed {seed}: {count} inputs in {elapsed:.0f} s, the slowest {worst * 1000:.0f} ms")
    print(f"accepted {accepted} documents and {selectors} selectors, refused {refused}; commonest reasons:")
    for reason, times in outcomes.most_common(12):
        print(f"  {times:8d} {reason!a}")
    least = min(attacks[leaf] for leaf in LEAVES)
    print(f"{len(LEAVES)} fields of {len(KINDS)} kinds, each attacked {least} times or more")
    silent = [leaf for leaf in LEAVES if not named[leaf]]
    print(
        f"never refused by their name: {len(silent)}",
        *(f"{kind} {dotted(path)}" for kind, path in silent[:30]),
        sep="\n  ",
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
