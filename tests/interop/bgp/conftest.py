"""A segment per test, taken down afterwards."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.bgp.cluster import Cluster

_numbers = itertools.count(1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path, f"bgp{os.getpid() % 10000}x{next(_numbers)}")
    try:
        yield made
    finally:
        made.close()
