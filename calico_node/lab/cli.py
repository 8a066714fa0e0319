"""``calico-node lab``: a cluster on this machine, from the user's own YAML.

Exit status: 0 done (``run``: all expectations hold), 1 an expectation does not hold, 2 it could not run.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, ParamSpec

import click

from calico_node.errors import CalicoError, LabError
from calico_node.lab import control, intake, start
from calico_node.lab.datastore import KINDS
from calico_node.lab.paths import LabPaths, lab_paths, running
from calico_node.lab.probes import (
    Expectation,
    Probe,
    Result,
    differences,
    parse_expectations,
    parse_probes,
    probe_from_json,
    probe_to_json,
    renamed,
)
from calico_node.lab.report import Report

P = ParamSpec("P")

_name = click.option("--name", default="lab", show_default=True, help="The lab, where there are several.")
_file = click.option("-f", "--file", "files", multiple=True, metavar="PATH", help="A YAML or JSON file, or a folder.")
_nodes = click.option("--nodes", type=click.IntRange(1, 200), help="How many nodes (default: as documented, else 3).")
_datastore = click.option(
    "--datastore",
    type=click.Choice(KINDS),
    default=KINDS[0],
    show_default=True,
    help="What the nodes keep the cluster's data in; etcd needs the package etcd-server.",
)
_no_wait = click.option("--no-wait", is_flag=True, help="Return before the nodes have acknowledged the change.")
_probes_file = click.option("--probes", "probes_file", metavar="FILE", help="Probe this list instead of everything.")
_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON list of the answers, and nothing else.")


def _guarded(function: Callable[P, int | None]) -> Callable[P, NoReturn]:
    """Errors become one line and exit status 2; Ctrl-C and SIGTERM end the command in order."""

    @wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> NoReturn:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, _interrupt)
        try:
            status = function(*args, **kwargs) or 0
        except CalicoError as error:
            click.echo(f"calico-node lab: {error}", err=True)
            status = 2
        except (KeyboardInterrupt, click.Abort):
            click.echo("calico-node lab: interrupted", err=True)
            status = 2
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - lives as long as the process
            status = 2
        except OSError as error:
            # A full disk, a folder that may not be written, standard output itself.
            what = f"{error.filename}: " if error.filename else ""
            click.echo(f"calico-node lab: {what}{error.strerror or error}", err=True)
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            status = 2
        sys.exit(status)

    return wrapper


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def lab() -> None:
    """A cluster in network namespaces on this machine: real nodes, real policies, real packets.

    It needs neither Kubernetes nor containers, and no root where user namespaces are allowed.
    """


@lab.command()
@_name
@_nodes
@_datastore
@_file
@_guarded
def up(name: str, nodes: int | None, datastore: str, files: Sequence[str]) -> None:
    """Bring a lab up and leave it running."""
    paths = lab_paths(name)
    sources = intake.read_sources(files)
    intake.refuse_nothing(sources, intake.read(sources))
    report = Report(quiet=False)
    request = {"op": "up", "nodes": nodes, "datastore": datastore, "detach": True, **_texts(sources)}
    with start.leash(paths), report.progress() as progress:
        result = _call(paths, request, progress)
    report.remarks(result)
    report.status(start.with_host_pids(_call(paths, {"op": "status"})))


@lab.command()
@_name
@_file
@_no_wait
@_guarded
def apply(name: str, files: Sequence[str], no_wait: bool) -> None:
    """Apply documents to a running lab; returns when every node has acknowledged them."""
    _change(name, "apply", files, wait=not no_wait)


@lab.command()
@_name
@_file
@_no_wait
@_guarded
def delete(name: str, files: Sequence[str], no_wait: bool) -> None:
    """Delete what documents name from a running lab."""
    _change(name, "delete", files, wait=not no_wait)


def _change(name: str, op: str, files: Sequence[str], *, wait: bool) -> None:
    if not files:
        raise LabError(f"lab {op} needs -f PATH")
    sources = intake.read_sources(files)
    report = Report(quiet=False)
    with report.progress() as progress:
        result = _call(lab_paths(name), {"op": op, "wait": wait, **_texts(sources)}, progress)
    report.remarks(result)
    done = "applied" if op == "apply" else "deleted"
    click.echo(f"{result['objects']} objects {done}, revision {result['revision']}")


@lab.command()
@_name
@_json
@_guarded
def status(name: str, as_json: bool) -> None:
    """Show nodes, pods, addresses, BGP sessions and health."""
    result = start.with_host_pids(_call(lab_paths(name), {"op": "status"}))
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        Report(quiet=False).status(result)


@lab.command(name="list")
@_guarded
def list_labs() -> None:
    """Print the names of the labs that are up."""
    for name in running():
        click.echo(name)


@lab.command(name="exec", context_settings={"ignore_unknown_options": True})
@_name
@click.argument("pod", metavar="NS/POD")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_guarded
def execute(name: str, pod: str, command: Sequence[str]) -> int:
    """Run COMMAND in the network of a pod, of host:NAME, or (where it is etcd) of the datastore."""
    return start.enter(lab_paths(name), pod, command)


@lab.command(context_settings={"ignore_unknown_options": True})
@_name
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@_guarded
def node(name: str, node: str, command: Sequence[str]) -> int:
    """Run COMMAND on a node: in its network, with its agent's settings."""
    return start.enter(lab_paths(name), f"node:{node.removeprefix('node:')}", command)


@lab.command()
@_name
@click.argument("node")
@click.option("--kill", is_flag=True, help="End the agent with SIGKILL instead of SIGTERM.")
@_no_wait
@_guarded
def restart(name: str, node: str, kill: bool, no_wait: bool) -> None:
    """Restart the agent of NODE; its kernel state stays in force meanwhile."""
    number = signal.SIGKILL if kill else signal.SIGTERM
    report = Report(quiet=False)
    request = {"op": "restart", "node": node.removeprefix("node:"), "signal": int(number), "wait": not no_wait}
    with report.progress() as progress:
        result = _call(lab_paths(name), request, progress)
    report.remarks(result)


@lab.command(name="datastore")
@_name
@click.argument("action", type=click.Choice(("stop", "start", "restart", "kill")))
@_no_wait
@_guarded
def datastore_command(name: str, action: str, no_wait: bool) -> None:
    """Try a datastore that goes away and comes back (--datastore etcd).

    stop ends it; start returns when the nodes have what was written meanwhile; restart does both; kill is a restart
    by SIGKILL.  What is in force stays in force.
    """
    report = Report(quiet=False)
    with report.progress() as progress:
        request = {"op": "datastore", "action": action, "wait": not no_wait}
        _call(lab_paths(name), request, progress)
    status = start.with_host_pids(_call(lab_paths(name), {"op": "status"}))
    report.datastore(status["datastore"])


@lab.command()
@_name
@click.option("--node", default="", help="Whose folders and name (default: the first node's).")
@_guarded
def env(name: str, node: str) -> None:
    """Print shell commands that point calicoctl and CNI clients at a lab: eval $(calico-node lab env)"""
    result, _ = control.call(lab_paths(name).control, {"op": "env", "node": node})
    for variable, value in result.items():
        # Each with its own end: the shell makes one line of all of it where nobody quotes it.
        click.echo(f"unset {variable};" if value is None else f"export {variable}={shlex.quote(value)};")


@lab.command()
@_name
@_guarded
def down(name: str) -> None:
    """End a lab; nothing is left of it."""
    start.down(lab_paths(name))


@lab.command()
@_name
@_probes_file
@_json
@_guarded
def probe(name: str, probes_file: str | None, as_json: bool) -> None:
    """Ask who reaches whom, with real packets."""
    paths = lab_paths(name)
    asked = parse_probes(_read(probes_file), probes_file) if probes_file else None
    report = Report(quiet=as_json)
    prober = _Prober(paths, asked, [])
    results = prober.run(report)
    if as_json:
        _print_json(results)
    else:
        report.matrix(prober.shown(results), [], "who reaches whom")


@lab.command()
@_name
@_nodes
@_datastore
@_file
@click.option("--expect", "expect_file", metavar="FILE", help="Compare with these expectations.")
@_probes_file
@_json
@_guarded
def run(
    name: str,
    nodes: int | None,
    datastore: str,
    files: Sequence[str],
    expect_file: str | None,
    probes_file: str | None,
    as_json: bool,
) -> int:
    """Bring a lab up, apply, probe before and after the policies, compare with expectations, and take it down."""
    paths = lab_paths(name)
    sources = intake.read_sources(files)
    documents = intake.read(sources)
    intake.refuse_nothing(sources, documents)
    asked = parse_probes(_read(probes_file), probes_file) if probes_file else None
    expectations = parse_expectations(_read(expect_file), expect_file) if expect_file else []
    report = Report(quiet=as_json)
    policies = bool(documents.policies.calico or documents.policies.kubernetes)
    with _foreground(paths):
        with report.progress() as progress:
            request = {"op": "up", "nodes": nodes, "datastore": datastore, "policies": False, **_texts(sources)}
            remarks = _call(paths, request, progress)
        report.remarks(remarks)
        prober = _Prober(paths, asked, expectations)
        if policies and not as_json:
            report.matrix(prober.shown(prober.run(report)), [], "before the policies")
        if policies:
            with report.progress() as progress:
                report.remarks(_call(paths, {"op": "policies", **_texts(sources)}, progress))
        results = prober.run(report)
        shown = prober.shown(results)
    wrong = differences([*results, *prober.extra], expectations)
    if as_json:
        _print_json(results)
    else:
        title = "after the policies" if policies else "who reaches whom"
        report.matrix(shown, [prober.expected(item) for item in expectations], title)
    report.verdict(wrong, len(expectations))
    return 1 if wrong else 0


@contextmanager
def _foreground(paths: LabPaths) -> Iterator[None]:
    """A lab that lives as long as this command."""
    with start.leash(paths):
        try:
            yield
        finally:
            previous = [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]
            try:
                start.down(paths)
            except LabError:
                start.wait_gone(paths)
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
                signal.signal(number, handler)


class _Prober:
    """Probes a lab with one list, as often as wanted, and knows how to show the answers."""

    def __init__(self, paths: LabPaths, asked: Sequence[Probe] | None, expectations: Sequence[Expectation]) -> None:
        places = _call(paths, {"op": "places"})
        self._paths = paths
        self._aliases: dict[str, str] = places["aliases"]
        self.extra: list[Result] = []
        wanted = list(dict.fromkeys(item.probe for item in expectations))
        if asked is not None:
            self._listed = list(asked)
        else:
            default = [probe_from_json(item) for item in places["probes"]]
            covered = {renamed(probe, self._aliases) for probe in default} | set(default)
            self._listed = [*default, *(probe for probe in wanted if probe not in covered)]
        # What is expected of a listed pair by another of its names needs no second packet.
        self._same = {renamed(probe, self._aliases): probe for probe in self._listed}
        known = set(self._listed)
        self._more = [p for p in wanted if p not in known and renamed(p, self._aliases) not in self._same]

    def run(self, report: Report) -> list[Result]:
        """The answers of the list, in its order; those that only expectations ask for go to ``extra``."""
        probes = [*self._listed, *self._more]
        with report.progress() as progress:
            request = {"op": "probe", "probes": [probe_to_json(probe) for probe in probes]}
            answers = _call(self._paths, request, progress)
        results = [
            Result(probe, answer["ip"], answer["allowed"], answer["error"])
            for probe, answer in zip(probes, answers, strict=True)
        ]
        listed, more = results[: len(self._listed)], results[len(self._listed) :]
        alike = [
            Result(renamed(result.probe, self._aliases), result.ip, result.allowed, result.error) for result in listed
        ]
        self.extra = [*more, *alike]
        return listed

    def shown(self, results: Sequence[Result]) -> list[Result]:
        """The answers by the short names of workloads, once each."""
        found = {}
        for result in results:
            probe = renamed(result.probe, self._aliases)
            found[probe] = Result(probe, result.ip, result.allowed, result.error)
        return list(found.values())

    def expected(self, item: Expectation) -> Expectation:
        return Expectation(renamed(item.probe, self._aliases), item.allowed)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabError(f"{path}: {error.strerror if isinstance(error, OSError) else 'is not UTF-8 text'}") from None


def _texts(sources: Sequence[intake.Source]) -> dict[str, Any]:
    return {"sources": [[source.name, source.text] for source in sources]}


def _call(paths: LabPaths, request: Mapping[str, Any], progress: control.Progress | None = None) -> Any:
    result, descriptors = control.call(paths.control, request, progress)
    for fd in descriptors:
        os.close(fd)
    return result


def _print_json(results: Sequence[Result]) -> None:
    lines = ",\n ".join(json.dumps(result.as_json()) for result in results)
    click.echo(f"[{lines}]")


def main() -> None:
    """``python -m calico_node.lab``."""
    lab(prog_name="calico-node lab")
