"""Puts the executables where a container runtime looks for them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from calico_node.plugins.cni import client

NAMES = ("calico", "calico-ipam")


def install_executables(folder: Path, python: str = sys.executable) -> tuple[Path, ...]:
    """Write ``calico`` and ``calico-ipam`` into ``folder`` (``/opt/cni/bin``); their paths.

    Each is one file that needs nothing but a Python at ``python`` and skips the set-up of site packages, which is
    most of an interpreter's start.  A file being executed meanwhile is replaced safely.  Raises ``OSError``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = f"#!{python} -IS\n" + Path(client.__file__).read_text()
    paths = []
    for name in NAMES:
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        temporary.write_text(text)
        temporary.chmod(0o755)
        temporary.rename(folder / name)
        paths.append(folder / name)
    return tuple(paths)
