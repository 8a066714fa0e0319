"""Runs calicoctl as its console script does, on an embedded datastore of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from calico_node.calicoctl.main import main
from calico_node.datastores.embedded.store import Store


class Result:
    """Standard output, standard error and exit status of one run."""

    def __init__(self, out: str, err: str, status: int) -> None:
        self.out, self.err, self.status = out, err, status

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.out.splitlines()]


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs calicoctl on an empty datastore of its own, in a folder of its own; ``files`` are written there first."""
    for name in list(os.environ):
        if name.startswith(("CALICO_", "ETCD_", "KUBE", "DATASTORE")):
            monkeypatch.delenv(name)
    store = tmp_path / "store" / "datastore.db"
    monkeypatch.setenv("CALICO_DATASTORE_PATH", str(store))
    store.parent.mkdir()
    store.touch(0o600)
    Store(store, writable=True).close()
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, files: dict[str, str] | None = None) -> Result:
        for name, text in (files or {}).items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(text)
        capfd.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Result(captured.out, captured.err, int(caught.value.code or 0))

    return call
