"""``calicoctl node status``."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from calico_node.calicoctl.boxes import box
from calico_node.calicoctl.config import load_settings
from calico_node.calicoctl.node import bird
from calico_node.calicoctl.node.agent import NotCalicoNode, NotRunning, components
from calico_node.errors import CalicoError

_HEADINGS = ("PEER ADDRESS", "PEER TYPE", "STATE", "SINCE", "INFO")
NO_BGP = "\nThe BGP backend process (BIRD) is not running.\n\n"
RECENT = timedelta(hours=20)


def status(options: dict[str, Any]) -> int:
    """Print the sessions of both families as Calico's tool does for BIRD's: our agent's, or those of the original."""
    settings = load_settings(options["config"], options["context"])
    try:
        found = components(settings)
    except NotCalicoNode as error:
        processes = bird.running()
        if "felix" not in processes:
            raise CalicoError(
                "Calico process is not running." if isinstance(error, NotRunning) else str(error)
            ) from None
        return _of_original(processes, settings.run_dir)
    sys.stdout.write(render(found, datetime.now(UTC).astimezone()))
    return 0


def _of_original(processes: Collection[str], run_dir: Path) -> int:
    print("Calico process is running.")
    if not {"bird", "bird6"} & set(processes):
        sys.stdout.write(NO_BGP)
        return 0
    for version, process in ((4, "bird"), (6, "bird6")):
        if process in processes:
            sys.stdout.write(_table(version, bird.query(run_dir, version)))
        else:
            print(f"\nINFO: BIRDv{version} process: '{process}' is not running.")
    print()
    return 0


def render(found: Mapping[str, Any], now: datetime) -> str:
    """The text for the components' states at ``now``, whose time zone is the one shown."""
    text = "Calico process is running.\n"
    if "bgp" not in found:
        return text + NO_BGP
    sessions = (found["bgp"].get("extra") or {}).get("sessions") or []
    for version in (4, 6):
        text += _table(
            version,
            [
                row
                for row in (_row(session, now) for session in sessions)
                if row and (":" in row[0]) == (version == 6)
            ],
        )
    return text + "\n"


def _table(version: int, rows: Sequence[Sequence[str]]) -> str:
    return f"\nIPv{version} BGP status\n" + (box(_HEADINGS, rows) if rows else f"No IPv{version} peers found.\n")


def _row(session: Mapping[str, Any], now: datetime) -> Sequence[str] | None:
    """None for a session with a workload on this node: those are not shown."""
    kind = bird.TYPES.get(str(session.get("name", "")).partition("_")[0])
    if kind is None:
        return None
    state = str(session.get("state", ""))
    # BIRD's protocol is up when the session is, and otherwise starting.
    protocol = {"Established": "up", "Down": "down"}.get(state, "start")
    return (str(session.get("peer", "")), kind, protocol, _since(str(session.get("since", "")), now), state)


def _since(text: str, now: datetime) -> str:
    """The time of the day, or the day when that is long ago, as BIRD shows it."""
    try:
        moment = datetime.fromisoformat(text).astimezone(now.tzinfo)
    except ValueError:
        return text
    return moment.strftime("%H:%M:%S" if now - moment < RECENT else "%Y-%m-%d")
