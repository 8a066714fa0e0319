"""Starting a lab from the command line, and entering its namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calico_node.errors import LabError
from calico_node.lab import control, inside
from calico_node.lab.paths import LabPaths, claim, remove, starting
from calico_node.linux.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUSER,
    set_parent_death_signal,
    setns,
)

_START_TIMEOUT = 30.0
_DOWN_TIMEOUT = 15.0
_ANSWER_TIMEOUT = 5.0


@contextlib.contextmanager
def leash(paths: LabPaths) -> Iterator[socket.socket]:
    """Start keeper and supervisor and hold the leash: when this process ends, so does a lab that was not let go.

    Raises ``LabError`` when the lab is up already or namespaces are refused.
    """
    claim(paths)
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            with open(paths.log, "ab") as log:
                keeper = subprocess.Popen(
                    [sys.executable, "-m", "calico_node.lab.keeper", str(paths.root), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            # The keeper outlives this process in a detached lab; nobody waits for it here.
            keeper.returncode = 0
        _wait_started(ours, paths)
        yield ours


def _wait_started(sock: socket.socket, paths: LabPaths) -> None:
    sock.settimeout(_START_TIMEOUT)
    line = b""
    while not line.endswith(b"\n"):
        try:
            data = sock.recv(4096)
        except TimeoutError:
            raise LabError(f"the lab did not start within {_START_TIMEOUT:g} s; see {paths.log}") from None
        if not data:
            raise LabError(f"the lab ended while it started{_log_end(paths)}")
        line += data
    message = json.loads(line.splitlines()[0])
    if "error" in message:
        raise LabError(message["error"])


def _log_end(paths: LabPaths) -> str:
    try:
        text = paths.log.read_text(errors="replace").strip()
    except OSError:
        return ""
    return ": " + text.splitlines()[-1] if text else ""


def down(paths: LabPaths) -> None:
    """End the lab and wait until nothing is left of it.  Raises ``LabError`` when none is up."""
    try:
        control.call(paths.control, {"op": "down"}, timeout=_ANSWER_TIMEOUT)
    except LabError:
        if not paths.root.exists():
            raise
        if starting(paths):
            # A supervisor that hangs; its keeper ends it, and the kernel what is in its namespaces.
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((paths.root / "keeper.pid").read_text()), signal.SIGTERM)
    wait_gone(paths)


def wait_gone(paths: LabPaths) -> None:
    """Until the lab's folder is gone; a dead lab's is removed."""
    deadline = time.monotonic() + _DOWN_TIMEOUT
    while paths.root.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    if paths.root.exists():
        with contextlib.suppress(LabError):
            claim(paths)
            remove(paths.root)


def with_host_pids(status: dict[str, Any]) -> dict[str, Any]:
    """``status`` with process ids as they are here, where ``kill`` and ``strace`` can use them."""
    inside_to_here: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            if os.stat(f"/proc/{entry}/ns/pid").st_ino != status["pid_namespace"]:
                continue
            with open(f"/proc/{entry}/status") as file:
                line = next((line for line in file if line.startswith("NSpid:")), "")
        except OSError:
            continue
        if line:
            inside_to_here[int(line.split()[-1])] = int(entry)
    nodes = [{**node, "pid": inside_to_here.get(node["pid"])} for node in status["nodes"]]
    datastore = {**status["datastore"], "pid": inside_to_here.get(status["datastore"].get("pid"))}
    return {**status, "nodes": nodes, "datastore": datastore}


def enter(paths: LabPaths, target: str, arguments: Sequence[str]) -> int:
    """Run a command in the lab as seen from ``target``, on this terminal; its exit status, as a shell gives it."""
    result, descriptors = control.call(paths.control, {"op": "enter", "target": target})
    if len(descriptors) != 4:
        raise LabError("the lab sent no namespaces")
    user, pid, mnt, net = descriptors
    # The command belongs to the lab's PID namespace, which only children of the process that enters it are in.
    child = os.fork()
    if child == 0:
        try:
            os._exit(_enter_child(user, pid, mnt, net, result, arguments))
        except OSError as error:
            sys.stderr.write(f"calico-node: the lab's namespaces cannot be entered: {error}\n")
            os._exit(2)
    for fd in descriptors:
        os.close(fd)
    return _wait(child)


def _enter_child(user: int, pid: int, mnt: int, net: int, result: Mapping[str, Any], arguments: Sequence[str]) -> int:
    set_parent_death_signal(signal.SIGKILL)
    if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:
        setns(user, CLONE_NEWUSER)
        # Entering a user namespace gives every right in it, but keeps the user: become its root.
        os.setgid(0)
        os.setuid(0)
    setns(pid, CLONE_NEWPID)
    setns(mnt, CLONE_NEWNS)
    setns(net, CLONE_NEWNET)
    grandchild = os.fork()
    if grandchild:
        return _wait(grandchild)
    set_parent_death_signal(signal.SIGKILL)
    cwd = os.getcwd()
    inside.own_view(result["etc"])
    with contextlib.suppress(OSError):
        os.chdir(cwd)
    try:
        environ = {**os.environ, **result["environ"]}
        kept = {name: value for name, value in environ.items() if value is not None}
        os.execvpe(arguments[0], list(arguments), kept)
    except OSError as error:
        sys.stderr.write(f"{arguments[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126


def _wait(pid: int) -> int:
    """The exit status of a child, while the terminal's signals go to it and not to us."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return 128 - code if code < 0 else code
