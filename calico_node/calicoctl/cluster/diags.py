"""``calicoctl cluster diags``: the datastore's contents and what is wrong with them, in one file."""

from __future__ import annotations

import sys
import time
from typing import Any

from calico_node.calicoctl.bundle import Bundle, bundle
from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.datastore.export import list_document, read_contents
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.ipam.check import examine, narrate
from calico_node.calicoctl.ipam.inventory import take_inventory
from calico_node.calicoctl.options import duration
from calico_node.calicoctl.secrets import without_secrets
from calico_node.calicoctl.snapshot import resources
from calico_node.calicoctl.yamltext import yaml_text
from calico_node.resources import KINDS


def diags(options: dict[str, Any]) -> int:
    """A datastore that cannot be read is an error here: there is nothing else to collect."""
    about_logs = _about_logs(options)
    if about_logs:
        print(
            f"{', '.join(about_logs)}: no host's logs are collected here; 'calicoctl node diags' on the host does",
            file=sys.stderr,
        )
    print("Collecting diagnostics")
    with bundle("calico-diagnostics", keep=options["skip_temp_dir_cleanup"]) as (found, file):
        complete(add_datastore(found, options))
    print(f"\nDiags saved to {file}")
    return 0


def _about_logs(options: dict[str, Any]) -> list[str]:
    """The options given that choose among hosts' logs.  Raises ``InputError`` for a value that they cannot have."""
    given = [name for name in ("since", "max_logs", "max_parallelism", "focus_nodes") if options[name]]
    for name in given:
        text, flag = options[name], f"--{name.replace('_', '-')}"
        if name.startswith("max") and not (text.isascii() and text.isdigit()):
            raise InputError(f"{flag} = {text!r}: must be a number")
        if name == "since":
            duration(flag, text)
    return [f"--{name.replace('_', '-')}" for name in given]


async def add_datastore(found: Bundle, options: dict[str, Any]) -> None:
    """Every resource, IPAM's documents and the check of IPAM.  Raises ``DatastoreError``."""
    async with connect(options, check=False) as client:
        contents = await read_contents(client, everything=True)
        inventory = await take_inventory(client)
        nodes, _ = await resources(client, "Node", inventory.revision)
        endpoints, _ = await resources(client, "WorkloadEndpoint", inventory.revision)
    found.add("datastore/revision", f"{contents.revision}\n")
    found.add("datastore/clusterinformations.yaml", yaml_text(without_secrets(contents.cluster)))
    for kind, items in contents.lists.items():
        document = list_document(kind, without_secrets(items))
        found.add(f"datastore/{KINDS[kind].plural}.yaml", yaml_text(document))
    found.add_data("datastore/ipam.json", contents.ipam)
    if contents.faults:
        found.add("datastore/unreadable", "".join(f"{fault}\n" for fault in contents.faults))
    findings = examine(inventory, nodes, endpoints, now=int(time.time()))
    found.add("datastore/ipam_check", "\n".join(narrate(findings, every=True, problems=True)) + "\n")
