"""``calicoctl node diags``: what this host and its agent look like, in one file."""

from __future__ import annotations

import asyncio
import os
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from calico_node.calicoctl.bundle import Bundle, bundle
from calico_node.calicoctl.cluster.diags import add_datastore
from calico_node.calicoctl.config import load_settings
from calico_node.calicoctl.node.agent import ask, components
from calico_node.settings import Settings

COMMANDS = (
    ("network/ipv4_route", ("ip", "-4", "route", "show", "table", "all")),
    ("network/ipv6_route", ("ip", "-6", "route", "show", "table", "all")),
    ("network/ipv4_rule", ("ip", "-4", "rule")),
    ("network/ipv6_rule", ("ip", "-6", "rule")),
    ("network/addr", ("ip", "addr")),
    ("network/link", ("ip", "-d", "-s", "link")),
    ("network/neighbour", ("ip", "neighbour")),
    ("network/sockets", ("ss", "-anp")),
    ("network/nft_ruleset", ("nft", "list", "ruleset")),
    ("logs/journalctl_calico_node", ("journalctl", "-u", "calico-node", "--no-pager", "-n", "20000")),
)
VARIABLES = ("CALICO_", "FELIX_", "ETCD_", "DATASTORE_", "KUBE", "K8S_", "IP", "AS", "NODENAME", "NO_DEFAULT_POOLS")


def diags(options: dict[str, Any]) -> int:
    settings = load_settings(options["config"], options["context"])
    print("Collecting diagnostics")
    with bundle("diags") as (found, file):
        add_host(found, settings, Path(options["log_dir"]))
        with found.step("datastore/unavailable"):
            asyncio.run(add_datastore(found, options))
    print(f"\nDiags saved to {file}")
    return 0


def add_host(found: Bundle, settings: Settings, log_dir: Path) -> None:
    """The host's network, the agent's own report, settings and logs."""
    found.add("date", f"{datetime.now(UTC).isoformat(timespec='seconds')}\n")
    found.add("hostname", f"{socket.gethostname()}\n")
    found.add("system", f"{' '.join(platform.uname())}\nPython {platform.python_version()}, euid {os.geteuid()}\n")
    chosen = {name: value for name, value in sorted(settings.environ.items()) if name.startswith(VARIABLES)}
    found.add_data(
        "settings.json",
        {
            "nodeName": settings.node_name,
            "datastore": f"{settings.datastore_type}: {settings.datastore_reason}",
            "environment": chosen,
        },
    )
    with found.step("agent/unavailable"):
        found.add_data("agent/status.json", {"components": components(settings)})
        for path in ("liveness", "readiness", "metrics"):
            found.add(f"agent/{path}", ask(settings, f"/{path}").decode(errors="replace"))
    for name, command in COMMANDS:
        found.add_output(name, command)
    found.add_logs("logs/files", log_dir)
