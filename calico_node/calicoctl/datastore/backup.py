"""``calicoctl datastore backup`` and ``restore``: the embedded datastore's file, whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calico_node.calicoctl.config import load_settings
from calico_node.calicoctl.interrupts import raised
from calico_node.datastores.embedded import copies
from calico_node.errors import CalicoError

_ELSEWHERE = {
    "etcdv3": "this datastore is etcd: 'etcdctl snapshot save' and 'etcdctl snapshot restore' copy it",
    "kubernetes": "this datastore is the Kubernetes API, whose etcd 'etcdctl snapshot save' and 'restore' copy",
}


def backup(options: dict[str, Any]) -> int:
    """Copy the datastore to the named file."""
    target = Path(options["file"])
    path = _embedded_path(options)
    with raised():
        contents = copies.backup(path, target, replace=options["force"])
    print(f"Backed up {_counted(contents)} to {target}")
    return 0


def restore(options: dict[str, Any]) -> int:
    """Put the named file in the datastore's place."""
    path, source = _embedded_path(options), Path(options["file"])
    with raised():
        restored = copies.restore(path, source, replace=options["force"])
    print(f"Restored {_counted(restored.contents)} from {source} to {path}; it goes on at {restored.revision}")
    if restored.kept is not None:
        print(f"What was there is kept as {restored.kept}")
    print("Nodes that are running take it up by themselves.")
    return 0


def _embedded_path(options: dict[str, Any]) -> Path:
    settings = load_settings(options["config"], options["context"])
    if settings.datastore_type != "embedded":
        known = _ELSEWHERE.get(settings.datastore_type)
        raise CalicoError(known or f"the datastore {settings.datastore_type!r} is copied with tools of its own")
    return settings.datastore_path


def _counted(contents: copies.Contents) -> str:
    return f"{contents.keys} keys of revision {contents.revision} ({contents.size / 1e6:.1f} MB)"
