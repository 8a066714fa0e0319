"""Entry point ``datastore.etcdv3``: endpoints and credentials from Calico's settings."""

from __future__ import annotations

from calico_node.datastores.etcd.credentials import Credentials, load_credentials, system_roots
from calico_node.datastores.etcd.endpoints import Endpoint, discover, parse_endpoints
from calico_node.datastores.etcd.engine import EtcdEngine
from calico_node.datastores.kv import KVEngine
from calico_node.errors import SettingsError
from calico_node.settings import Settings


async def open_etcd(settings: Settings) -> KVEngine:
    """An engine for ``settings``' etcd, which connects at its first call.

    Raises ``SettingsError`` naming the setting, and ``DatastoreError`` when ETCD_DISCOVERY_SRV finds nothing.
    """
    credentials = _credentials(settings)
    endpoints = await _endpoints(settings, credentials)
    if any(endpoint.secure for endpoint in endpoints) and credentials.ca_cert is None:
        system_roots()
    return EtcdEngine(endpoints, credentials, reload=lambda: _credentials(settings))


def _credentials(settings: Settings) -> Credentials:
    return load_credentials(settings.environ, settings.etcd_inline)


async def _endpoints(settings: Settings, credentials: Credentials) -> list[Endpoint]:
    if settings.etcd_endpoints and settings.etcd_discovery_srv:
        raise SettingsError("ETCD_ENDPOINTS and ETCD_DISCOVERY_SRV are both set: use one of them")
    if settings.etcd_discovery_srv:
        return await discover(settings.etcd_discovery_srv)
    if not settings.etcd_endpoints:
        raise SettingsError(
            "neither ETCD_ENDPOINTS nor ETCD_DISCOVERY_SRV is set: "
            "DATASTORE_TYPE etcdv3 needs one, such as ETCD_ENDPOINTS=http://10.0.0.1:2379"
        )
    # etcd's own client uses TLS for an endpoint without http:// where it has certificates.
    certificates = bool(credentials.ca_cert or credentials.cert_chain)
    return parse_endpoints(settings.etcd_endpoints, secure=certificates)
