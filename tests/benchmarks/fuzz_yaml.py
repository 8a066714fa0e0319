"""Broken YAML by the million: ``python -m tests.benchmarks.fuzz_yaml [COUNT] [SEED]``.

Valid documents of every kind as YAML text, into which the odd parts of the language are put anywhere: anchors,
aliases and merges, tags, documents' ends, dates, octal and binary numbers, booleans as keys, tabs, characters that
are none.  Anything that comes out but ValidationError, or more than a second of processor time, ends the run with
the input.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter

import yaml

from calico_node.errors import ValidationError
from calico_node.resources import apply_defaults, encode, load_resources, validate
from tests.unit.resources.samples import DOCUMENTS

PARTS = [
    "&a ", "*a", "<<: *a\n", "<<: [*a, {x: 1}]\n", "<<: 1\n", "a: &b [*b]\n", "? ", "? [a]\n: b\n", ": ", "- ",
    "| \n", ">-\n", "!!int ", "!!binary ", "!!python/object:os.system ", "!!set {a}", "!!omap []",
    "!!timestamp 2001-01-01", "2001-01-01", "0777", "0o17", "0b11", "0x", "1_000", "190:20:30", "1e5", "1e400",
    "-0", ".inf", ".nan", "~", "null", "yes", "on: 1\n", "true: x\n", "=: 1\n", "\t", "\n", "  ", "{", "}", "[",
    "]", ",", "'", '"', "\\", "#", "=", "@", "`", "%YAML 1.2\n", "---\n", "...\n", "\x00", "\x85", "\u2028",
    "\ufeff", "é", "\ud800", "{a: {a: {a: ", "spec:\n", "metadata:\n", "kind: List\nitems:\n", "items: [",
    "kind: NetworkPolicyList\n",
]  # fmt: skip
LONGEST = 1.0


def broken(randomly: random.Random, text: str) -> str:
    for _ in range(randomly.choice((1, 1, 2, 3, 8))):
        at, to = randomly.randrange(len(text) + 1), randomly.randrange(len(text) + 1)
        roll = randomly.random()
        if roll < 0.7:
            text = text[:at] + randomly.choice(PARTS) + text[at:]
        elif roll < 0.85:
            text = text[:at] + text[at + to % 30 :]
        else:
            text = text[:at] + text[min(at, to) : max(at, to)][:200] + text[at:]
    return text


def outcome(text: str | bytes) -> str:
    try:
        for resource, document in load_resources(text, "fuzz"):
            apply_defaults(resource)
            try:
                validate(resource)
            except ValidationError as error:
                raise document.located(error) from None
            encode(resource)
    except ValidationError as error:
        return str(error) and error.reason[:48]
    return "accepted"


def main(count: int, seed: int) -> None:
    randomly = random.Random(seed)
    seeds = [yaml.safe_dump(document, default_flow_style=flow) for document in DOCUMENTS for flow in (False, True)]
    outcomes: Counter[str] = Counter()
    worst = 0.0
    for _ in range(count):
        text = broken(randomly, randomly.choice(seeds))
        start = time.process_time()
        try:
            outcomes[outcome(text.encode("utf-8", "surrogatepass") if randomly.random() < 0.5 else text)] += 1
            took = time.process_time() - start
            assert took < LONGEST, f"took {took:.1f} s"
        except BaseException:
            print(f"input: {ascii(text)[:3000]}", file=sys.stderr)
            raise
        worst = max(worst, took)
    print(f"seed {seed}: {count} texts, the slowest {worst * 1000:.0f} ms, {len(outcomes)} outcomes; the commonest:")
    for reason, times in outcomes.most_common(12):
        print(f"  {times:8d} {reason!a}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
