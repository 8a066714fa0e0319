"""Plugins are found by name, and a name that two packages offer must be qualified."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_node.entrypoints import find, offers
from calico_node.errors import PluginError


def _package(folder: Path, name: str, entry: str, target: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[calico_node]\n{entry} = {target}\n")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    sys.path.insert(0, str(tmp_path))
    yield tmp_path
    sys.path.remove(str(tmp_path))


def test_a_built_in_is_found_like_any_other() -> None:
    assert find("dataplane", "recorder").package == "calico-node"
    assert {"felix", "bgp", "ipam", "cni"} <= {offer.name for offer in offers("component")}


def test_an_unknown_name_lists_what_is_installed() -> None:
    with pytest.raises(PluginError, match=r"no dataplane plugin is named 'ebpf'; installed: .*nftables"):
        find("dataplane", "ebpf")


def test_two_packages_with_one_name_must_be_told_apart(site: Path) -> None:
    _package(site, "other", "dataplane.recorder", "json:loads")
    with pytest.raises(PluginError, match="calico-node:recorder, other:recorder"):
        find("dataplane", "recorder")
    assert find("dataplane", "other:recorder").load().__name__ == "loads"


def test_a_plugin_that_fails_to_import_is_named(site: Path) -> None:
    _package(site, "broken", "component.broken", "no_such_module_here:Thing")
    with pytest.raises(PluginError, match=r"component\.broken of package broken .*no_such_module_here"):
        find("component", "broken").load()
