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
LOG = "calico-node.log"


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
        if name.startswith(("DATASTORE_TYPE", "ETCD_")) and os.environ.get(name, "") != value
    }
    if options["felix_config"]:
        # As in felix: the environment goes before the file.
        given |= {
            name: value for name, value in felix_variables(options["felix_config"]).items() if name not in os.environ
        }
    if options["node_image"]:
        print("--node-image is passed over: this host's calico-node is run, and no container", file=sys.stderr)
    log = os.path.join(options["log_dir"], LOG) if options["log_dir"] else ""
    if options["dryrun"]:
        shown = [f"{name}={shlex.quote(value)}" for name, value in sorted(without_secrets(given).items())]
        print(" ".join((*shown, PROGRAM, "run", *([f">>{shlex.quote(log)}", "2>&1"] if log else []))))
    else:
        _become(given, log)
    return 0


def felix_variables(filename: str) -> dict[str, str]:
    """The ``FELIX_`` variables that mean what a Felix configuration file says.  Raises ``InputError``."""
    from configparser import ConfigParser, Error

    parser = ConfigParser(interpolation=None)
    try:
        with open(filename, encoding="utf-8") as file:
            parser.read_file(file)
    except OSError as error:
        raise InputError(f"cannot read {filename}: {error.strerror}") from None
    except (Error, UnicodeDecodeError) as error:
        raise InputError(f"--felix-config: {filename}: {' '.join(str(error).split())}") from None
    # Felix merges every section, and does not mind the case of names.
    return {f"FELIX_{name.upper()}": value for section in parser.sections() for name, value in parser.items(section)}


def _become(given: dict[str, str], log: str) -> None:
    if os.geteuid() != 0:
        raise CalicoError("Need super user privileges: Operation not permitted")
    beside = os.path.join(os.path.dirname(sys.executable), PROGRAM)
    program = beside if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    if program is None:
        raise CalicoError(f"{PROGRAM} is neither beside {sys.executable} nor in PATH")
    sys.stdout.flush()
    if log:
        _log_to(log)
    os.execve(program, (PROGRAM, "run"), {**os.environ, **given})


def _log_to(file: str) -> None:
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    except OSError as error:
        raise InputError(f"--log-dir: cannot write {file}: {error.strerror}") from None
    for stream in (1, 2):
        os.dup2(opened, stream)
    os.close(opened)


def _environment(options: dict[str, Any]) -> dict[str, str]:
    given = {"NODENAME": options["name"], "CALICO_NETWORKING_BACKEND": options["backend"]}
    if options["backend"] not in ("bird", "none"):
        raise CalicoError(f"Error executing command: unknown backend '{options['backend']}'")
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
