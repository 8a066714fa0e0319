"""Bootstrap settings: what must be known before the datastore is open.

Read from the environment (Calico's variable names) and overlaid by command-line flags.  Everything else is
configuration in the datastore (FelixConfiguration, BGPConfiguration, …).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from calico_node.errors import SettingsError

CALICO_VERSION = "v3.33.0"
STATE_DIR = Path("/var/lib/calico")
"""The Calico release whose formats this project writes."""
DEFAULT_COMPONENTS = ("felix", "bgp", "ipam", "cni", "node_status")


def _bool(environ: Mapping[str, str], name: str, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if not text:
        return default
    if text in ("true", "1", "yes", "y", "t", "on"):
        return True
    if text in ("false", "0", "no", "n", "f", "off"):
        return False
    raise SettingsError(f"{name} = {environ[name]!r}: must be true or false")


def _port(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise SettingsError(f"{name} = {text!r}: must be a port number, 1 to 65535")
    return int(text)


@frozen
class Settings:
    """All paths hang on ``run_dir`` (CALICO_RUN_DIR) and ``state_dir`` (CALICO_STATE_DIR).

    ``environ`` is the whole environment, for the parameters that components read themselves (FELIX_*, IP, AS, …).
    ``datastore_reason`` says in words why ``datastore_type`` was chosen.  ``etcd_inline`` is the PEM that a
    CalicoAPIConfig gives itself (etcdCACert, etcdCert, etcdKey).  ``use_pod_cidr`` (USE_POD_CIDR) says that addresses
    come from the Nodes' podCIDRs and not from Calico's IPAM.
    """

    node_name: str
    run_dir: Path
    state_dir: Path
    datastore_type: str
    datastore_reason: str
    datastore_path: Path
    etcd_endpoints: tuple[str, ...] = ()
    etcd_discovery_srv: str = ""
    etcd_inline: Mapping[str, str] = field(factory=dict, repr=False)
    components: tuple[str, ...] = DEFAULT_COMPONENTS
    dataplane: str = "nftables"
    log_level: str = "info"
    use_pod_cidr: bool = False
    health_enabled: bool = True
    health_host: str = "localhost"
    health_port: int = 9099
    prometheus_enabled: bool = False
    prometheus_host: str = ""
    prometheus_port: int = 9091
    environ: Mapping[str, str] = field(factory=dict, repr=False)

    @property
    def cni_socket(self) -> Path:
        return self.run_dir / "cni.sock"

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, etcd_inline: Mapping[str, str] | None = None) -> Settings:
        """Settings from ``environ`` (default ``os.environ``).  Raises ``SettingsError`` naming the variable."""
        env = dict(os.environ if environ is None else environ)
        state_dir = Path(env.get("CALICO_STATE_DIR") or STATE_DIR)
        run_dir = Path(env.get("CALICO_RUN_DIR") or "/var/run/calico")
        kind, reason = _datastore_type(env)
        endpoints = env.get("CALICO_ETCD_ENDPOINTS") or env.get("ETCD_ENDPOINTS") or ""
        components = env.get("CALICO_COMPONENTS", "")
        return cls(
            node_name=_node_name(env, state_dir),
            run_dir=run_dir,
            state_dir=state_dir,
            datastore_type=kind,
            datastore_reason=reason,
            datastore_path=Path(env.get("CALICO_DATASTORE_PATH") or state_dir / "datastore.db"),
            etcd_endpoints=tuple(part.strip() for part in endpoints.split(",") if part.strip()),
            etcd_discovery_srv=_etcd_discovery_srv(env),
            etcd_inline=dict(etcd_inline or {}),
            components=tuple(part.strip() for part in components.split(",") if part.strip()) or DEFAULT_COMPONENTS,
            dataplane=env.get("CALICO_DATAPLANE") or "nftables",
            log_level=(env.get("FELIX_LOGSEVERITYSCREEN") or env.get("CALICO_LOG_LEVEL") or "info").lower(),
            use_pod_cidr=_bool(
                env, "CALICO_USE_POD_CIDR" if env.get("CALICO_USE_POD_CIDR") else "USE_POD_CIDR", False
            ),
            health_enabled=_bool(env, "FELIX_HEALTHENABLED", True),
            health_host=env.get("FELIX_HEALTHHOST") or "localhost",
            health_port=_port(env, "FELIX_HEALTHPORT", 9099),
            prometheus_enabled=_bool(env, "FELIX_PROMETHEUSMETRICSENABLED", False),
            prometheus_host=env.get("FELIX_PROMETHEUSMETRICSHOST", ""),
            prometheus_port=_port(env, "FELIX_PROMETHEUSMETRICSPORT", 9091),
            environ=env,
        )


def _node_name(env: Mapping[str, str], state_dir: Path) -> str:
    name = env.get("NODENAME", "").strip()
    if name:
        return name
    nodename_file = Path(env.get("CALICO_NODENAME_FILE") or state_dir / "nodename")
    if nodename_file.is_file():
        name = nodename_file.read_text().strip()
        if name:
            return name
    return (env.get("HOSTNAME", "").strip() or socket.gethostname()).lower()


def _etcd_discovery_srv(env: Mapping[str, str]) -> str:
    return (env.get("CALICO_ETCD_DISCOVERY_SRV") or env.get("ETCD_DISCOVERY_SRV") or "").strip()


def _datastore_type(env: Mapping[str, str]) -> tuple[str, str]:
    explicit = (env.get("CALICO_DATASTORE_TYPE") or env.get("DATASTORE_TYPE") or "").strip()
    if explicit:
        if explicit not in ("embedded", "etcdv3", "kubernetes") and ":" not in explicit:
            raise SettingsError(
                f"DATASTORE_TYPE = {explicit!r}: must be embedded, etcdv3 or kubernetes (or package:name of a plugin)"
            )
        return explicit, "DATASTORE_TYPE is set"
    if env.get("CALICO_ETCD_ENDPOINTS") or env.get("ETCD_ENDPOINTS"):
        return "etcdv3", "ETCD_ENDPOINTS is set"
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        if env.get(name):
            return "kubernetes", f"{name} is set"
    if _etcd_discovery_srv(env):
        return "etcdv3", "ETCD_DISCOVERY_SRV is set"
    return "embedded", "neither ETCD_ENDPOINTS nor a Kubernetes configuration is set"
