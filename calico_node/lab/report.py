"""What a person sees: progress while something happens, the matrix, the state of a lab, the verdict."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from calico_node.lab import matrix
from calico_node.lab.control import Progress as Tell
from calico_node.lab.probes import Difference, Expectation, Result

_WIDTH = 120


class _Console(Console):
    """A console whose reader may leave (``lab up | head``): what is under way goes on unseen."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


class Report:
    """Writes to standard output, or with ``quiet`` only what is wrong, to standard error."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # A terminal of another alphabet shows a question mark sooner than nothing at all.
                stream.reconfigure(errors="replace")
        self._out = _Console(highlight=False)
        if not self._out.is_terminal:
            # A file or pipe has no width of its own.
            self._out = _Console(highlight=False, width=_WIDTH)
        self._err = _Console(stderr=True, highlight=False)

    @contextmanager
    def progress(self) -> Iterator[Tell]:
        """A bar per stage; on what is no terminal one line per finished stage."""
        if self._quiet:
            yield lambda stage, done, total: None
        elif self._out.is_terminal:
            yield from self._bars()
        else:
            yield self._lines()

    def _bars(self) -> Iterator[Tell]:
        columns = (SpinnerColumn(), TextColumn("{task.description:<20}"), BarColumn(24), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=self._out) as bars:
            tasks: dict[str, Any] = {}

            def tell(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield tell

    def _lines(self) -> Tell:
        started = time.monotonic()
        said: set[str] = set()

        def tell(stage: str, done: int, total: int) -> None:
            if done == total and stage not in said:
                said.add(stage)
                self._out.print(f"{stage}: {total} ({time.monotonic() - started:.1f} s)")

        return tell

    def remarks(self, result: Mapping[str, Any]) -> None:
        """What was left out, and what a node refused."""
        if result.get("skipped") and not self._quiet:
            self._out.print(Text(str(result["skipped"]), style="dim"))
        if result.get("locked"):
            self._err.print(Text(str(result["locked"]), style="yellow"))
        for text in result.get("unready") or ():
            self._err.print(Text(f"not ready: {text}", style="yellow"))
        for name, reason in (result.get("rejected") or {}).items():
            self._err.print(Text(f"not in force: {name}: {reason}", style="yellow"))

    def matrix(self, results: Sequence[Result], expectations: Sequence[Expectation], title: str) -> None:
        if not self._quiet:
            marks = matrix.MARKS if self._out.encoding.startswith("utf") else matrix.ASCII_MARKS
            for table in matrix.render(results, expectations, title, max(60, self._out.width), marks):
                self._out.print(table)

    def verdict(self, wrong: Sequence[Difference], count: int) -> None:
        """Every expectation that did not hold, and a line of summary."""
        console = self._err if self._quiet else self._out
        for difference in wrong:
            console.print(Text(str(difference), style="bold red"))
        if count and not self._quiet:
            if wrong:
                console.print(Text(f"{len(wrong)} of {count} expectations do not hold", style="bold red"))
            else:
                console.print(Text(f"all {count} expectations hold", style="bold green"))

    def status(self, status: Mapping[str, Any]) -> None:
        nodes = Table(
            "node", "address", "agent", "health", "BGP", title=f"lab {status['name']}", title_justify="left"
        )
        for node in status["nodes"]:
            unready = [
                f"{name}: {state['reason'] or 'not ready'}"
                for name, state in sorted(node["components"].items())
                if not state["ready"]
            ]
            health = Text("; ".join(unready) or "ready", style="red" if unready else "green")
            if not node["components"]:
                health = Text("does not answer", style="red")
            sessions = node["sessions"]
            established = sum(session["state"] == "Established" for session in sessions)
            agent = f"pid {node['pid']}" if node["pid"] else "ended"
            nodes.add_row(node["name"], node["address"], agent, health, f"{established}/{len(sessions)} established")
        self._out.print(nodes)
        self.datastore(status["datastore"])
        places = Table("pod, host or service", "node", "address", title_justify="left")
        for pod in status["pods"]:
            places.add_row(pod["name"], pod["node"], ", ".join(pod["ips"]) or pod["ip"])
        for host in status["hosts"]:
            places.add_row(f"host:{host['name']}", "", host["address"])
        for service in status["services"]:
            ports = ", ".join(f"{protocol} {port}" for protocol, port in service["ports"])
            places.add_row(f"service:{service['name']}", "", f"{service['address'] or 'headless'} ({ports})")
        self._out.print(places)

    def datastore(self, status: Mapping[str, Any]) -> None:
        where = f"datastore: {status['type']} at {status['endpoint']}"
        state = f"away: {status['away']}" if status["away"] else f"pid {status['pid']}" if status.get("pid") else ""
        self._out.print(Text(f"{where}, {state}" if state else where, style="red" if status["away"] else ""))
