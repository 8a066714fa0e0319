"""Where etcd's members are: endpoint URLs, and their discovery by DNS SRV records."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import frozen

from calico_node.errors import DatastoreError, SettingsError

if TYPE_CHECKING:
    import dns.asyncresolver

DEFAULT_PORT = 2379
_DNS_TIME = 5.0


@frozen
class Endpoint:
    """One member's client address.

    ``name`` is what users see, ``target`` gRPC's spelling of it; a host name is looked up anew by gRPC whenever a
    connection is made.  ``host`` is what the member's certificate must be for, "" for a Unix socket.
    """

    name: str
    target: str
    secure: bool
    host: str
    port: int


def parse_endpoint(text: str, *, secure: bool = False) -> Endpoint:
    """``http://host:port``, ``https://…``, a bare ``host:port`` (TLS if ``secure``) or ``unix:///path``.

    A host is a name, an IPv4 address or an IPv6 address in brackets.  Raises ``SettingsError`` (``ETCD_ENDPOINTS``).
    """
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/"):
            raise SettingsError(f"ETCD_ENDPOINTS: {text!r}: a Unix socket is written unix:///path/to/socket")
        return Endpoint(text, f"unix:{path}", False, "", 0)
    try:
        parts = urlsplit(text if "//" in text else f"//{text}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
    except ValueError:
        raise _bad(text) from None
    if "@" in parts.netloc:
        raise SettingsError("ETCD_ENDPOINTS: user and password belong in ETCD_USERNAME and ETCD_PASSWORD")
    if not host or parts.scheme not in ("", "http", "https") or parts.path not in ("", "/") or parts.query:
        raise _bad(text)
    secure = parts.scheme == "https" or (not parts.scheme and secure)
    return Endpoint(text, _target(text, host, port), secure, host, port)


def parse_endpoints(texts: Sequence[str], *, secure: bool = False) -> list[Endpoint]:
    """All of ``ETCD_ENDPOINTS``, once each; either all use TLS or none."""
    endpoints = [parse_endpoint(text, secure=secure) for text in dict.fromkeys(texts)]
    if len({endpoint.secure for endpoint in endpoints}) > 1:
        raise SettingsError("ETCD_ENDPOINTS: either all must be https:// or none")
    if len(endpoints) > 1 and not all(endpoint.host for endpoint in endpoints):
        raise SettingsError("ETCD_ENDPOINTS: a Unix socket must be the only endpoint, written unix:///path/to/socket")
    return endpoints


def _bad(text: str) -> SettingsError:
    return SettingsError(f"ETCD_ENDPOINTS: {text!r} is not an endpoint such as http://10.0.0.1:2379")


def _target(text: str, host: str, port: int) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if not all(part and part.replace("-", "").replace("_", "").isalnum() for part in host.rstrip(".").split(".")):
            raise _bad(text) from None
        return f"dns:///{host}:{port}"
    if address.version == 4:
        return f"ipv4:{host}:{port}"
    return f"ipv6:[{host.replace('%', '%25')}]:{port}"


async def discover(domain: str, resolver: dns.asyncresolver.Resolver | None = None) -> list[Endpoint]:
    """The members that ``_etcd-client-ssl._tcp.domain`` names, or else ``_etcd-client._tcp.domain``.

    Raises ``DatastoreError`` naming ETCD_DISCOVERY_SRV when neither can be had.
    """
    import dns.asyncresolver
    import dns.exception
    import dns.rdatatype
    import dns.resolver

    faults = []
    for service, scheme in (("_etcd-client-ssl", "https"), ("_etcd-client", "http")):
        name = f"{service}._tcp.{domain.rstrip('.')}."
        try:
            using = resolver or dns.asyncresolver.Resolver()
            answer = await using.resolve(name, dns.rdatatype.SRV, lifetime=_DNS_TIME)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            faults.append(f"{name} does not exist")
            continue
        except (dns.exception.DNSException, OSError) as error:
            # Not the other name then: an answer kept back must not lead to a connection without TLS.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DatastoreError(f"ETCD_DISCOVERY_SRV = {domain!r}: {name}: {reason}") from None
        records = sorted(answer, key=lambda record: (record.priority, -record.weight))
        found = [(str(record.target).rstrip("."), record.port) for record in records]
        members = [parse_endpoint(f"{scheme}://{host}:{port}") for host, port in found if host]
        if members:
            return members
        faults.append(f"{name} names no server")
    raise DatastoreError(f"ETCD_DISCOVERY_SRV = {domain!r}: {', '.join(faults)}")
