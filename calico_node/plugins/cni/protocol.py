"""CNI calls and results as values: parsing, checks, and the JSON of every version; no I/O.

Source: CNI specification 1.1.0; the network configuration members are those of Calico's plugin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen

from calico_node.addresses import ip_version, parse_address
from calico_node.errors import CNIError, ValidationError
from calico_node.plugins.cni.client import SUPPORTED_VERSIONS

INCOMPATIBLE_VERSION = 1
INVALID_ENVIRONMENT = 4
DECODE_FAILURE = 6
INVALID_CONFIG = 7
PLUGIN_NOT_AVAILABLE = 50
INTERNAL = 999

_NAME = re.compile(r"[a-zA-Z0-9_.-]+")
_CONTAINER_ID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_INTRODUCED = {"CHECK": (0, 4, 0), "GC": (1, 1, 0), "STATUS": (1, 1, 0)}


def version_tuple(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


@frozen
class NetConf:
    """A network configuration.  ``raw`` is what came in, for plugins called in turn; ``members`` the same with all
    names in lower case, as they are matched without regard to case."""

    raw: bytes
    members: Mapping[str, Any] = field(repr=False)
    cni_version: str = "0.2.0"
    name: str = ""

    @classmethod
    def parse(cls, raw: bytes) -> NetConf:
        """Raises ``CNIError`` with the library's codes: not JSON, no usable name, an unknown version."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise CNIError(DECODE_FAILURE, f"error unmarshalling network configuration: {error}") from None
        if not isinstance(data, dict):
            raise CNIError(DECODE_FAILURE, "error unmarshalling network configuration: it is not a JSON object")
        members = _lowered(data)
        version = str(members.get("cniversion") or "0.2.0")
        if version not in SUPPORTED_VERSIONS:
            raise CNIError(
                INCOMPATIBLE_VERSION,
                "incompatible CNI versions",
                f'config is "{version}", plugin supports {json.dumps(list(SUPPORTED_VERSIONS))}',
            )
        name = str(members.get("name") or "")
        if not _NAME.fullmatch(name):
            raise CNIError(INVALID_CONFIG, f"invalid network name {name!r}: must match ^[a-zA-Z0-9_.-]+$")
        return cls(raw, members, version, name)

    def text(self, *path: str) -> str:
        """The text at a path of lower-case names; "" where there is none."""
        value = self.get(*path)
        return value if isinstance(value, str) else ""

    def get(self, *path: str) -> Any:
        value: Any = self.members
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def number(self, name: str) -> int:
        value = self.get(name)
        if value is None:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            raise CNIError(INVALID_CONFIG, f"{name} = {value!r}: must be a whole number")
        return value

    def flag(self, *path: str) -> bool:
        value = self.get(*path)
        if value not in (None, True, False):
            raise CNIError(INVALID_CONFIG, f"{'.'.join(path)} = {value!r}: must be true or false")
        return bool(value)


def _lowered(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key).lower(): _lowered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_lowered(item) for item in value]
    return value


@frozen
class Call:
    """One CNI call.  ``netns_fd`` belongs to the server and is None where there is none."""

    role: str
    command: str
    container_id: str
    interface: str
    netns: str
    netns_fd: int | None
    path: str
    conf: NetConf
    args: Mapping[str, str] = field(factory=dict)
    environment: Mapping[str, str] = field(factory=dict, repr=False)

    @classmethod
    def parse(cls, role: str, environment: Mapping[str, str], config: bytes, netns_fd: int | None) -> Call:
        """Raises ``CNIError`` for variables or a configuration that break the specification."""
        command = environment.get("CNI_COMMAND", "")
        conf = NetConf.parse(config)
        least = _INTRODUCED.get(command)
        if least is not None and version_tuple(conf.cni_version) < least:
            raise CNIError(INCOMPATIBLE_VERSION, f"config version does not allow {command}")
        container_id, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
        if command in ("ADD", "DEL", "CHECK"):
            missing = [name for name in ("CNI_CONTAINERID", "CNI_IFNAME") if not environment.get(name)]
            if missing:
                raise CNIError(INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing")
            if not _CONTAINER_ID.fullmatch(container_id):
                raise CNIError(INVALID_ENVIRONMENT, f"invalid characters in containerID {container_id!r}")
            if (
                len(interface) > 15
                or interface in (".", "..")
                or any(char in "/:" or char.isspace() for char in interface)
            ):
                raise CNIError(INVALID_ENVIRONMENT, f"invalid interface name {interface!r}")
        return cls(
            role,
            command,
            container_id,
            interface,
            environment.get("CNI_NETNS", ""),
            netns_fd,
            environment.get("CNI_PATH", ""),
            conf,
            _parse_args(environment.get("CNI_ARGS", "")),
            environment,
        )

    @property
    def pod(self) -> tuple[str, str] | None:
        """Namespace and name of the Kubernetes pod, None for any other container."""
        namespace, name = self.args.get("K8S_POD_NAMESPACE", ""), self.args.get("K8S_POD_NAME", "")
        return (namespace, name) if namespace and name else None

    @property
    def handle(self) -> str:
        """The IPAM handle of this container."""
        return f"{self.conf.name}.{self.container_id}"


def _parse_args(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in text.split(";"):
        if not pair:
            continue
        name, equals, value = pair.partition("=")
        if not equals:
            raise CNIError(INVALID_ENVIRONMENT, f"CNI_ARGS: invalid pair {pair!r}")
        found[name] = value
    return found


@frozen
class IPAMResult:
    """Addresses with the prefix length the allocator gave (``10.65.0.66/26``), and route destinations."""

    addresses: tuple[str, ...]
    routes: tuple[Mapping[str, Any], ...] = ()

    @property
    def host_addresses(self) -> tuple[str, ...]:
        """The addresses as /32 and /128."""
        return tuple(
            f"{parse_address(address)}/{32 if ip_version(address) == 4 else 128}" for address in self.addresses
        )

    @classmethod
    def parse(cls, output: bytes, plugin: str) -> IPAMResult:
        """Another IPAM plugin's result, of any version; gateways are dropped.  Raises ``CNIError``."""
        try:
            data = json.loads(output)
            if "ips" in data:
                addresses = [str(item["address"]) for item in data["ips"]]
                routes = data.get("routes") or ()
            else:
                parts = [data[key] for key in ("ip4", "ip6") if data.get(key)]
                addresses = [str(part["ip"]) for part in parts]
                routes = [route for part in parts for route in part.get("routes") or ()]
            for address in addresses:
                parse_address(address)
            return cls(tuple(addresses), tuple(routes))
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise CNIError(DECODE_FAILURE, f"IPAM plugin {plugin}: its result cannot be read: {error}") from None


@frozen
class Interface:
    """An interface of a result; ``sandbox`` "" for one on the host."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = {"name": self.name}
        if self.mac:
            found["mac"] = self.mac
        if self.mtu:
            found["mtu"] = self.mtu
        if self.sandbox:
            found["sandbox"] = self.sandbox
        return found


def result_json(
    version: str,
    addresses: Sequence[str],
    *,
    interfaces: Sequence[Interface] = (),
    routes: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """A result in the form of ``version``.  The addresses belong to the last interface."""
    major = version_tuple(version)
    data: dict[str, Any] = {"cniVersion": version}
    if major < (0, 3, 0):
        for address in addresses:
            family = ip_version(address)
            own = [dict(route) for route in routes if ip_version(str(route.get("dst", ""))) == family]
            data.setdefault(f"ip{family}", {"ip": address, **({"routes": own} if own else {})})
    else:
        if interfaces:
            data["interfaces"] = [interface.to_dict() for interface in interfaces]
        data["ips"] = ips = []
        for address in addresses:
            item: dict[str, Any] = {"version": str(ip_version(address))} if major < (1, 0, 0) else {}
            if interfaces:
                item["interface"] = len(interfaces) - 1
            ips.append({**item, "address": address})
        if routes:
            data["routes"] = [dict(route) for route in routes]
    data["dns"] = {}
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def error_json(version: str, error: Exception) -> bytes:
    """An error as it stands on standard output."""
    code = error.code if isinstance(error, CNIError) else INTERNAL
    data: dict[str, Any] = {"cniVersion": version, "code": code, "msg": str(error)}
    if isinstance(error, CNIError) and error.details:
        data["details"] = error.details
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"
