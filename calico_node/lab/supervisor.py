"""The supervisor: PID 1 of a lab.  It builds the fabric, keeps nodes and pods as the documents say, and answers.

``supervisor ROOT LEASH LIFE``: the lab's folder, the descriptor of the leash (its other end is held by the command
that started the lab) and that of the keeper's socket.  When it ends, the kernel ends every process of the lab.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from pathlib import Path

import structlog

from calico_node.lab.children import Children
from calico_node.lab.control import ControlServer
from calico_node.lab.keeper import tell
from calico_node.lab.operations import Lab
from calico_node.lab.paths import LabPaths, remove
from calico_node.lab.worker import raise_file_limit
from calico_node.linux.namespaces import remove_named_netns

log = structlog.get_logger("lab")


async def _run(root: Path, leash: int, life: int) -> None:
    paths = LabPaths(root.name, root)
    children = Children()
    children.install()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    lab = Lab(paths, children, stop)
    control = ControlServer(paths.control, lab.handlers())
    server = asyncio.create_task(control.serve())
    tell(leash, {"ready": True})
    watchers = [
        asyncio.create_task(_until_end(life)),
        asyncio.create_task(_until_let_go(leash, lab)),
        asyncio.create_task(stop.wait()),
        server,
    ]
    done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if task is not watchers[2] and not task.cancelled() and task.exception() is not None:
            log.error("the supervisor ends", error=repr(task.exception()))
    if watchers[0] in done:
        # Nobody else is left to clean up; and nobody must write files meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        for path in (root / "netns").glob("*"):
            remove_named_netns(str(path))
        remove(root)


async def _until_end(fd: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(fileno=fd) as sock:
        sock.setblocking(False)
        await loop.sock_recv(sock, 1)


async def _until_let_go(leash: int, lab: Lab) -> None:
    """Returns when the starting command ended while it still held the lab."""
    await _until_end(leash)
    if lab.detached:
        await asyncio.get_running_loop().create_future()


def main() -> None:
    root, leash, life = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    os.set_inheritable(leash, False)
    os.set_inheritable(life, False)
    os.umask(0o077)
    raise_file_limit()
    asyncio.run(_run(root, leash, life))
    # Worker threads and children end with this process, which is PID 1 of theirs.
    os._exit(0)


if __name__ == "__main__":
    main()
