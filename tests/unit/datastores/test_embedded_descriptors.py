"""What opening the embedded datastore does with file descriptors: where it is refused, where there are no more."""

# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from calico_node.datastores.embedded import EmbeddedEngine
from calico_node.datastores.embedded.clock import Clock
from calico_node.errors import DatastoreError

pytestmark = pytest.mark.anyio


async def test_a_file_that_is_refused_is_not_held_open(path: Path) -> None:
    """Whoever tries again and again must not run out of descriptors, or of inotify instances."""
    path.write_bytes(b"not a database at all" * 100)
    held = []
    for _ in range(3):
        with pytest.raises(DatastoreError):
            await EmbeddedEngine.open(path)
        held.append(sorted(os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()))
    assert not [name for name in held[-1] if str(path) in name]
    assert len(held[0]) == len(held[-1])


async def test_too_many_open_files_are_no_matter_of_the_path(path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(0)
    os.close(next_one)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        for clock in (None, Clock("this")):
            with pytest.raises(DatastoreError, match=r"^/[^;]*: Too many open files$"):
                await EmbeddedEngine.open(path, clock=clock)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    await (await EmbeddedEngine.open(path)).close()
