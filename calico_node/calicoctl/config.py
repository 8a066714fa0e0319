"""The datastore to use: the environment, or a CalicoAPIConfig file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from calico_node.calicoctl.errors import InputError
from calico_node.errors import ValidationError
from calico_node.settings import Settings

DEFAULT_FILE = "/etc/calico/calicoctl.cfg"

_ENVIRONMENT = {
    "datastoreType": "DATASTORE_TYPE",
    "etcdEndpoints": "ETCD_ENDPOINTS",
    "etcdDiscoverySrv": "ETCD_DISCOVERY_SRV",
    "etcdUsername": "ETCD_USERNAME",
    "etcdPassword": "ETCD_PASSWORD",
    "etcdKeyFile": "ETCD_KEY_FILE",
    "etcdCertFile": "ETCD_CERT_FILE",
    "etcdCACertFile": "ETCD_CA_CERT_FILE",
    "kubeconfig": "KUBECONFIG",
    "k8sAPIEndpoint": "K8S_API_ENDPOINT",
    "k8sAPIToken": "K8S_API_TOKEN",
    "k8sKeyFile": "K8S_KEY_FILE",
    "k8sCertFile": "K8S_CERT_FILE",
    "k8sCAFile": "K8S_CA_FILE",
    "k8sInsecureSkipTLSVerify": "K8S_INSECURE_SKIP_TLS_VERIFY",
    "k8sDisableNodePoll": "K8S_DISABLE_NODE_POLL",
    "usePodCIDR": "USE_POD_CIDR",
    "k8sClientQPS": "K8S_CLIENT_QPS",
    "k8sClientBurst": "K8S_CLIENT_BURST",
    "k8sCurrentContext": "K8S_CURRENT_CONTEXT",
    "calicoAPIGroup": "CALICO_API_GROUP",
}
_ETCD_INLINE = ("etcdKey", "etcdCert", "etcdCACert")
_INLINE = {"kubeconfigInline": "kubeconfig"}


_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "k8sInsecureSkipTLSVerify": (bool, "true or false"),
    "k8sDisableNodePoll": (bool, "true or false"),
    "usePodCIDR": (bool, "true or false"),
    "k8sClientQPS": ((int, float), "a number"),
    "k8sClientBurst": (int, "a whole number"),
}
"""The members of a file that are not text."""
UNKNOWN = "field in document is not recognized or is in the wrong location"

_DATASTORE_VARIABLES = (
    "DATASTORE_TYPE",
    "CALICO_DATASTORE_TYPE",
    "ETCD_ENDPOINTS",
    "CALICO_ETCD_ENDPOINTS",
    "ETCD_DISCOVERY_SRV",
    "CALICO_ETCD_DISCOVERY_SRV",
    "CALICO_DATASTORE_PATH",
    "KUBECONFIG",
)


def load_settings(config: str, context: str) -> Settings:
    """Settings from ``config``, or the environment.

    A file named with ``-c`` overrides the environment.  The default file is read where it exists, but the
    environment goes before it, so that a shell pointed at a lab stays there.  Raises ``InputError``,
    ``SettingsError``.
    """
    environ = dict(os.environ)
    inline: dict[str, str] = {}
    if config:
        found, inline = _read(config)
        environ.update(found)
    elif Path(DEFAULT_FILE).is_file() and not any(environ.get(name) for name in _DATASTORE_VARIABLES):
        found, inline = _read(DEFAULT_FILE)
        environ = {**found, **environ}
    if context:
        environ["K8S_CURRENT_CONTEXT"] = context
    return Settings.load(environ, inline)


def _read(filename: str) -> tuple[dict[str, str], dict[str, str]]:
    """The file as environment variables, and the certificates that it holds itself."""
    from calico_node.resources import API_VERSION, load_documents

    try:
        documents = load_documents(Path(filename).read_bytes(), filename)
    except OSError:
        raise InputError(f"Error reading config file: {filename}") from None
    except ValidationError as error:
        raise InputError(f"invalid config file: {error}") from None
    data: Any = documents[0].data if len(documents) == 1 else None
    if not isinstance(data, dict):
        raise InputError(f"invalid config file: {filename} must hold one CalicoAPIConfig document")
    if data.get("apiVersion") != API_VERSION:
        raise InputError(f"invalid config file: unknown APIVersion '{data.get('apiVersion') or ''}'")
    if data.get("kind") != "CalicoAPIConfig":
        raise InputError(f"invalid config file: expected kind 'CalicoAPIConfig', got '{data.get('kind') or ''}'")
    for name in data:
        if name not in ("apiVersion", "kind", "metadata", "spec"):
            raise InputError(f"invalid config file: {UNKNOWN}: {name}")
    spec = data.get("spec") or {}
    if not isinstance(spec, dict):
        raise InputError("invalid config file: spec must be an object")
    inline = {name: spec.pop(name) or "" for name in _ETCD_INLINE if name in spec}
    for name, pem in inline.items():
        if not isinstance(pem, str):
            raise InputError(f"invalid config file: {name} must be text")
    return _to_environment(spec), inline


def _to_environment(spec: dict[str, Any]) -> dict[str, str]:
    """What a file says as variables: those it leaves out are empty, so that the environment cannot add to a file."""
    # A variable with the prefix would win over the file.
    environ = {prefix + name: "" for name in _ENVIRONMENT.values() for prefix in ("", "CALICO_")}
    for name, value in spec.items():
        if name in _INLINE:
            raise InputError(f"invalid config file: {name} is not supported; use {_INLINE[name]}")
        if name not in _ENVIRONMENT:
            raise InputError(f"invalid config file: {UNKNOWN}: {name}")
        expected, what = _TYPES.get(name, (str, "text"))
        if value is None:
            continue
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise InputError(f"invalid config file: {name} = {value!r}: must be {what}")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        environ[_ENVIRONMENT[name]] = environ["CALICO_" + _ENVIRONMENT[name]] = text
    return environ
