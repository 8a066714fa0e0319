"""The versions of this tool and of the cluster."""

from __future__ import annotations

from calico_node.errors import CalicoError


def client_version() -> str:
    """The Calico release whose formats and behaviour this tool follows."""
    from calico_node.datastores.client import CALICO_VERSION

    return CALICO_VERSION


def git_commit() -> str:
    """This project's own release, in the place where Calico shows its commit."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"calico-node-{version('calico-node')}"
    except PackageNotFoundError:
        return "calico-node"


def check_version(cluster: str) -> None:
    """Raise ``CalicoError`` where the cluster says that it is of another Calico version; "" says nothing."""
    own = client_version()
    if cluster and _release(cluster) != _release(own):
        raise CalicoError(
            f"version mismatch.\nClient Version:   {own}\nCluster Version:  {cluster}\n"
            "Use --allow-version-mismatch to override"
        )


def _release(version: str) -> str:
    return version.strip().removeprefix("v").partition("-")[0]
