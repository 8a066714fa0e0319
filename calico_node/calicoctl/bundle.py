"""A folder of findings that becomes one file: diagnostics to hand to somebody else, without secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson

from calico_node.calicoctl.interrupts import raised
from calico_node.calicoctl.secrets import mask_text, without_secrets
from calico_node.errors import CalicoError

COMMAND_TIMEOUT = 60.0
LONGEST_LOG = 20 << 20
"""Bytes of a log that are taken along: the last ones."""


class Bundle:
    """Everything added is masked; what cannot be had is said in its place, and nothing stops the rest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mask_text(text), errors="replace")

    def add_data(self, name: str, data: Any) -> None:
        text = orjson.dumps(without_secrets(data), option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()
        self.add(name, text + "\n")

    def add_output(self, name: str, command: Sequence[str]) -> None:
        """What a command prints; "not installed" where there is no such command."""
        program = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            self.add(name, f"{command[0]} is not installed\n")
            return
        try:
            done = subprocess.run(
                [program, *command[1:]],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_TIMEOUT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.add(name, f"{' '.join(command)}: {error}\n")
            return
        text = done.stdout.decode(errors="replace")
        if done.returncode:
            text += f"\n{' '.join(command)}: exit status {done.returncode}: {done.stderr.decode(errors='replace')}"
        self.add(name, text)

    def add_logs(self, name: str, folder: Path) -> None:
        """The logs of a folder, the end of each."""
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
        if not files:
            self.add(f"{name}/none", f"no files in {folder}\n")
        for path in files:
            try:
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - LONGEST_LOG))
                    text = file.read(LONGEST_LOG).decode(errors="replace")
            except OSError as error:
                text = f"{path}: {error.strerror}\n"
            self.add(f"{name}/{path.relative_to(folder)}", text)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Work of which an error becomes the text of ``name``."""
        try:
            yield
        except CalicoError as error:
            self.add(name, f"{error}\n")


@contextmanager
def bundle(name: str, *, keep: bool = False) -> Iterator[tuple[Bundle, Path]]:
    """A bundle, and the file that it is when the block ends: ``<name>-<time>.tar.gz`` in a temporary folder that
    only its owner may read.  With ``keep`` the files stay beside it."""
    folder = Path(tempfile.mkdtemp(prefix="calico"))
    work = folder / "diagnostics"
    work.mkdir()
    file = folder / f"{name}-{datetime.now():%Y%m%d_%H%M%S}.tar.gz"
    try:
        with raised():
            yield Bundle(work), file
            with tarfile.open(file, "w:gz", compresslevel=6) as tar:
                tar.add(work, arcname="diagnostics")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not keep:
        shutil.rmtree(work)
