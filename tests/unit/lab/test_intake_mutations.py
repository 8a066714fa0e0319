"""Documents with random faults: every one passes or is refused by an error of ours, never by another exception."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_node.errors import CalicoError
from calico_node.lab import cluster
from calico_node.lab import spec as lab_spec
from calico_node.lab.intake import Source, read
from calico_node.lab.probes import parse_expectations, parse_probes

FILES = sorted((Path(__file__).parents[3] / "examples").rglob("*.yaml"))
ODD: list[Any] = [
    None, True, 0, -1, 3.5, 2**70, float("nan"), "", "x", "a/b", "é", "\x00", "1.2.3.4", "10.0.0.0/33", "::1",
    "all()", "a ==", [], {}, [None], [[]], {"a": None}, {1: 2}, {None: 1}, {"a": {"b": []}}, "0" * 300, 10000,
    b"bytes", "80:70",
]  # fmt: skip
PIECES = ["{", "[", "- ", ": ", "\n---\n", "&a ", "*a ", "<<: ", '"', "!!binary ", "!!timestamp ", "? ", "\t", "\x00"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything below ``value``."""
    found = [path] if path else []
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in entries:
        found += places(item, (*path, key))
    return found


def spoil_document(document: Any, choose: random.Random) -> Any:
    document = copy.deepcopy(document)
    for _ in range(choose.choice((1, 1, 1, 2, 3))):
        paths = places(document)
        if not paths:
            return choose.choice(ODD)
        *way, last = choose.choice(paths)
        parent = document
        for key in way:
            parent = parent[key]
        action = choose.random()
        if action < 0.6:
            parent[last] = copy.deepcopy(choose.choice(ODD))
        elif action < 0.8 or not isinstance(parent, dict):
            del parent[last]
        else:
            parent[choose.choice(("bogus", 1, None, "name", "kind", "spec"))] = parent.pop(last)
    return document


def spoil_text(text: str, choose: random.Random) -> str:
    for _ in range(choose.randint(1, 4)):
        at = choose.randrange(len(text) + 1)
        cut = choose.choice((0, 0, 1, choose.randint(1, 20)))
        text = text[:at] + choose.choice(["", *PIECES]) + text[at + cut :]
    return text


@pytest.mark.parametrize("seed", range(8))
def test_only_our_errors_refuse_documents(seed: int) -> None:
    choose = random.Random(seed)
    for _ in range(60):
        file = choose.choice(FILES)
        text = file.read_text()
        if choose.random() < 0.7:
            documents = list(yaml.safe_load_all(text))
            at = choose.randrange(len(documents))
            documents[at] = spoil_document(documents[at], choose)
            text = yaml.safe_dump_all(documents)
        else:
            text = spoil_text(text, choose)
        try:
            if file.name == "expect.yaml":
                choose.choice((parse_expectations, parse_probes))(text, str(file))
            taken = read([Source(str(file), text)])
            plan = cluster.make_plan(taken.kubernetes, lab_spec.complete(taken.lab), {}, taken.origins)
            cluster.services(plan, {}, {})
        except CalicoError:
            continue
        except Exception as error:
            error.add_note(f"seed {seed}, {file.name}:\n{text}")
            raise
