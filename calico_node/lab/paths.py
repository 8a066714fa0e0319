"""Where a lab lives on the host: one folder, removed with the lab.

``$XDG_RUNTIME_DIR/calico-node/lab/NAME``, or the same under ``/tmp/calico-node-UID`` (mode 0700) where there is no
runtime folder or it is on a network file system.  It holds the control socket, the datastore, and per node the run
and state folders, so that ``calicoctl`` and the CNI clients reach them from outside the lab's namespaces.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import socket
import stat
from pathlib import Path

from attrs import frozen

from calico_node.errors import LabError

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?\Z")
_SOCKET_PATH_MAX = 107
_CLAIM_TRIES = 20
_NETWORK_FILESYSTEMS = {
    0x6969: "NFS",
    0x01021997: "9p",
    0x6A656A63: "virtiofs",
    0x65735546: "FUSE",
    0xFE534D42: "SMB",
}


@frozen
class LabPaths:
    """The files of the lab ``name`` in the folder ``root``."""

    name: str
    root: Path

    @property
    def control(self) -> Path:
        return self.root / "control.sock"

    @property
    def log(self) -> Path:
        return self.root / "lab.log"

    @property
    def datastore(self) -> Path:
        return self.root / "datastore.db"

    @property
    def etcd(self) -> Path:
        """The folder etcd runs in, and where its data are."""
        return self.root / "etcd"

    @property
    def etcd_socket(self) -> Path:
        """Where etcd is reached from outside of the lab's namespaces."""
        return self.root / "etcd.sock"

    @property
    def etcd_log(self) -> Path:
        return self.root / "etcd.log"

    @property
    def kubernetes_store(self) -> Path:
        return self.root / "kubernetes"

    def netns(self, kind: str, name: str) -> Path:
        """The name of a network namespace; it is one in the lab's own mount namespace, and an empty file outside."""
        return self.root / "netns" / f"{kind}-{name.replace('/', '_')}"

    def node(self, name: str) -> Path:
        return self.root / "nodes" / name

    def run_dir(self, node: str) -> Path:
        return self.node(node) / "run"

    def state_dir(self, node: str) -> Path:
        return self.node(node) / "lib"

    def node_log(self, node: str) -> Path:
        return self.node(node) / "log"

    def etc(self, kind: str, name: str) -> Path:
        """Folder of the ``hosts`` and ``resolv.conf`` shown to commands there."""
        return self.root / "etc" / f"{kind}-{name.replace('/', '_')}"

    def check_length(self, node: str) -> None:
        """Unix socket paths hold 107 bytes.  Raises ``LabError`` when this node's would not fit."""
        longest = os.fsencode(self.run_dir(node) / "nodeagent.sock")
        if len(longest) > _SOCKET_PATH_MAX:
            raise LabError(
                f"{os.fsdecode(longest)!r} is too long for a Unix socket; set XDG_RUNTIME_DIR to a shorter folder, "
                f"or choose shorter names"
            )


def base_dir(*, make: bool = False) -> Path:
    """The folder that holds all of this user's labs.  Raises ``LabError`` when it cannot be made or is unsafe."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and os.path.isdir(runtime) and os.access(runtime, os.W_OK | os.X_OK) and not filesystem_name(runtime):
        top = Path(runtime)
    else:
        top = Path("/tmp") / f"calico-node-{os.getuid()}"
        if make or top.exists():
            _private(top)
    base = top / "calico-node" / "lab"
    if make:
        base.mkdir(parents=True, exist_ok=True, mode=0o700)
    return base


def _private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise LabError(f"{folder} cannot be made: {error.strerror}; set XDG_RUNTIME_DIR") from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise LabError(f"{folder} must be a folder of this user alone (mode 0700); remove it or set XDG_RUNTIME_DIR")


def filesystem_name(path: str) -> str:
    """The name of the network or shared file system ``path`` is on, "" for a local one."""
    buffer = (ctypes.c_long * 64)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), ctypes.byref(buffer)) != 0:
        return ""
    return _NETWORK_FILESYSTEMS.get(buffer[0] & 0xFFFFFFFF, "")


def lab_paths(name: str) -> LabPaths:
    """The paths of the lab ``name``.  Raises ``LabError`` for a name that cannot be one."""
    if not _NAME.match(name):
        raise LabError(f"--name = {name!r}: must be lower-case letters, digits and '-', 20 at most")
    return LabPaths(name, base_dir() / name)


def is_up(paths: LabPaths) -> bool:
    """Whether a supervisor answers at the lab's control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(paths.control))
        except OSError:
            return False
    return True


def claim(paths: LabPaths) -> None:
    """Make the lab's folder; what a dead lab left is removed first.  Raises ``LabError`` when the lab is up."""
    for _ in range(_CLAIM_TRIES):
        base_dir(make=True)
        try:
            paths.root.mkdir(mode=0o700)
            return
        except FileNotFoundError:
            continue  # another lab that ended just now took the empty folder with it
        except FileExistsError:
            if is_up(paths) or starting(paths):
                break
            shutil.rmtree(paths.root, ignore_errors=True)
    raise LabError(f"the lab {paths.name!r} is up already; choose another --name, or run lab down")


def remove(root: Path) -> None:
    """Remove a lab's folder, and those above it that are ours and empty now."""
    shutil.rmtree(root, ignore_errors=True)
    for folder, name in zip(root.parents, (r"lab", r"calico-node", r"calico-node-\d+"), strict=False):
        if not re.fullmatch(name, folder.name):
            return
        try:
            folder.rmdir()
        except OSError:
            return


def starting(paths: LabPaths) -> bool:
    """Whether the keeper named in the lab's folder is still alive."""
    try:
        pid = int((paths.root / "keeper.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return False
    return str(paths.root).encode() in command.split(b"\0")


def running() -> list[str]:
    """The names of this user's labs that are up."""
    base = base_dir()
    names = sorted(entry.name for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []
    return [name for name in names if is_up(LabPaths(name, base / name))]
