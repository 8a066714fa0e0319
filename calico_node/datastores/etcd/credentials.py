"""Who we are to etcd and whom we trust: certificates, user and password; and what is wrong when TLS fails."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen

from calico_node.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calico_node.datastores.etcd.endpoints import Endpoint

FILES = {"etcdCACert": "ETCD_CA_CERT_FILE", "etcdCert": "ETCD_CERT_FILE", "etcdKey": "ETCD_KEY_FILE"}
"""CalicoAPIConfig's inline PEM fields, and the variables that name a file instead."""
_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PROBE_TIME = 2.0
_NO_TLS = "it does not speak TLS: the endpoint has to begin with http://"


@frozen
class Credentials:
    """Certificates and key are PEM, None where not given; a user counts only together with a password.

    ``inline`` says that the PEM did not come from files, for messages.
    """

    ca_cert: bytes | None = field(default=None, repr=False)
    cert_chain: bytes | None = field(default=None, repr=False)
    cert_key: bytes | None = field(default=None, repr=False)
    username: str = ""
    password: str = field(default="", repr=False)
    inline: bool = False

    @property
    def has_user(self) -> bool:
        return bool(self.username and self.password)

    def named(self, *fields: str) -> str:
        """The settings behind ``fields`` of CalicoAPIConfig, as the user gave them."""
        return ", ".join(name if self.inline else FILES[name] for name in fields)


def variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(f"CALICO_{name}") or environ.get(name) or ""


def load_credentials(environ: Mapping[str, str], inline: Mapping[str, str]) -> Credentials:
    """From the environment's ``ETCD_*`` and from ``inline`` (etcdCACert, etcdCert, etcdKey).

    Reads files.  Raises ``SettingsError`` that names the setting; it never holds a key or password.
    """
    given = {name: text for name, text in inline.items() if name in FILES and text}
    paths = {name: variable(environ, FILES[name]) for name in FILES if variable(environ, FILES[name])}
    if given and paths:
        raise SettingsError(
            f"{', '.join(given)} and {', '.join(FILES[name] for name in paths)}: "
            "certificates are either inline or in files, not mixed"
        )
    pem: dict[str, bytes] = {name: text.encode() for name, text in given.items()}
    for name, path in paths.items():
        try:
            pem[name] = Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"{FILES[name]} = {path!r}: {error.strerror}") from None
    credentials = Credentials(
        ca_cert=pem.get("etcdCACert"),
        cert_chain=pem.get("etcdCert"),
        cert_key=pem.get("etcdKey"),
        username=variable(environ, "ETCD_USERNAME"),
        password=variable(environ, "ETCD_PASSWORD"),
        inline=bool(given),
    )
    _check(credentials, paths)
    return credentials


def _check(credentials: Credentials, paths: Mapping[str, str]) -> None:
    def shown(name: str) -> str:
        return f"{FILES[name]} = {paths[name]!r}" if name in paths else name

    if (credentials.cert_chain is None) != (credentials.cert_key is None):
        missing = "etcdKey" if credentials.cert_key is None else "etcdCert"
        raise SettingsError(f"{credentials.named(missing)} is not set: a certificate and its key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if credentials.ca_cert is not None:
        try:
            context.load_verify_locations(cadata=credentials.ca_cert.decode("ascii", "ignore"))
        except (ssl.SSLError, ValueError):
            raise SettingsError(f"{shown('etcdCACert')}: holds no certificate in PEM form") from None
    if credentials.cert_chain is not None:
        try:
            _load_pair(context, credentials)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                reason = "the key is not the certificate's"
            else:
                reason = "must be a certificate and its unencrypted key in PEM form"
            raise SettingsError(f"{shown('etcdCert')}, {shown('etcdKey')}: {reason}") from None


def system_roots() -> bytes:
    """The certificates that this host trusts, as PEM; gRPC would use a list of its own.  Raises ``SettingsError``."""
    for path in (os.environ.get("SSL_CERT_FILE"), ssl.get_default_verify_paths().cafile, *_SYSTEM_ROOTS):
        if path:
            with suppress(OSError):
                return Path(path).read_bytes()
    raise SettingsError(
        "ETCD_CA_CERT_FILE is not set, and this host has no CA certificates (package ca-certificates)"
    )


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """OpenSSL reads certificates and keys from files only; a key of ours is not written to any disk."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _load_pair(context: ssl.SSLContext, credentials: Credentials) -> None:
    with _in_memory(credentials.cert_chain or b"") as cert, _in_memory(credentials.cert_key or b"") as key:
        # Without a password function OpenSSL would ask on the terminal for an encrypted key's.
        context.load_cert_chain(cert, key, password=lambda: b"")


async def connection_fault(endpoint: Endpoint, credentials: Credentials) -> str:
    """What is wrong with TLS at ``endpoint``, in words that name the setting; "" if nothing is found.

    gRPC says only "Socket closed" where a server refuses the client's certificate.
    """
    if not endpoint.host:
        return ""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    if endpoint.secure:
        roots = credentials.ca_cert or system_roots()
        context.load_verify_locations(cadata=roots.decode("ascii", "ignore"))
        if credentials.cert_chain is not None:
            _load_pair(context, credentials)
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        async with asyncio.timeout(_PROBE_TIME):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
            try:
                if not endpoint.secure:
                    return "it speaks TLS: the endpoint has to begin with https://"
                # With TLS 1.3 a server refuses the client's certificate only after the handshake.
                await reader.read(1)
            finally:
                writer.close()
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted ({_trust(credentials)}): {error.verify_message}"
    except ssl.SSLError as error:
        return _tls_words(error, credentials) if endpoint.secure else ""
    except ConnectionError:
        # etcd without TLS hangs up on a client that begins with it.
        return _NO_TLS if endpoint.secure and await _speaks_http(endpoint) else ""
    except (OSError, TimeoutError):
        return ""
    return ""


async def _speaks_http(endpoint: Endpoint) -> bool:
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE_TIME):
            reader, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
            try:
                writer.write(b"GET /version HTTP/1.0\r\n\r\n")
                return (await reader.read(5)).startswith(b"HTTP/")
            finally:
                writer.close()
    return False


def _trust(credentials: Credentials) -> str:
    if credentials.ca_cert is None:
        return "ETCD_CA_CERT_FILE is not set: this host's CA certificates count"
    return credentials.named("etcdCACert")


def _tls_words(error: ssl.SSLError, credentials: Credentials) -> str:
    reason = (error.reason or "TLS error").replace("_", " ").lower()
    if ("alert" in reason and "certificate" in reason) or "unknown ca" in reason:
        settings = credentials.named("etcdCert", "etcdKey")
        if credentials.cert_chain is None:
            return f"it wants a client's certificate: {settings} are not set"
        return f"it refuses the client's certificate ({settings}): {reason.rpartition('alert ')[2]}"
    if reason in ("wrong version number", "record layer failure", "http request"):
        return _NO_TLS
    return reason
