"""What the commands' command lines have in common: options, and the way from a command line to its function."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import click

from calico_node.calicoctl.errors import InputError
from calico_node.errors import CalicoError

F = TypeVar("F", bound=Callable[..., Any])

FILE = click.Path(readable=False)
"""For the shell, which completes it; what is there the command finds out."""
FILE_HELP = "A file, a folder of .yaml, .yml and .json files, or - for standard input."


def together(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


global_options = together(
    click.option(
        "-l", "--log-level", default="panic", help="Level of log messages: panic, fatal, error, warn, info, debug."
    ),
    click.option("--context", default="", help="The Kubernetes context to use."),
    click.option("--allow-version-mismatch", is_flag=True, help="Work with a cluster of another Calico version."),
    click.option(
        "-c", "--config", type=FILE, default="", help="A CalicoAPIConfig file (default /etc/calico/calicoctl.cfg)."
    ),
)
namespace_option = click.option("-n", "--namespace", default="", help="Namespace of namespaced resources.")
recursive_option = click.option("-R", "--recursive", is_flag=True, help="Look into sub-folders of a folder too.")
skip_empty_option = click.option(
    "--skip-empty", is_flag=True, help="A file or folder without resources is not an error."
)
input_options = together(
    click.option("-f", "--filename", type=FILE, required=True, help=FILE_HELP), recursive_option, skip_empty_option
)


def duration(flag: str, text: str) -> float:
    """Seconds of a duration such as ``10s``; 0 for none.  Raises ``InputError``."""
    if not text:
        return 0.0
    from calico_node.resources.scalars import duration_seconds

    try:
        seconds = duration_seconds(text)
    except ValueError:
        seconds = -1.0
    if seconds < 0:
        raise InputError(f"{flag} = {text!r}: must be a duration, such as 10s")
    return seconds


def run(context: click.Context, function: str, options: dict[str, Any]) -> None:
    """Call ``module:function`` of this package with the options; only now is it imported.

    The function returns the exit status.  Options given before the command's name count too.
    """
    import logging

    outer = context.find_root().obj or {}
    for key, default in (("log_level", "panic"), ("context", ""), ("allow_version_mismatch", False)):
        if options[key] == default:
            options[key] = outer.get(key, default)
    level = {"warn": "WARNING", "warning": "WARNING"}.get(options["log_level"].lower(), options["log_level"].upper())
    if level in ("ERROR", "WARNING", "INFO", "DEBUG"):
        logging.basicConfig(level=level)
    elif level not in ("PANIC", "FATAL", "TRACE"):
        raise CalicoError(
            f"unknown log level: {options['log_level']}, expected one of: panic, fatal, error, warn, info, debug"
        )
    module, _, name = function.partition(":")
    status = getattr(import_module(f"calico_node.calicoctl.{module}"), name)(options)
    if status:
        context.exit(status)
