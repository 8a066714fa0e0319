"""Entry point ``datastore.etcdv3``: endpoints and credentials from Calico's environment variables."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from calico_node.datastores.etcd.engine import Credentials, EtcdEngine
from calico_node.datastores.kv import KVEngine
from calico_node.errors import DatastoreError, SettingsError
from calico_node.settings import Settings


async def open_etcd(settings: Settings) -> KVEngine:
    """Connect to ``settings.etcd_endpoints``.  Raises ``SettingsError`` naming the variable, ``DatastoreError``."""
    if not settings.etcd_endpoints:
        raise SettingsError("ETCD_ENDPOINTS is not set: DATASTORE_TYPE etcdv3 needs it, such as http://10.0.0.1:2379")
    if any(endpoint.startswith("unix:") for endpoint in settings.etcd_endpoints):
        return await _connected(EtcdEngine([_socket(settings.etcd_endpoints)]))
    hosts = [_host_and_port(endpoint) for endpoint in settings.etcd_endpoints]
    secure = {endpoint.startswith("https://") for endpoint in settings.etcd_endpoints}
    if len(secure) > 1:
        raise SettingsError("ETCD_ENDPOINTS: either all must be https:// or none")
    credentials = _credentials(settings.environ, server_name=hosts[0][0], secure=secure.pop())
    endpoints = [f"{await _resolve(host, port)}:{port}" for host, port in hosts]
    return await _connected(EtcdEngine(endpoints, credentials))


async def _connected(engine: EtcdEngine) -> EtcdEngine:
    try:
        await engine.connect()
    except DatastoreError:
        await engine.close()
        raise
    return engine


def _socket(endpoints: Sequence[str]) -> str:
    """``unix:///path`` as etcd's own clients write it, or ``unix:/path``, in gRPC's spelling."""
    path = endpoints[0].removeprefix("unix:").removeprefix("//")
    if len(endpoints) > 1 or not path.startswith("/"):
        raise SettingsError(
            f"ETCD_ENDPOINTS: {','.join(endpoints)!r}: a Unix socket must be the only endpoint, as unix:///path/to/socket"
        )
    return f"unix:{path}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(f"CALICO_{name}") or environ.get(name) or ""


def _credentials(environ: Mapping[str, str], *, server_name: str, secure: bool) -> Credentials:
    def pem(name: str) -> bytes | None:
        path = _variable(environ, name)
        if not path:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"{name} = {path!r}: {error.strerror}") from None

    ca_cert, cert, key = pem("ETCD_CA_CERT_FILE"), pem("ETCD_CERT_FILE"), pem("ETCD_KEY_FILE")
    if secure and ca_cert is None:
        raise SettingsError("ETCD_CA_CERT_FILE is not set: https:// endpoints need the CA's certificate")
    if not secure:
        ca_cert = cert = key = None
    return Credentials(
        ca_cert=ca_cert,
        cert_chain=cert,
        cert_key=key,
        server_name=server_name if secure else None,
        username=_variable(environ, "ETCD_USERNAME"),
        password=_variable(environ, "ETCD_PASSWORD"),
    )


def _host_and_port(endpoint: str) -> tuple[str, int]:
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    try:
        port = parts.port or 2379
    except ValueError:
        port = 0
    if not parts.hostname or not port or parts.scheme not in ("", "http", "https"):
        raise SettingsError(f"ETCD_ENDPOINTS: {endpoint!r} is not an endpoint such as http://10.0.0.1:2379")
    return parts.hostname, port


async def _resolve(host: str, port: int) -> str:
    """The channel takes IPv4 addresses only; names are looked up here."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=socket.AF_INET, type=socket.SOCK_STREAM
        )
    except OSError as error:
        raise DatastoreError(f"ETCD_ENDPOINTS: {host}: {error.strerror}") from None
    return str(found[0][4][0])
