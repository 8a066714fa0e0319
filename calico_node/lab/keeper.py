"""The keeper: makes a lab's namespaces, starts its supervisor as PID 1 in them, and cleans up when that ends.

It stays outside the PID and mount namespaces, so that it outlives the supervisor however that dies.  Keeper and
supervisor watch each other through a socket pair: when the keeper dies, the supervisor removes the lab's folder and
ends, and with it every process of the lab.  A second pair, the leash, leads to the command that started the lab: when
that ends before it has let the lab go, the supervisor ends too.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType

from calico_node.lab.paths import remove
from calico_node.linux.namespaces import (
    CLONE_NEWIPC,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_REC,
    mount,
    unshare,
)
from calico_node.linux.sandbox import enter_private_network, enter_user_namespace

REFUSED = (
    "this system lets this user make no network namespaces ({reason}): allow user namespaces "
    "(sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000; on Ubuntu 24.04 also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container --privileged), or run as root"
)


def main() -> None:
    """``keeper ROOT LEASH``: the lab's folder, and the descriptor of the leash."""
    root, leash = Path(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    (root / "keeper.pid").write_text(str(os.getpid()))
    life, other_life = socket.socketpair()
    try:
        _enter(root)
        pid = os.fork()
        if pid == 0:
            life.close()
            _become_supervisor(root, leash, other_life.detach())
    except OSError as error:
        reason = f"{error.strerror or error}" if error.errno else str(error)
        tell(leash, {"error": REFUSED.format(reason=reason)})
        remove(root)
        sys.exit(2)
    os.close(leash)
    other_life.close()

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    os.waitpid(pid, 0)
    remove(root)


def tell(leash: int, message: dict[str, object]) -> None:
    """One line to whoever holds the other end of the leash; nobody there is no error."""
    with contextlib.suppress(OSError):
        os.write(leash, json.dumps(message).encode() + b"\n")


def _enter(root: Path) -> None:
    """Private user (unless root has the right without), IPC, UTS and network namespaces, PID for the children."""
    rest = CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWPID
    if os.getuid() == 0:
        try:
            enter_private_network()
        except OSError:
            enter_user_namespace()
            enter_private_network()
    else:
        enter_user_namespace()
        enter_private_network()
    unshare(rest)


def _become_supervisor(root: Path, leash: int, life: int) -> None:
    """In the forked child, PID 1 of the new namespace: its own mounts, then the supervisor's program."""
    try:
        unshare(CLONE_NEWNS)
        mount("none", "/", flags=MS_REC | MS_PRIVATE)
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        os.set_inheritable(leash, True)
        os.set_inheritable(life, True)
        arguments = [sys.executable, "-m", "calico_node.lab.supervisor", str(root), str(leash), str(life)]
        os.execv(sys.executable, arguments)
    except OSError as error:
        tell(leash, {"error": f"{REFUSED.format(reason=error)}"})
    finally:
        os._exit(2)


if __name__ == "__main__":
    main()
