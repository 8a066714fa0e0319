"""What runs of the original on this host, and the BGP sessions as its BIRD tells them.

BIRD answers on its control socket in numbered lines: ``0001`` greets, ``2002`` is a table's head, ``1002`` its first
row, a line that starts with a blank one more row, ``0000`` the end.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from calico_node.errors import CalicoError

TIMEOUT = 2.0
TYPES = {"Mesh": "node-to-node mesh", "Global": "global", "Node": "node specific"}
"""What the start of a protocol's name says of the peer; the rest of the name is its address."""
_HEAD = ["name", "proto", "table", "state", "since", "info"]
_LONGEST = 1 << 24

Row = tuple[str, str, str, str, str]
"""Address, type, state, since and information of a peer."""


def running(proc: Path = Path("/proc")) -> set[str]:
    """Which of ``felix``, ``bird`` and ``bird6`` run as the original starts them, by their command lines."""
    found = set()
    for command in _commands(proc):
        program, first = command[0].rpartition("/")[2], command[1] if len(command) > 1 else ""
        if program == "calico-felix" or (program == "calico-node" and first == "-felix"):
            found.add("felix")
        elif program in ("bird", "bird6"):
            found.add(program)
    return found


def _commands(proc: Path) -> Iterator[list[str]]:
    for folder in proc.iterdir():
        if folder.name.isdigit():
            try:
                text = (folder / "cmdline").read_text(errors="replace")
            except OSError:
                continue  # ended meanwhile
            if text:
                yield text.split("\0")


def query(run_dir: Path, version: int) -> list[Row]:
    """The peers of the BIRD of IPv4 or IPv6.  Raises ``CalicoError``."""
    name = "bird.ctl" if version == 4 else "bird6.ctl"
    failure: OSError | None = None
    for path in (run_dir / name, Path("/var/run/bird") / name):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            try:
                connection.connect(str(path))
            except PermissionError:
                raise CalicoError("Need super user privileges: Operation not permitted") from None
            except OSError as error:
                failure = failure or error
                continue
            try:
                connection.sendall(b"show protocols\n")
                with connection.makefile(errors="replace") as lines:
                    return parse(iter(lambda: lines.readline(_LONGEST), ""), version)
            except OSError as error:
                raise CalicoError(f"Error executing command: BIRD does not answer at {path}: {error}") from None
    raise CalicoError(f"Error querying BIRD: unable to connect to BIRDv{version} socket: {failure}")


def parse(lines: Iterable[str], version: int) -> list[Row]:
    """The peers in an answer to ``show protocols``.  Raises ``CalicoError`` when it is none."""
    rows: list[Row] = []
    for line in lines:
        code, text = line[:4], line[5:]
        if code == "0000":
            return rows
        if code == "2002":
            if text.lower().split() != _HEAD:
                raise CalicoError("Error executing command: unknown BIRD table output format")
        elif code == "1002" or line.startswith(" "):
            row = _row(text if code == "1002" else line, version)
            if row is not None:
                rows.append(row)
        elif code != "0001":
            raise CalicoError(f"Error executing command: unexpected output line from BIRD: {line.strip()!r}")
    raise CalicoError("Error executing command: BIRD ended its answer half-way")


def _row(line: str, version: int) -> Row | None:
    """None for what is no session with a Calico peer."""
    name, proto, _, state, since, *rest = [*line.split(), "", "", "", "", ""] if line.strip() else [""] * 5
    start, _, address = name.partition("_")
    if proto != "BGP" or start not in TYPES:
        return None
    return address.replace("_", "." if version == 4 else ":"), TYPES[start], state, since, " ".join(rest).strip()
