"""The clone sets itself up from a package index, and says in one sentence why it cannot."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_node import bootstrap


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An HTML package index on loopback, whose files are those of the returned folder."""
    root = tmp_path / "index"
    (root / "simple" / "pip").mkdir(parents=True)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setattr(bootstrap, "CACHE", str(tmp_path / "cache"))
    yield root
    server.shutdown()
    thread.join()
    server.server_close()


def test_pip_comes_from_the_index_that_was_named(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setattr(bootstrap, "PIP_SHA256", hashlib.sha256(b"a wheel").hexdigest())
    (index / "simple/pip/index.html").write_text(
        f'<a href="../../files/{bootstrap.PIP_WHEEL}#sha256=0">pip</a>\n<a href="x-1.0.tar.gz">x</a>'
    )
    (index / "files").mkdir()
    (index / "files" / bootstrap.PIP_WHEEL).write_bytes(b"a wheel")
    assert Path(bootstrap.fetch_pip()).read_bytes() == b"a wheel"


def test_a_wheel_that_was_tampered_with_is_refused(index: Path) -> None:
    (index / "simple/pip/index.html").write_text(f'<a href="{bootstrap.PIP_WHEEL}">pip</a>')
    (index / "simple/pip" / bootstrap.PIP_WHEEL).write_bytes(b"evil")
    with pytest.raises(bootstrap.BootstrapError, match="sha256 differs"):
        bootstrap.fetch_pip()
    assert list(Path(bootstrap.CACHE).glob("*")) == []


def test_an_index_without_the_wheel_is_named(index: Path) -> None:
    (index / "simple/pip/index.html").write_text("<html></html>")
    with pytest.raises(bootstrap.BootstrapError, match=r"/simple/pip/ does not have pip-"):
        bootstrap.fetch_pip()


def test_no_network_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(bootstrap.BootstrapError, match="no network to the package index"):
        bootstrap.fetch_pip()


def test_no_wheel_for_this_machine_is_one_sentence() -> None:
    text = "noise\nERROR: Could not find a version that satisfies the requirement pyroaring\n"
    assert bootstrap._why(text).startswith("a dependency has no wheel for this machine (")


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.sys, "version_info", (3, 9, 2, "final", 0))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda _: None)
    with pytest.raises(bootstrap.BootstrapError, match=r"needs Python 3\.11 or newer; this is 3\.9"):
        bootstrap.find_python()


def test_an_index_that_is_no_url_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "nonsense")
    with pytest.raises(bootstrap.BootstrapError, match="nonsense/pip/"):
        bootstrap.fetch_pip()


def test_a_clone_that_cannot_be_written_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    monkeypatch.setattr(bootstrap, "CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(bootstrap.BootstrapError, match="file/cache"):
        bootstrap.set_up()


def test_what_an_interrupted_set_up_left_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / ".venv"))
    (tmp_path / ".venv-4711" / "bin").mkdir(parents=True)
    bootstrap.make_venv(sys.executable)
    assert [path.name for path in tmp_path.iterdir()] == [".venv"]
