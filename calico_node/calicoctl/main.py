"""The command line: what may be said.  What is done is imported by the command that does it.

Every error is one text on standard error and exit status 1, as scripts written for Calico's calicoctl expect.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from calico_node.errors import CalicoError

F = TypeVar("F", bound=Callable[..., Any])

FILE_HELP = "A file, a folder of .yaml, .yml and .json files, or - for standard input."


def _options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_global_options = _options(
    click.option(
        "-l", "--log-level", default="panic", help="Level of log messages: panic, fatal, error, warn, info, debug."
    ),
    click.option("--context", default="", help="The Kubernetes context to use."),
    click.option("--allow-version-mismatch", is_flag=True, help="Work with a cluster of another Calico version."),
    click.option("-c", "--config", default="", help="A CalicoAPIConfig file (default /etc/calico/calicoctl.cfg)."),
)
_namespace_option = click.option("-n", "--namespace", default="", help="Namespace of namespaced resources.")
_recursive_option = click.option("-R", "--recursive", is_flag=True, help="Look into sub-folders of a folder too.")
_skip_empty_option = click.option(
    "--skip-empty", is_flag=True, help="A file or folder without resources is not an error."
)
_input_options = _options(
    click.option("-f", "--filename", required=True, help=FILE_HELP), _recursive_option, _skip_empty_option
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@_options(
    click.option("-l", "--log-level", default="panic", hidden=True),
    click.option("--context", default="", hidden=True),
    click.option("--allow-version-mismatch", is_flag=True, hidden=True),
)
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Create, read, change and delete Calico's resources.

    The datastore is chosen by the environment: DATASTORE_TYPE with CALICO_DATASTORE_PATH or ETCD_ENDPOINTS.
    """
    ctx.obj = options


def _run(context: click.Context, name: str, options: dict[str, Any]) -> None:
    import logging

    from calico_node.calicoctl import commands

    outer = context.obj or {}
    for key, default in (("log_level", "panic"), ("context", ""), ("allow_version_mismatch", False)):
        if options[key] == default:
            options[key] = outer.get(key, default)
    level = {"warn": "WARNING", "warning": "WARNING"}.get(options["log_level"].lower(), options["log_level"].upper())
    if level in ("ERROR", "WARNING", "INFO", "DEBUG"):
        logging.basicConfig(level=level)
    status = getattr(commands, name)(options)
    if status:
        context.exit(status)


@cli.command()
@_input_options
@click.option("--skip-exists", is_flag=True, help="A resource that exists already is left as it is.")
@_namespace_option
@_global_options
@click.pass_context
def create(ctx: click.Context, /, **options: Any) -> None:
    """Create resources that do not exist yet."""
    _run(ctx, "create", options)


@cli.command()
@_input_options
@_namespace_option
@_global_options
@click.pass_context
def apply(ctx: click.Context, /, **options: Any) -> None:
    """Create resources, or replace those that exist."""
    _run(ctx, "apply", options)


@cli.command()
@_input_options
@_namespace_option
@_global_options
@click.pass_context
def replace(ctx: click.Context, /, **options: Any) -> None:
    """Replace resources that exist."""
    _run(ctx, "replace", options)


@cli.command()
@_input_options
@_namespace_option
@_global_options
@click.pass_context
def validate(ctx: click.Context, /, **options: Any) -> None:
    """Check files without a datastore."""
    _run(ctx, "validate", options)


@cli.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@click.option("-f", "--filename", default="", help=FILE_HELP)
@_recursive_option
@_skip_empty_option
@click.option("-s", "--skip-not-exists", is_flag=True, help="A resource that does not exist is not an error.")
@_namespace_option
@_global_options
@click.pass_context
def delete(ctx: click.Context, /, **options: Any) -> None:
    """Delete resources, by file or by KIND and NAME."""
    _run(ctx, "delete", options)


@cli.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@click.option("-f", "--filename", default="", help=FILE_HELP)
@_recursive_option
@_skip_empty_option
@click.option("-o", "--output", default="ps", help="ps, wide, yaml, json, name or custom-columns=HEADING,…")
@click.option("-A", "-a", "--all-namespaces", is_flag=True, help="Resources of every namespace.")
@click.option("--export", is_flag=True, help="Leave out what belongs to this cluster (with a NAME only).")
@_namespace_option
@_global_options
@click.pass_context
def get(ctx: click.Context, /, **options: Any) -> None:
    """Show resources, by file or by KIND and perhaps NAME."""
    _run(ctx, "get", options)


@cli.command()
@click.argument("kind")
@click.argument("name")
@click.option("-p", "--patch", required=True, help="What to merge into the resource, as JSON or YAML.")
@click.option("-t", "--type", "patch_type", default="strategic", help="Accepted; a patch is always merged.")
@_namespace_option
@_global_options
@click.pass_context
def patch(ctx: click.Context, /, **options: Any) -> None:
    """Change a part of a resource: null removes a field, lists are replaced."""
    _run(ctx, "patch", options)


@cli.command()
@click.argument("kind")
@click.argument("name")
@click.argument("label")
@click.option("--overwrite", is_flag=True, help="Change the value of a label that is there.")
@click.option("--remove", is_flag=True, help="Remove the label.")
@_namespace_option
@_global_options
@click.pass_context
def label(ctx: click.Context, /, **options: Any) -> None:
    """Set KEY=VALUE as a label of a resource, or remove KEY."""
    _run(ctx, "label", options)


@cli.command()
@click.option("--client", "client_only", is_flag=True, help="Do not ask the cluster.")
@_global_options
@click.pass_context
def version(ctx: click.Context, /, **options: Any) -> None:
    """Show the versions of this tool and of the cluster."""
    _run(ctx, "version", options)


def main(arguments: list[str] | None = None) -> None:
    """The console script.  Exits with status 0, or 1 and a text on standard error."""
    try:
        status = cli.main(args=arguments, prog_name="calicoctl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        _fail(error.format_message())
    except CalicoError as error:
        _fail(str(error))
    except BrokenPipeError:
        # The reader went away ("calicoctl get … | head"): nothing more to say, and nothing to flush at exit.
        sys.stdout = None
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except OSError as error:
        _fail(f"failed to execute command: {error}")
    except Exception as error:
        if "debug" in (sys.argv if arguments is None else arguments):
            raise
        _fail(f"unexpected failure ({type(error).__name__}: {error}); -l debug shows where")
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
