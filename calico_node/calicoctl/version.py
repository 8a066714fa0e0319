"""The versions of this tool and of the cluster, and ``calicoctl version``."""

from __future__ import annotations

import sys
import time
from typing import Any

from calico_node.calicoctl.options import duration
from calico_node.errors import CalicoError
from calico_node.settings import CALICO_VERSION, Settings


def version(options: dict[str, Any]) -> int:
    """Print the versions; with ``poll`` look again every so often, for ever, whatever goes wrong."""
    interval = duration("--poll", options["poll"])
    print(f"Client Version:    {CALICO_VERSION}")
    print(f"Git commit:        {_git_commit()}", flush=True)
    if options["client_only"]:
        return 0
    from calico_node.calicoctl.config import load_settings

    settings = load_settings(options["config"], options["context"])
    shown = ("", "")
    while True:
        try:
            found = _cluster(settings)
        except CalicoError as error:
            text = f"unable to retrieve Cluster Version or Type: {error}"
            if not interval:
                raise CalicoError(text) from None
            print(text, file=sys.stderr, flush=True)
            # Shown again when the cluster is back, even if nothing has changed.
            found = ("", "")
        for title, now, before in zip(("Cluster Version:   ", "Cluster Type:      "), found, shown, strict=True):
            if now and now != before:
                print(f"{title}{now}", flush=True)
        if not interval:
            return 0
        shown = found
        time.sleep(interval)


def _cluster(settings: Settings) -> tuple[str, str]:
    """Version and type of the cluster."""
    from calico_node.calicoctl.connect import complete, require_datastore
    from calico_node.datastores import open_client

    require_datastore(settings)

    async def read() -> tuple[str, str]:
        async with open_client(settings) as client:
            spec = (await client.get("ClusterInformation", "default")).spec
            return spec.calico_version or "unknown", spec.cluster_type or "unknown"

    return complete(read())


def _git_commit() -> str:
    """This project's own release, in the place where Calico shows its commit."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return f"calico-node-{installed('calico-node')}"
    except PackageNotFoundError:
        return "calico-node"


def check_version(cluster: str) -> None:
    """Raise ``CalicoError`` where the cluster says that it is of another Calico version; "" says nothing."""
    if cluster and _release(cluster) != _release(CALICO_VERSION):
        raise CalicoError(
            f"version mismatch.\nClient Version:   {CALICO_VERSION}\nCluster Version:  {cluster}\n"
            "Use --allow-version-mismatch to override"
        )


def _release(version: str) -> str:
    return version.strip().removeprefix("v").partition("-")[0]
