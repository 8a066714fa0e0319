"""However a lab ends, nothing of it is left; and it works for an ordinary user."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.kernel.lab.conftest import EXAMPLES, LabCommand


def keeper(lab: LabCommand, name: str = "lab") -> int:
    return int((lab.folder(name) / "keeper.pid").read_text())


def supervisor(lab: LabCommand) -> int:
    children = Path(f"/proc/{keeper(lab)}/task/{keeper(lab)}/children").read_text().split()
    return int(children[0])


def wait_for_nodes(lab: LabCommand) -> None:
    deadline = time.monotonic() + 30
    while not any("calico-node run" in command for command in lab.processes()):
        assert time.monotonic() < deadline, "no agent came up"
        time.sleep(0.05)


def test_down(lab: LabCommand) -> None:
    lab.ok("up", "--nodes", "1")
    named = os.listdir("/run/netns") if os.path.isdir("/run/netns") else []
    assert not [name for name in named if "node1" in name or "kube-dns" in name]
    lab.ok("down")
    lab.wait_gone()
    assert lab.run("down").returncode == 2


@pytest.mark.parametrize("victim", ["keeper", "supervisor"])
def test_kill_9_of_keeper_or_supervisor(lab: LabCommand, victim: str) -> None:
    lab.ok("up", "--nodes", "1")
    os.kill(keeper(lab) if victim == "keeper" else supervisor(lab), signal.SIGKILL)
    lab.wait_gone()


def test_down_ends_a_supervisor_that_hangs(lab: LabCommand) -> None:
    lab.ok("up", "--nodes", "1")
    os.kill(supervisor(lab), signal.SIGSTOP)
    lab.ok("down", timeout=30)
    lab.wait_gone()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["up", "run"])
def test_the_command_ends_early(lab: LabCommand, command: str, number: signal.Signals) -> None:
    process = lab.start(command, "-f", str(EXAMPLES / "bookinfo"))
    wait_for_nodes(lab)
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (-9 if number == signal.SIGKILL else 2)
    lab.wait_gone()


def test_a_command_inside_ends_with_its_caller_and_with_the_lab(lab: LabCommand) -> None:
    lab.ok("up", "--nodes", "1")
    for end_lab in (False, True):
        process = lab.start("exec", "node:node1", "--", "sleep", "4711")
        deadline = time.monotonic() + 10
        while not _sleeping():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if end_lab:
            lab.ok("down")
        else:
            process.kill()
        process.communicate(timeout=10)
        deadline = time.monotonic() + 5
        while _sleeping() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _sleeping()


def _sleeping() -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == b"sleep\x004711\0":
                    return True
            except OSError:
                continue
    return False


def test_what_a_dead_lab_left_is_no_obstacle(lab: LabCommand) -> None:
    lab.folder().mkdir(parents=True)
    (lab.folder() / "keeper.pid").write_text("1")
    (lab.folder() / "control.sock").write_text("")
    lab.ok("up", "--nodes", "1")
    lab.ok("down")
    lab.wait_gone()


AS_USER = """
set -e
mount --make-rprivate /
uid=$1; shift
if [ "$1" != -- ]; then  # what is needed lies below a home folder that others may not enter
    kept=$(mktemp -d)
    mount --rbind /root "$kept"
    mount -t tmpfs -o mode=755 none /root
    while [ "$1" != -- ]; do
        mkdir -p "$1"
        mount --rbind "$kept/${1#/root/}" "$1"
        shift
    done
    umount -l "$kept"
    rmdir "$kept"
fi
shift
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups "$@"
"""


@pytest.mark.parametrize("datastore", ["embedded", "etcd"])
def test_an_ordinary_user(datastore: str) -> None:
    """The tiers example as ``nobody``, without any capability."""
    if os.getuid() != 0:
        pytest.fail("this test becomes another user and must be run as root (sudo tests/run)")
    uid = pwd.getpwnam("nobody").pw_uid
    runtime = Path(f"/tmp/cn-user-{os.getpid()}")
    runtime.mkdir(mode=0o700)
    os.chown(runtime, uid, uid)
    needed = {os.path.realpath(path) for path in (sys.base_prefix, sys.prefix, EXAMPLES.parent)}
    hidden = sorted(path for path in needed if path.startswith("/root/"))
    environ = ["env", f"XDG_RUNTIME_DIR={runtime}", f"HOME={runtime}"]
    command = ["sh", "-c", AS_USER, "sh", str(uid), *hidden, "--", *environ]
    example = EXAMPLES / "tiers"
    arguments = ["run", "-f", str(example), "--expect", str(example / "expect.yaml"), "--json"]
    arguments += ["--datastore", datastore]
    try:
        done = subprocess.run(
            ["unshare", "-m", *command, sys.executable, "-m", "calico_node.lab", *arguments],
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert list(runtime.iterdir()) == []
    finally:
        shutil.rmtree(runtime, ignore_errors=True)


def test_a_reader_that_leaves_does_not_end_the_lab(lab: LabCommand) -> None:
    arguments = " ".join([sys.executable, "-m", "calico_node.lab", "up", "--nodes", "1"])
    subprocess.run(
        ["sh", "-c", f"{arguments} | head -1"], env=lab.environ, capture_output=True, check=True, timeout=60
    )
    assert lab.ok("list").split() == ["lab"]
    lab.ok("down")
    lab.wait_gone()
