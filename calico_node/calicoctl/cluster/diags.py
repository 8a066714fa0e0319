"""``calicoctl cluster diags``: the datastore's contents and what is wrong with them, in one file."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from calico_node.calicoctl.bundle import Bundle, bundle
from calico_node.calicoctl.connect import connect
from calico_node.calicoctl.datastore.export import list_document, read_contents, yaml_text
from calico_node.calicoctl.ipam.check import examine, narrate
from calico_node.calicoctl.ipam.inventory import take_inventory
from calico_node.calicoctl.secrets import without_secrets
from calico_node.calicoctl.snapshot import resources
from calico_node.resources import KINDS


def diags(options: dict[str, Any]) -> int:
    """A datastore that cannot be read is an error here: there is nothing else to collect."""
    print("Collecting diagnostics")
    with bundle("calico-diagnostics") as (found, file):
        asyncio.run(add_datastore(found, options))
    print(f"\nDiags saved to {file}")
    return 0


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
