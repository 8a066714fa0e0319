"""Writers to be killed: ``python -m tests.interop.datastores.crash_writer SOCKET``.

Everything is imported once; each connection to the Unix socket SOCKET names a task and gets a forked process that
does it.  The process says when it is ready to be traced, and waits for a word.  It speaks through the socket alone,
with calls that the walk does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path

from calico_node.calicoctl.main import main
from calico_node.datastores import Client
from calico_node.datastores.embedded import EmbeddedEngine, copies, store
from calico_node.datastores.kv import Put
from calico_node.errors import Compacted, DatastoreError, ResourceDoesNotExist
from calico_node.ipam import IPAM, AssignRequest, KVStore
from tests.interop.datastores.crash_plan import Scenario, Writer, rest, scenario_named


async def _ready(conversation: socket.socket, scenario: Scenario, path: str, one_by_one: bool = False) -> Writer:
    scenario.set_limits()
    writer = Writer(Path(path), lambda revision: conversation.sendall(b"%d\n" % revision), one_by_one)
    await writer.carry_out(scenario.prepare)
    conversation.sendall(b"ready %d\n" % os.getpid())
    if not conversation.recv(1):
        os._exit(1)
    return writer


async def act(conversation: socket.socket, name: str, path: str) -> None:
    """The writer of a scenario: ready, wait, each revision acknowledged, done."""
    scenario = scenario_named(name)
    writer = await _ready(conversation, scenario, path)
    await writer.carry_out(scenario.act)
    conversation.sendall(b"done\n")
    os._exit(0)


async def stumble(conversation: socket.socket, name: str, path: str) -> None:
    """The writer of a scenario in which a system call fails: what is refused it asks for again, where that stands."""
    scenario = scenario_named(name)
    writer = await _ready(conversation, scenario, path, one_by_one=True)
    left = list(scenario.act)
    for _ in range(3):
        try:
            await writer.carry_out(left)
            conversation.sendall(b"done\n")
            break
        except DatastoreError as error:
            conversation.sendall(f"refused: {error}\n".encode())
            if writer.engine is None:  # whoever cannot open it tries again from the start, as the judge does
                conversation.sendall(b"done\n")
                break
            left = rest(scenario.plan, (await (await writer.open()).get("/last"))[1] - 1)
    os._exit(0)


async def crash(conversation: socket.socket, name: str, path: str) -> None:
    """Does what comes before a scenario, and dies."""
    scenario = scenario_named(name)
    await Writer(Path(path)).carry_out(scenario.before)
    os.kill(os.getpid(), signal.SIGKILL)


def _transaction(dice: random.Random, name: str, number: int) -> list[Put]:
    return [
        Put("/all", f"{name} {number}".encode()),
        Put(f"/w/{name}/{number}", bytes(dice.choice((10, 100, 5_000)))),
        Put(f"/last/{name}", b"%d" % number),
    ]


async def write(conversation: socket.socket, name: str, path: str) -> None:
    """Transactions numbered from 0, each told when it is acknowledged, until someone kills this process.

    Some are large, some put a key under a lease of a second, some compact: everything happens all the time.
    """
    store._WAL_PASSIVE_BYTES, store._WAL_TRUNCATE_BYTES, store._SWEEP_REVISIONS = 100_000, 300_000, 50
    dice = random.Random(name)
    conversation.sendall(b"ready %d\n" % os.getpid())
    engine = await EmbeddedEngine.open(Path(path))
    for number in itertools.count():
        changes = _transaction(dice, name, number)
        if dice.random() < 0.1:
            changes.append(Put(f"/leased/{name}/{number}", b"", await engine.grant(1)))
        revision = (await engine.txn((), changes)).revision
        conversation.sendall(b"%d\n" % number)
        if dice.random() < 0.05 and revision > 1000:
            with contextlib.suppress(Compacted):
                await engine.compact(revision - 1000)


async def visit(conversation: socket.socket, name: str, path: str) -> None:
    """Such transactions, a few at a time, by one who opens the datastore for them and closes it behind them."""
    store._WAL_PASSIVE_BYTES = 20_000
    dice = random.Random(name)
    conversation.sendall(b"ready %d\n" % os.getpid())
    numbers = itertools.count()
    while True:
        engine = await EmbeddedEngine.open(Path(path))
        for number in itertools.islice(numbers, dice.randrange(4)):
            await engine.txn((), _transaction(dice, name, number))
            conversation.sendall(b"%d\n" % number)
        await engine.close()
        await asyncio.sleep(dice.random() * 0.03)


def calicoctl(conversation: socket.socket, arguments: str, folder: str) -> None:
    """A command, or what ``address`` does, on the datastore ``db`` of ``folder``; its status is told.

    What it says is in the file ``said``.
    """
    os.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("CALICO_", "ETCD_", "KUBE", "DATASTORE")):
            del os.environ[name]
    os.environ["CALICO_DATASTORE_PATH"] = f"{folder}/db"
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(said, 1)
    os.dup2(said, 2)
    conversation.sendall(b"ready %d\n" % os.getpid())
    if not conversation.recv(1):
        os._exit(1)
    argv = json.loads(arguments)
    try:
        if argv[0] in ("assign", "unassign"):
            asyncio.run(address(*argv))
            sys.exit()
        main(argv)
    except SystemExit as ended:
        sys.stdout.flush()
        conversation.sendall(b"%d" % (ended.code or 0))


async def address(what: str, handle: str) -> None:
    """What CNI's ADD and DEL do: three addresses of the node n1 for a handle, or the handle's addresses back."""
    engine = await EmbeddedEngine.open(Path("db"))
    ipam = IPAM(KVStore(Client(engine)))
    if what == "assign":
        await ipam.auto_assign(AssignRequest("n1", num4=3, handle_id=handle, attributes={"node": "n1"}))
    else:
        with contextlib.suppress(ResourceDoesNotExist):  # as CNI takes it
            await ipam.release_by_handle(handle)
    await engine.close()


def copy(conversation: socket.socket, what: str, folder: str) -> None:
    """A backup of the datastore ``db`` of ``folder`` to ``target``, or a restore of ``copy`` there."""
    conversation.sendall(b"ready %d\n" % os.getpid())
    if not conversation.recv(1):
        os._exit(1)
    try:
        if what == "backup":
            copies.backup(Path(folder, "db"), Path(folder, "target"))
        else:
            copies.restore(Path(folder, "db"), Path(folder, "copy"), replace=True)
    except DatastoreError as error:
        conversation.sendall(str(error).encode())
    else:
        conversation.sendall(b"done")


TASKS = {
    "act": act,
    "stumble": stumble,
    "crash": crash,
    "write": write,
    "visit": visit,
    "calicoctl": calicoctl,
    "copy": copy,
}


COMMANDS = ("commands", "manifests", "snapshot", "version", "ipam.cli", "ipam.check", "ipam.release", "ipam.split")
"""Modules that calicoctl imports when it needs them; here once for all."""


def serve(address: str) -> None:
    for name in COMMANDS:
        import_module(f"calico_node.calicoctl.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)
        print("listening", flush=True)
        while True:
            conversation, _ = listener.accept()
            with conversation:
                if os.fork():
                    continue
                listener.close()
                os.dup2(2, 1)  # the starter waits for the end of stdout
                what, name, path = json.loads(conversation.makefile().readline())
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                task = TASKS[what](conversation, name, path)
                if task is not None:
                    asyncio.run(task)
                os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])
