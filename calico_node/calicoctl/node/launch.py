"""``calicoctl node run``: calico-node in place of the container that Calico's tool starts."""

from __future__ import annotations

import ipaddress
import os
import shlex
import shutil
import sys
from typing import Any

from calico_node.calicoctl.config import load_settings
from calico_node.calicoctl.errors import InputError
from calico_node.calicoctl.secrets import without_secrets
from calico_node.errors import CalicoError

PROGRAM = "calico-node"


class _Said(Exception):
    """The argument error has been printed."""


def launch(options: dict[str, Any]) -> int:
    """Replace this process by ``calico-node run``, or print its command line."""
    try:
        given = _environment(options)
    except _Said:
        return 1
    settings = load_settings(options["config"], options["context"])
    if options["backend"] == "none":
        given["CALICO_COMPONENTS"] = ",".join(name for name in settings.components if name != "bgp")
    # The datastore of a configuration file reaches the node by its environment.
    given |= {
        name: value
        for name, value in settings.environ.items()
        if name.startswith(("DATASTORE_TYPE", "ETCD_")) and os.environ.get(name) != value
    }
    if options["dryrun"]:
        shown = (f"{name}={shlex.quote(value)}" for name, value in sorted(without_secrets(given).items()))
        print(" ".join((*shown, PROGRAM, "run")))
    else:
        _become(given)
    return 0


def _become(given: dict[str, str]) -> None:
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    program = beside if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    if program is None:
        raise CalicoError(f"{PROGRAM} is neither beside {sys.executable} nor in PATH")
    sys.stdout.flush()
    os.execve(program, (PROGRAM, "run"), {**os.environ, **given})


def _environment(options: dict[str, Any]) -> dict[str, str]:
    given = {"NODENAME": options["name"], "CALICO_NETWORKING_BACKEND": options["backend"]}
    if options["backend"] not in ("bird", "none"):
        raise InputError(f"--backend = {options['backend']!r}: must be bird or none")
    for version, name in ((4, "ip"), (6, "ip6")):
        text = options[name]
        if text not in ("", "autodetect", "none"):
            _check_address(text, version)
        given[name.upper()] = text
        given[f"{name.upper()}_AUTODETECTION_METHOD"] = options[f"{name}_autodetection_method"]
    number = options["as_number"]
    if number and not _is_as_number(number):
        print(f"Error executing command: invalid AS Number specified: {number}")
        raise _Said
    given["AS"] = number
    if options["no_default_ippools"]:
        given["NO_DEFAULT_POOLS"] = "true"
    return {name: value for name, value in given.items() if value}


def _check_address(text: str, version: int) -> None:
    try:
        if ipaddress.ip_interface(text).version == version:
            return
    except ValueError:
        pass
    print(f"Error executing command: invalid IP address specified: {text}")
    raise _Said


def _is_as_number(text: str) -> bool:
    """Plain, or in the dotted form of RFC 5396."""
    parts = text.split(".")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and len(part) < 11 for part in parts):
        return False
    if len(parts) == 2:
        return all(int(part) < 1 << 16 for part in parts)
    return 0 < int(text) < 1 << 32
