"""Endpoint-status files: one for each workload endpoint that is up, for CNI plugins that wait for policy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import orjson

from calico_node.dataplanes.contract import WorkloadEndpointID, WorkloadEndpointUpdate


def file_name(identity: WorkloadEndpointID) -> str:
    """``k8s default%2Fnginx eth0``: the parts joined by blanks, each escaped like a URL path segment."""
    parts = (identity.orchestrator, identity.workload, identity.endpoint)
    return " ".join(quote(part, safe="$&+:=@-_.~") for part in parts)


def content(endpoint: WorkloadEndpointUpdate) -> bytes:
    """The file's JSON; empty fields are left out."""
    fields = {
        "ifaceName": endpoint.name,
        "mac": endpoint.mac,
        "ipv4Nets": list(endpoint.ipv4_nets),
        "ipv6Nets": list(endpoint.ipv6_nets),
    }
    return orjson.dumps({name: value for name, value in fields.items() if value})


class StatusFiles:
    """Keeps the folder ``endpoint-status`` as desired; ``flush`` blocks and raises ``OSError``."""

    def __init__(self, prefix: Path) -> None:
        self._folder = prefix / "endpoint-status"
        self._wanted: dict[str, bytes] = {}
        self._pending: dict[str, bytes | None] = {}
        self._swept = False

    def set(self, identity: WorkloadEndpointID, endpoint: WorkloadEndpointUpdate | None) -> None:
        """``endpoint`` is up; None: it is not."""
        name = file_name(identity)
        data = content(endpoint) if endpoint is not None else None
        if data == self._wanted.get(name):
            return
        if data is None:
            del self._wanted[name]
        else:
            self._wanted[name] = data
        self._pending[name] = data

    @property
    def has_work(self) -> bool:
        return bool(self._pending) or not self._swept

    def repair(self) -> None:
        """Look through the whole folder at the next flush."""
        self._swept = False

    def flush(self) -> None:
        """Write what changed; the first time, and after ``repair``, also remove what does not belong there."""
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not self._swept:
            present = {entry.name for entry in os.scandir(self._folder) if entry.is_file(follow_symlinks=False)}
            self._pending.update(dict.fromkeys(present - self._wanted.keys()))
            self._pending.update({name: self._wanted[name] for name in self._wanted.keys() - present})
            self._swept = True
        self._write(dict(self._pending))
        self._pending.clear()

    def _write(self, changes: Mapping[str, bytes | None]) -> None:
        for name, data in changes.items():
            path = self._folder / name
            if data is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(data)
