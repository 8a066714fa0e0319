"""One small cluster whose policies change, and who reaches whom in it.

Two nodes, six pods, two hosts outside.  Documents are given as Python values; a probe is a line of text such as
``red/a > blue/d tcp 80`` or ``red/a > red/b icmp 8/0``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from calico_node.lab import control
from calico_node.lab.probes import Probe, probe_to_json
from tests.kernel.lab.conftest import LabCommand

Document = Mapping[str, Any]

NODES = ("n1", "n2")
PORTS = (("TCP", 80), ("TCP", 90), ("TCP", 8080), ("UDP", 53), ("UDP", 80))
"""Every pod and host listens on these."""
PODS: Mapping[str, Mapping[str, Any]] = {
    "red/a": {"node": "n1", "ip": "10.244.9.1", "labels": {"app": "a", "side": "left"}, "http": 80},
    "red/b": {"node": "n2", "ip": "10.244.9.66", "labels": {"app": "b"}, "http": 80, "account": "admin"},
    "red/c": {"node": "n1", "ip": "10.244.9.2", "labels": {"app": "c", "side": "left"}, "http": 90},
    "blue/d": {"node": "n2", "ip": "10.244.9.67", "labels": {"app": "a"}, "http": 8080},
    "blue/e": {"node": "n1", "ip": "10.244.9.3", "labels": {"app": "b", "side": "left"}, "account": "admin"},
    "blue/f": {"node": "n2", "ip": "10.244.9.68", "labels": {}, "http": 80, "account": "reader"},
}
NAMESPACES = {"red": {"team": "red", "env": "prod"}, "blue": {"team": "blue"}}
ACCOUNTS = {
    ("red", "admin"): {"role": "admin"},
    ("blue", "admin"): {"role": "none"},
    ("blue", "reader"): {"role": "reader"},
}
HOSTS = {"host:e1": "172.30.0.10", "host:e2": "172.30.0.200"}
NODE_IPS = {"node:n1": "172.30.0.1", "node:n2": "172.30.0.2"}
V3 = "projectcalico.org/v3"


def document(
    kind: str, name: str, namespace: str = "", spec: Mapping[str, Any] | None = None, **more: Any
) -> Document:
    """A Calico document."""
    metadata: dict[str, Any] = {"name": name, **more}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": V3, "kind": kind, "metadata": metadata, "spec": dict(spec or {})}


def gnp(name: str, **spec: Any) -> Document:
    return document("GlobalNetworkPolicy", name, spec=spec)


def np(name: str, **spec: Any) -> Document:
    """A NetworkPolicy; ``name`` is ``namespace/name``."""
    namespace, _, name = name.partition("/")
    return document("NetworkPolicy", name, namespace, spec)


def knp(name: str, **spec: Any) -> Document:
    """A Kubernetes NetworkPolicy; ``name`` is ``namespace/name``."""
    namespace, _, name = name.partition("/")
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec}


def tier(name: str, order: float | None, action: str = "Deny") -> Document:
    spec: dict[str, Any] = {"defaultAction": action}
    return document("Tier", name, spec=spec if order is None else {**spec, "order": order})


def namespace(name: str, labels: Mapping[str, str] | None = None) -> Document:
    metadata = {"name": name, "labels": dict(NAMESPACES[name] if labels is None else labels)}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}


def pod(key: str, labels: Mapping[str, str] | None = None) -> Document:
    about = PODS[key]
    home, _, name = key.partition("/")
    ports: list[dict[str, Any]] = [{"containerPort": port, "protocol": protocol} for protocol, port in PORTS]
    for entry in ports:
        if entry == {"containerPort": about.get("http"), "protocol": "TCP"}:
            entry["name"] = "http"
        if entry == {"containerPort": 53, "protocol": "UDP"}:
            entry["name"] = "dns"
    spec = {"nodeName": about["node"], "containers": [{"name": "c", "ports": ports}]}
    if "account" in about:
        spec["serviceAccountName"] = about["account"]
    metadata = {
        "name": name,
        "namespace": home,
        "labels": dict(about["labels"] if labels is None else labels),
        "annotations": {"cni.projectcalico.org/ipAddrs": json.dumps([about["ip"]])},
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def cluster() -> list[Document]:
    listen = [{"port": port, "protocol": protocol} for protocol, port in PORTS]
    accounts = [
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": home, "labels": labels},
        }
        for (home, name), labels in ACCOUNTS.items()
    ]
    lab = {
        "apiVersion": "lab.calico-node/v1",
        "kind": "Lab",
        "spec": {
            "nodes": [{"name": name, "listen": listen} for name in NODES],
            "hosts": [{"name": name[5:], "address": ip + "/24", "listen": listen} for name, ip in HOSTS.items()],
        },
    }
    return [*map(namespace, NAMESPACES), *accounts, *map(pod, PODS), lab]


def parse_probe(text: str) -> Probe:
    source, arrow, target, protocol, *rest = text.split()
    assert arrow == ">", text
    if protocol == "icmp":
        kind, _, code = (rest or ["8/0"])[0].partition("/")
        return Probe(source, target, "ICMP", icmp_type=int(kind), icmp_code=int(code or 0))
    return Probe(source, target, protocol.upper(), int(rest[0]))


class World:
    """The lab that is up."""

    def __init__(self, command: LabCommand) -> None:
        self.command = command
        self._control = command.folder() / "control.sock"

    def call(self, op: str, **request: Any) -> Any:
        return control.call(self._control, {"op": op, **request})[0]

    def apply(self, *documents: Document) -> dict[str, Any]:
        """Returns once both nodes have it in force; the answer's ``rejected`` says what is not."""
        result: dict[str, Any] = self.call("apply", sources=_sources(documents))
        return result

    def delete(self, *documents: Document) -> None:
        self.call("delete", sources=_sources(documents))

    @contextmanager
    def with_documents(self, *documents: Document, rejected: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
        """The documents are in force inside; what any node rejects of them must be in ``rejected``."""
        try:
            result = self.apply(*documents)
            unexpected = {
                item: reason
                for item, reason in result["rejected"].items()
                if not any(text in item for text in rejected)
            }
            assert unexpected == {}
            yield result
        finally:
            self.delete(*documents)

    def probe(self, probes: Sequence[str]) -> dict[str, str]:
        """Why each probe failed, "" where it did not."""
        answers = self.call("probe", probes=[probe_to_json(parse_probe(text)) for text in probes])
        return {
            text: "" if answer["allowed"] else f"denied, {answer['error']}"
            for text, answer in zip(probes, answers, strict=True)
        }

    def check(self, *, allowed: Iterable[str] = (), denied: Iterable[str] = ()) -> None:
        """Every probe comes out as said; else an error that names those that do not."""
        wanted = {**dict.fromkeys(lines(allowed), True), **dict.fromkeys(lines(denied), False)}
        found = self.probe(list(wanted))
        wrong = [f"{text}: {why or 'allowed'}" for text, why in found.items() if wanted[text] == bool(why)]
        assert not wrong, "; ".join(wrong)

    def exec(self, where: str, *command: str) -> str:
        return self.command.ok("exec", where, "--", *command)

    def on_node(self, name: str, *command: str) -> str:
        return self.command.ok("node", name, "--", *command)

    def wait(self, condition: Any, what: str, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
            time.sleep(0.05)


def lines(probes: Iterable[str]) -> list[str]:
    """One entry per line of each text; braces stand for several: ``{red/a,red/b} > blue/d tcp {80,90}``."""
    found: list[str] = []
    for text in [probes] if isinstance(probes, str) else probes:
        for line in filter(None, map(str.strip, text.splitlines())):
            found += _expand(line)
    return found


def _expand(line: str) -> list[str]:
    head, brace, rest = line.partition("{")
    if not brace:
        return [line]
    options, _, tail = rest.partition("}")
    return [text for option in options.split(",") for text in _expand(head + option + tail)]


def _sources(documents: Iterable[Document]) -> list[list[str]]:
    return [["scenario.yaml", "\n---\n".join(json.dumps(one) for one in documents)]]
