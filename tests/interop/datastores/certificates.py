"""Certificates that the real ``openssl`` makes."""

from __future__ import annotations

import subprocess
from pathlib import Path


def _openssl(*arguments: str | Path) -> None:
    result = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, timeout=20)
    assert result.returncode == 0, result.stderr.decode()


class Authority:
    """A CA in ``folder``; ``certificate`` is its own, as a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self.certificate, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        subject = f"/CN={name}"
        _openssl("req", "-x509", *_new_key(self._key), "-days", "30", "-subj", subject, "-out", self.certificate)

    def issue(self, name: str, *, alternatives: str = "", days: int = 30) -> tuple[Path, Path]:
        """Files with a certificate for ``name`` and its key; ``alternatives`` as ``IP:127.0.0.1,DNS:x``.

        ``days`` from now on; a negative number makes one that has run out.
        """
        cert, key = self._folder / f"{self._name}-{name}.pem", self._folder / f"{self._name}-{name}.key"
        request, extensions = cert.with_suffix(".csr"), cert.with_suffix(".ext")
        _openssl("req", *_new_key(key), "-subj", f"/CN={name}", "-out", request)
        usage = "extendedKeyUsage=serverAuth,clientAuth\n"
        extensions.write_text(usage + (f"subjectAltName={alternatives}\n" if alternatives else ""))
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
            "-days", str(days), "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        return cert, key


def signing_key(folder: Path) -> tuple[Path, Path]:
    """Files with the private and the public half of an RSA key."""
    private, public = folder / "private.pem", folder / "public.pem"
    _openssl("genrsa", "-out", private, "2048")
    _openssl("rsa", "-in", private, "-pubout", "-out", public)
    return private, public


def _new_key(path: Path) -> tuple[str | Path, ...]:
    return ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", path)
