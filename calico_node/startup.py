"""What calico-node does before its components start: the node's own resource and the cluster's well-known ones.

Follows ``node/pkg/lifecycle/startup``: register the Node from IP, AS and the rest of the environment, make the
default pool where there is none, and make sure of ClusterInformation, the tiers and the default configurations.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import anyio
import anyio.to_thread
import structlog
from attrs import evolve, frozen

from calico_node.dataplanes.contract import ConnectedPrefix, RouteSink
from calico_node.datastores.client import Client
from calico_node.errors import (
    DatastoreError,
    ResourceAlreadyExists,
    ResourceDoesNotExist,
    SettingsError,
    UpdateConflict,
    ValidationError,
)
from calico_node.hookspecs import AgentContext
from calico_node.resources import Node, decode, from_dict, to_dict

log = structlog.get_logger("startup")

EXCLUDED_INTERFACES = (
    r"^docker.*", r"^cbr.*", r"^dummy.*", r"^podman.*", r"^virbr.*", r"^lxcbr.*", r"^veth.*", r"^lo", r"^br-.*",
    r"^cali.*", r"^tunl.*", r"^flannel.*", r"^kube-ipvs.*", r"^cni.*", r"^vxlan\.calico.*", r"^vxlan-v6\.calico.*",
    r"^wireguard\.cali.*", r"^wg-v6\.cali.*", r"^nodelocaldns.*",
)  # fmt: skip
"""Interfaces that autodetection passes over (Calico's default list)."""


@frozen
class HostAddress:
    """An address of this host, ``10.0.0.5/24``, on ``device`` with kernel index ``index``."""

    address: str
    device: str
    index: int

    @property
    def interface(self) -> ipaddress.IPv4Interface | ipaddress.IPv6Interface:
        return ipaddress.ip_interface(self.address)


def host_addresses(prefixes: Iterable[ConnectedPrefix]) -> list[HostAddress]:
    """``prefixes`` in Calico's order: the highest interface index first, then as the kernel has them."""
    indexes = {name: index for index, name in socket.if_nameindex()}
    found = [HostAddress(p.address, p.device, indexes.get(p.device, 0)) for p in prefixes]
    return sorted(found, key=lambda address: -address.index)


def detect_address(version: int, method: str, addresses: Iterable[HostAddress]) -> str:
    """This host's address of family ``version`` by an IP_AUTODETECTION_METHOD, as ``address/length``.

    Raises ``SettingsError`` naming the method when nothing fits or the method is unknown.
    """
    usable = []
    for address in addresses:
        ip = address.interface.ip
        if ip.version == version and not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified):
            usable.append(address)
    name, _, argument = method.partition("=")
    patterns = [part for part in argument.split(",") if part]

    def matching(expressions: Iterable[str], *, keep: bool) -> list[HostAddress]:
        try:
            compiled = [re.compile(expression) for expression in expressions]
        except re.error as error:
            raise SettingsError(f"IP_AUTODETECTION_METHOD = {method!r}: bad expression: {error}") from None
        return [a for a in usable if any(c.search(a.device) for c in compiled) is keep]

    if method in ("", "first-found"):
        chosen = matching(EXCLUDED_INTERFACES, keep=False)
    elif name == "interface" and patterns:
        chosen = matching(patterns, keep=True)
    elif name == "skip-interface" and patterns:
        chosen = matching([*EXCLUDED_INTERFACES, *patterns], keep=False)
    elif name == "cidr" and patterns:
        try:
            networks = [ipaddress.ip_network(part) for part in patterns]
        except ValueError as error:
            raise SettingsError(f"IP_AUTODETECTION_METHOD = {method!r}: {error}") from None
        chosen = [a for a in usable if any(a.interface.ip in network for network in networks)]
    elif name == "can-reach" and argument:
        local = _address_towards(argument, version)
        chosen = [a for a in usable if str(a.interface.ip) == local]
    else:
        raise SettingsError(
            f"IP_AUTODETECTION_METHOD = {method!r}: "
            "must be first-found, interface=, skip-interface=, cidr= or can-reach="
        )
    if not chosen:
        raise SettingsError(
            f"no IPv{version} address of this host fits the detection method {method or 'first-found'!r}"
        )
    return chosen[0].address


def _address_towards(host: str, version: int) -> str:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, 80))
        except OSError as error:
            raise SettingsError(f"IP_AUTODETECTION_METHOD: can-reach={host}: {error}") from None
        return str(probe.getsockname()[0])


def choose_address(
    version: int, text: str, present: str, method: str, addresses: Iterable[HostAddress]
) -> str | None:
    """The Node's address from the IP (or IP6) variable ``text`` and the address ``present`` in the datastore.

    "" keeps what is there and detects an IPv4 address otherwise, ``autodetect`` always detects, ``none`` keeps; an
    address without a length takes the length it has on an interface, else the full length.
    """
    found = list(addresses)
    variable = "IP" if version == 4 else "IP6"
    if text == "none" or (text == "" and (present or version == 6)):
        return present or None
    if text in ("", "autodetect"):
        try:
            return detect_address(version, method, found)
        except SettingsError:
            if present:
                return present
            raise
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise SettingsError(f"{variable} = {text!r}: {error}") from None
    if interface.version != version:
        raise SettingsError(f"{variable} = {text!r}: is not an IPv{version} address")
    if "/" in text:
        return text
    for address in found:
        if version == 4 and address.interface.ip == interface.ip:
            return address.address
    return str(interface)


async def prepare_node(context: AgentContext) -> None:
    """Do all of it, retrying while the datastore is away.  Raises ``SettingsError`` for a bad environment."""
    reporter = context.health.reporter("startup")
    delay = 0.5
    while True:
        try:
            await _prepare(context)
            reporter.report(reason="")
            return
        except (DatastoreError, ValidationError) as error:
            # A stored object that cannot be read, our Node for one, is for people to mend: it is waited for.
            reporter.report(ready=False, reason=f"datastore: {error}")
            log.warning("datastore not ready", error=str(error), retry_in=delay)
            await anyio.sleep(delay)
            delay = min(delay * 2, 10.0)


def poll_interval(environ: Mapping[str, str]) -> float:
    """AUTODETECT_POLL_INTERVAL, a Go duration (default 60s), in seconds.  Raises ``SettingsError``."""
    text = environ.get("AUTODETECT_POLL_INTERVAL", "").strip() or "60s"
    parts = re.findall(r"(\d+(?:\.\d+)?)(h|ms|m|s)", text)
    seconds = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    interval = sum(float(number) * seconds[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or interval <= 0:
        raise SettingsError(f"AUTODETECT_POLL_INTERVAL = {text!r}: must be a duration such as 60s or 1m30s")
    return interval


async def watch_own_node(context: AgentContext) -> None:
    """Look at this node's resource from time to time: an address that another host wrote there is reported, not
    fought, for two hosts that overwrite each other's address would unsettle the whole cluster."""
    name = context.settings.node_name
    reporter = context.health.reporter("node")
    interval = poll_interval(context.settings.environ)
    written = None
    cluster = found = ""
    while True:
        try:
            found = await _cluster_guid(context.client)
            node = await context.client.get("Node", name)
            assert isinstance(node, Node)
            cluster = found or cluster
            present = node.spec.bgp.ipv4_address if node.spec.bgp else None
            written = written or present
            if present == written:
                reporter.report(reason=f"address {present}")
            else:
                reason = f"Node {name!r} says {present}, which another host wrote; this host registered {written}"
                log.warning("two hosts have one node name", node=name, address=present, own=written)
                reporter.report(reason=reason)
        except ResourceDoesNotExist:
            if cluster and found and found != cluster:
                # Nobody deleted this node: the datastore was emptied and another host has filled it anew.
                log.warning("the datastore was made anew; registering this node in it", node=name)
                try:
                    await prepare_node(context)
                    continue
                except SettingsError as error:
                    # What would refuse a start must not end what runs: its Node stays away, and that is said.
                    log.error("registering failed", error=str(error))
            reason = f"Node {name!r} is not in the datastore; a restart of calico-node registers it anew"
            reporter.report(ready=False, reason=reason)
        except DatastoreError as error:
            log.debug("own Node not read", error=str(error))  # the line "datastore" says so
        except ValidationError as error:
            reporter.report(ready=False, reason=str(error))
        await anyio.sleep(interval)


async def _cluster_guid(client: Client) -> str:
    """What tells this datastore's contents from any other's; "" while they have none."""
    try:
        information = await client.get("ClusterInformation", "default")
    except ResourceDoesNotExist:
        return ""
    return str(getattr(information.spec, "cluster_guid", "") or "")


async def _prepare(context: AgentContext) -> None:
    settings, client = context.settings, context.client
    await client.ensure_initialized(cluster_type=settings.environ.get("CLUSTER_TYPE", ""))
    addresses = await _addresses(context.route_sink)
    node = await register_node(client, settings.node_name, settings.environ, addresses)
    log.info("node registered", node=node.metadata.name, address=node.spec.bgp.ipv4_address if node.spec.bgp else "")
    await ensure_default_pool(client, settings.environ, addresses)
    await ensure_configurations(client, settings.node_name)
    nodename_file = settings.state_dir / "nodename"
    try:
        if not nodename_file.is_file() or nodename_file.read_text() != settings.node_name:
            nodename_file.parent.mkdir(parents=True, exist_ok=True)
            nodename_file.write_text(settings.node_name)
    except OSError as error:
        raise SettingsError(f"CALICO_STATE_DIR: the node's name cannot be written down: {error}") from error


async def _addresses(route_sink: RouteSink) -> list[HostAddress]:
    async for view in route_sink.watch():
        return host_addresses(view.addresses)
    return []


async def register_node(client: Client, name: str, environ: Mapping[str, str], addresses: list[HostAddress]) -> Node:
    """Create or update the Node ``name``.  Raises ``SettingsError`` when another Node has one of its addresses."""
    while True:
        try:
            stored = await client.get("Node", name)
        except ResourceDoesNotExist:
            stored = None
        node = stored if isinstance(stored, Node) else from_dict(_document("Node", name))
        assert isinstance(node, Node)
        # In a thread: can-reach= may have to ask a name server.
        wanted = await anyio.to_thread.run_sync(_with_environment, node, environ, addresses)
        await _refuse_shared_address(client, wanted, environ)
        if stored is not None and wanted == stored:
            return wanted
        try:
            result = await (client.create(wanted) if stored is None else client.update(wanted))
        except (UpdateConflict, ResourceAlreadyExists):
            continue
        assert isinstance(result, Node)
        return result


def _with_environment(node: Node, environ: Mapping[str, str], addresses: list[HostAddress]) -> Node:
    from calico_node.resources import NodeBGPSpec, OrchRef

    bgp = node.spec.bgp or NodeBGPSpec()
    methods = (environ.get("IP_AUTODETECTION_METHOD", ""), environ.get("IP6_AUTODETECTION_METHOD", ""))
    ipv4 = choose_address(4, environ.get("IP", "").strip(), bgp.ipv4_address or "", methods[0], addresses)
    ipv6 = choose_address(6, environ.get("IP6", "").strip(), bgp.ipv6_address or "", methods[1], addresses)
    if not ipv4 and not ipv6 and environ.get("CALICO_NETWORKING_BACKEND") != "none":
        raise SettingsError("this node has neither an IPv4 nor an IPv6 address; set IP or IP6")
    as_number = bgp.as_number
    if environ.get("AS", "").strip():
        as_number = parse_as_number(environ["AS"].strip())
    bgp = evolve(bgp, ipv4_address=ipv4, ipv6_address=ipv6, as_number=as_number)
    refs = node.spec.orch_refs
    if environ.get("CALICO_K8S_NODE_REF"):
        refs = [OrchRef(node_name=environ["CALICO_K8S_NODE_REF"], orchestrator="k8s")]
    return evolve(node, spec=evolve(node.spec, bgp=bgp, orch_refs=refs))


def parse_as_number(text: str) -> int:
    """The AS variable: ``64512`` or ``1.10``.  Raises ``SettingsError``."""
    high, dot, low = text.partition(".")
    parts = [high, low] if dot else [high]
    limit = 0xFFFF if dot else 0xFFFFFFFF
    if not all(part.isdigit() and int(part) <= limit for part in parts):
        raise SettingsError(f"AS = {text!r}: must be an AS number such as 64512 or 1.10")
    return (int(high) << 16) + int(low) if dot else int(high)


async def _refuse_shared_address(client: Client, node: Node, environ: Mapping[str, str]) -> None:
    if environ.get("DISABLE_NODE_IP_CHECK") == "true" or node.spec.bgp is None:
        return
    own = {text.partition("/")[0] for text in (node.spec.bgp.ipv4_address, node.spec.bgp.ipv6_address) if text}
    for other in (await client.list("Node")).items:
        if other.metadata.name == node.metadata.name or other.spec.bgp is None:
            continue
        for text in (other.spec.bgp.ipv4_address, other.spec.bgp.ipv6_address):
            if text and text.partition("/")[0] in own:
                raise SettingsError(f"Node {other.metadata.name!r} has the address {text} of this node already")


def _document(kind: str, name: str) -> dict[str, Any]:
    return {"kind": kind, "apiVersion": "projectcalico.org/v3", "metadata": {"name": name}, "spec": {}}


async def ensure_configurations(client: Client, node_name: str) -> None:
    """Make sure of the configurations that calico-node starts with outside the Kubernetes datastore; a field that is
    set stays as it is."""
    await _ensure_fields(
        client, "FelixConfiguration", "default", {"reportingInterval": "0s", "logSeverityScreen": "Info"}
    )
    await _ensure_fields(client, "FelixConfiguration", f"node.{node_name}", {"defaultEndpointToHostAction": "Return"})
    await _create_if_absent(client, _document("BGPConfiguration", "default"))
    ipam = {
        "strictAffinity": False,
        "autoAllocateBlocks": True,
        "maxBlocksPerHost": 0,
        "kubeVirtVMAddressPersistence": "Enabled",
    }
    await _create_if_absent(client, {**_document("IPAMConfiguration", "default"), "spec": ipam})


async def _ensure_fields(client: Client, kind: str, name: str, fields: Mapping[str, object]) -> None:
    while True:
        try:
            stored = to_dict(await client.get(kind, name))
        except ResourceDoesNotExist:
            stored = _document(kind, name)
        except ValidationError as error:
            log.warning("a stored configuration cannot be used", reason=str(error))
            return
        missing = {field: value for field, value in fields.items() if field not in stored["spec"]}
        if not missing:
            return
        stored["spec"].update(missing)
        resource = decode(kind, stored)  # as stored: it may have members of a newer release
        try:
            await (client.update(resource) if resource.metadata.uid else client.create(resource))
            return
        except (UpdateConflict, ResourceAlreadyExists):
            continue


async def _create_if_absent(client: Client, document: dict[str, Any]) -> None:
    try:
        await client.create(from_dict({"apiVersion": "projectcalico.org/v3", **document}))
    except ResourceAlreadyExists:
        return


def _encapsulation(environ: Mapping[str, str], name: str) -> str:
    text = environ.get(name, "").strip()
    known = {"": "Never", "never": "Never", "off": "Never", "always": "Always", "crosssubnet": "CrossSubnet"}
    try:
        return known[text.lower().replace("-", "")]
    except KeyError:
        raise SettingsError(f"{name} = {text!r}: must be Never, Always or CrossSubnet") from None


def default_pool_cidr(environ: Mapping[str, str], addresses: Iterable[HostAddress]) -> str:
    """CALICO_IPV4POOL_CIDR, else 192.168.0.0/16, else the first 172.x.0.0/16 (16..31) without a host address."""
    if environ.get("CALICO_IPV4POOL_CIDR"):
        return environ["CALICO_IPV4POOL_CIDR"]
    hosts = [address.interface.ip for address in addresses]
    candidates = ["192.168.0.0/16", *(f"172.{second}.0.0/16" for second in range(16, 32))]
    for candidate in candidates:
        if not any(host in ipaddress.ip_network(candidate) for host in hosts if host.version == 4):
            return candidate
    return candidates[0]


async def ensure_default_pool(client: Client, environ: Mapping[str, str], addresses: Iterable[HostAddress]) -> None:
    """Create ``default-ipv4-ippool`` unless a pool of that family is there or NO_DEFAULT_POOLS says not to."""
    if environ.get("NO_DEFAULT_POOLS", "").lower() == "true":
        if environ.get("CALICO_IPV4POOL_CIDR"):
            raise SettingsError("NO_DEFAULT_POOLS is true and CALICO_IPV4POOL_CIDR is set: they exclude each other")
        return
    cidr = default_pool_cidr(environ, addresses)
    if cidr == "none":
        return
    if any(":" not in pool.spec.cidr for pool in (await client.list("IPPool")).items):
        return
    false_words = ("false", "0", "no", "n", "f")
    spec: dict[str, object] = {
        "cidr": cidr,
        "ipipMode": _encapsulation(environ, "CALICO_IPV4POOL_IPIP"),
        "vxlanMode": _encapsulation(environ, "CALICO_IPV4POOL_VXLAN"),
        "natOutgoing": environ.get("CALICO_IPV4POOL_NAT_OUTGOING", "true").lower() not in false_words,
    }
    if environ.get("CALICO_IPV4POOL_BLOCK_SIZE"):
        text = environ["CALICO_IPV4POOL_BLOCK_SIZE"]
        if not text.isdigit():
            raise SettingsError(f"CALICO_IPV4POOL_BLOCK_SIZE = {text!r}: must be a number from 20 to 32")
        spec["blockSize"] = int(text)
    if environ.get("CALICO_IPV4POOL_NODE_SELECTOR"):
        spec["nodeSelector"] = environ["CALICO_IPV4POOL_NODE_SELECTOR"]
    if environ.get("CALICO_IPV4POOL_DISABLE_BGP_EXPORT", "false").lower() not in (*false_words, ""):
        spec["disableBGPExport"] = True
    try:
        await _create_if_absent(client, {"kind": "IPPool", "metadata": {"name": "default-ipv4-ippool"}, "spec": spec})
    except ValidationError as error:
        raise SettingsError(
            f"the default IP pool cannot be made from the CALICO_IPV4POOL_ variables: {error}"
        ) from None
