"""Set up this clone with the standard library alone: a virtual environment, pip, and what pyproject.toml names.

Everything is written below the clone: ``.venv`` and ``.cache``.  Used by ``examples/run`` and ``tests/run``, which a
newcomer starts with any python3; so this module must load on old interpreters, to be able to say that they are old.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import html.parser
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
CACHE = os.path.join(ROOT, ".cache")


class BootstrapError(Exception):
    """Why the clone cannot be set up, in one sentence."""


class _Links(html.parser.HTMLParser):
    """The href of every anchor of a package index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []  # type: list[str]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if tag == "a" and name == "href" and value:
                self.found.append(value)


def find_python() -> str:
    """A Python of at least 3.11: this one, or a newer one on PATH."""
    if sys.version_info >= (3, 11):  # noqa: UP036 (an older one may run this)
        return sys.executable
    for minor in range(14, 10, -1):
        path = shutil.which(f"python3.{minor}")
        if path:
            return path
    raise BootstrapError(
        f"calico-node needs Python 3.11 or newer; this is {sys.version_info[0]}.{sys.version_info[1]} "
        "(Debian 12 and Ubuntu 24.04 have a new one)"
    )


def _open(url: str) -> bytes:
    context = ssl.create_default_context()
    if not os.environ.get("SSL_CERT_FILE") and not context.cert_store_stats()["x509_ca"]:
        directory = os.environ.get("SSL_CERT_DIR") or ssl.get_default_verify_paths().capath
        if not directory or not os.path.isdir(directory) or not os.listdir(directory):
            raise BootstrapError(
                "no certificates are installed to check the package index with: install the package "
                "ca-certificates, or set SSL_CERT_FILE"
            )
    try:
        with urllib.request.urlopen(url, timeout=60, context=context) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise BootstrapError(f"the package index answers {error.code} for {url}") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise BootstrapError(
                f"the certificate of the package index cannot be verified ({error.reason.verify_message}): "
                "install ca-certificates, or set SSL_CERT_FILE"
            ) from None
        raise BootstrapError(f"no network to the package index: {url}: {error.reason}") from None
    except OSError as error:
        raise BootstrapError(f"no network to the package index: {url}: {error}") from None
    except (ValueError, http.client.HTTPException) as error:
        raise BootstrapError(f"the package index does not answer as one: {url}: {error!r}") from None


def fetch_pip() -> str:
    """The pinned pip wheel from the package index (PIP_INDEX_URL is honoured), its sha256 checked."""
    target = os.path.join(CACHE, PIP_WHEEL)
    if os.path.isfile(target) and _sha256(target) == PIP_SHA256:
        return target
    index = (os.environ.get("PIP_INDEX_URL") or "https://pypi.org/simple").rstrip("/") + "/pip/"
    links = _Links()
    links.feed(_open(index).decode("utf-8", "replace"))
    for link in links.found:
        url, _, _ = urllib.parse.urljoin(index, link).partition("#")
        if urllib.parse.unquote(url).rpartition("/")[2] == PIP_WHEEL:
            break
    else:
        raise BootstrapError(f"the package index {index} does not have {PIP_WHEEL}")
    body = _open(url)
    if hashlib.sha256(body).hexdigest() != PIP_SHA256:
        raise BootstrapError(f"{PIP_WHEEL} from {url} is not the file that was pinned: its sha256 differs")
    os.makedirs(CACHE, exist_ok=True)
    temporary = f"{target}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(body)
    os.replace(temporary, target)
    return target


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def make_venv(python: str) -> None:
    """Make ``.venv`` under a temporary name and rename it, so that a half-made one never looks usable."""
    temporary = f"{VENV}-{os.getpid()}"
    for left in os.listdir(ROOT):
        if left.startswith(".venv-"):
            shutil.rmtree(os.path.join(ROOT, left), ignore_errors=True)
    result = subprocess.run([python, "-m", "venv", "--without-pip", temporary], capture_output=True, text=True)
    if result.returncode != 0:
        shutil.rmtree(temporary, ignore_errors=True)
        raise BootstrapError(f"python3 -m venv failed: {(result.stderr or result.stdout).strip()}")
    scripts = os.path.join(temporary, "bin")
    for name in os.listdir(scripts):
        path = os.path.join(scripts, name)
        if name.lower().startswith("activate"):
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace(temporary, VENV))
    shutil.rmtree(VENV, ignore_errors=True)
    os.rename(temporary, VENV)


def _stamp(extra: str) -> str:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return f"{hashlib.sha256(file.read()).hexdigest()} {extra} {ROOT}"


def _ready(extra: str) -> bool:
    for wanted in {extra, "test"}:
        try:
            with open(os.path.join(VENV, ".calico-node-" + (wanted or "run")), encoding="utf-8") as file:
                if file.read() == _stamp(wanted) and os.path.exists(os.path.join(VENV, "bin", "python")):
                    return True
        except OSError:
            continue
    return False


def set_up(extra: str = "") -> str:
    """Make ``.venv`` complete, with the optional dependencies ``extra``; returns its ``bin`` folder.

    Raises ``BootstrapError``.  Does nothing when it is complete already; can be interrupted at any point, and waits
    for another one that is at it.
    """
    if not _ready(extra):
        python = find_python()
        try:
            with _alone():
                if not _ready(extra):
                    _install(python, extra)
        except OSError as error:
            raise BootstrapError(f"{error.filename or ROOT}: {error.strerror or error}") from None
    return os.path.join(VENV, "bin")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One set-up of this clone at a time; the lock goes with its process."""
    os.makedirs(os.path.join(CACHE, "tmp"), exist_ok=True)
    with open(os.path.join(CACHE, "lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _install(python: str, extra: str) -> None:
    scripts = os.path.join(VENV, "bin")
    print(f"setting up {VENV} (once) ...", file=sys.stderr, flush=True)
    wheel = fetch_pip()
    if not os.path.exists(os.path.join(VENV, "pyvenv.cfg")) or not os.path.exists(os.path.join(scripts, "python")):
        make_venv(python)
    environment = dict(os.environ)
    environment["TMPDIR"] = os.path.join(CACHE, "tmp")
    environment["PYTHONDONTWRITEBYTECODE"] = ""
    project = f".[{extra}]" if extra else "."
    for wanted in (["--no-index", wheel], ["--editable", project]):
        command = [os.path.join(scripts, "python"), os.path.join(wheel, "pip"), "install", "--quiet"]
        command += [
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "--cache-dir",
            os.path.join(CACHE, "pip"),
        ]
        result = subprocess.run(command + wanted, cwd=ROOT, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise BootstrapError(_why(result.stderr))
    with open(os.path.join(VENV, ".calico-node-" + (extra or "run")), "w", encoding="utf-8") as file:
        file.write(_stamp(extra))


def _why(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    text = " ".join(line for line in lines if line.startswith("ERROR")) or (lines[-1] if lines else "no output")
    if "No matching distribution" in text or "Could not find a version" in text:
        import platform

        version = f"{platform.machine()}, Python {sys.version_info[0]}.{sys.version_info[1]}"
        return f"a dependency has no wheel for this machine ({version}): {text}"
    return f"pip could not install the dependencies: {text}"
