"""The command line: what may be said.  What is done is imported by the command that does it.

Every error is one text on standard error and exit status 1, as scripts written for Calico's calicoctl expect.
"""

from __future__ import annotations

import atexit
import gc
import sys
from importlib import import_module
from typing import Any

import click

from calico_node.calicoctl.options import (
    FILE,
    FILE_HELP,
    global_options,
    input_options,
    namespace_option,
    recursive_option,
    run,
    skip_empty_option,
    together,
)
from calico_node.errors import CalicoError

OUTPUT_HELP = "ps, wide, yaml, json, name, custom-columns=HEADING,…, go-template=TEMPLATE or go-template-file=FILE"

GROUPS = ("cluster", "datastore", "ipam", "node")
"""Commands with commands of their own: ``calico_node.calicoctl.<name>.cli``, imported when asked for."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *GROUPS])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in GROUPS:
            group: click.Command = import_module(f"calico_node.calicoctl.{name}.cli").group
            return group
        return super().get_command(ctx, name)


def _complete_kind(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from calico_node.resources.kinds import KINDS

    names = (info.kind.lower() for info in KINDS.values() if info.names)
    return [name for name in names if name.startswith(incomplete.lower())]


def _complete_output(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from calico_node.calicoctl.output import FORMATS

    return [name for name in (text.partition("<")[0] for text in FORMATS) if name.startswith(incomplete)]


def _complete_name(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from calico_node.calicoctl.completion import resource_names

    return resource_names(context.params, incomplete)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@together(
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


@cli.command()
@input_options
@click.option("--skip-exists", is_flag=True, help="A resource that exists already is left as it is.")
@namespace_option
@global_options
@click.pass_context
def create(ctx: click.Context, /, **options: Any) -> None:
    """Create resources that do not exist yet."""
    run(ctx, "commands:create", options)


@cli.command()
@input_options
@namespace_option
@global_options
@click.pass_context
def apply(ctx: click.Context, /, **options: Any) -> None:
    """Create resources, or replace those that exist."""
    run(ctx, "commands:apply", options)


@cli.command()
@input_options
@namespace_option
@global_options
@click.pass_context
def replace(ctx: click.Context, /, **options: Any) -> None:
    """Replace resources that exist."""
    run(ctx, "commands:replace", options)


@cli.command()
@input_options
@namespace_option
@global_options
@click.pass_context
def validate(ctx: click.Context, /, **options: Any) -> None:
    """Check files without a datastore."""
    run(ctx, "commands:validate", options)


@cli.command()
@input_options
@click.option(
    "-o",
    "--output",
    default="yaml",
    help="yaml or json",
    shell_complete=lambda _context, _parameter, start: [name for name in ("yaml", "json") if name.startswith(start)],
)
@click.option("--ignore-validation", is_flag=True, help="Print what was converted even where v3 would refuse it.")
@global_options
@click.pass_context
def convert(ctx: click.Context, /, **options: Any) -> None:
    """Print manifests of Calico's v1 API, or Kubernetes NetworkPolicies, as v3 resources."""
    run(ctx, "convert.command:convert", options)


@cli.command()
@click.argument("kind", required=False, shell_complete=_complete_kind)
@click.argument("names", nargs=-1, shell_complete=_complete_name)
@click.option("-f", "--filename", type=FILE, default="", help=FILE_HELP)
@recursive_option
@skip_empty_option
@click.option("-s", "--skip-not-exists", is_flag=True, help="A resource that does not exist is not an error.")
@namespace_option
@global_options
@click.pass_context
def delete(ctx: click.Context, /, **options: Any) -> None:
    """Delete resources, by file or by KIND and NAME."""
    run(ctx, "commands:delete", options)


@cli.command()
@click.argument("kind", required=False, shell_complete=_complete_kind)
@click.argument("names", nargs=-1, shell_complete=_complete_name)
@click.option("-f", "--filename", type=FILE, default="", help=FILE_HELP)
@recursive_option
@skip_empty_option
@click.option("-o", "--output", default="ps", help=OUTPUT_HELP, shell_complete=_complete_output)
@click.option("-A", "-a", "--all-namespaces", is_flag=True, help="Resources of every namespace.")
@click.option("--export", is_flag=True, help="Leave out what belongs to this cluster (with a NAME only).")
@namespace_option
@global_options
@click.pass_context
def get(ctx: click.Context, /, **options: Any) -> None:
    """Show resources, by file or by KIND and perhaps NAME."""
    run(ctx, "commands:get", options)


@cli.command()
@click.argument("kind", shell_complete=_complete_kind)
@click.argument("name", shell_complete=_complete_name)
@click.option("-p", "--patch", required=True, help="What to merge into the resource, as JSON or YAML.")
@click.option("-t", "--type", "patch_type", default="strategic", help="Accepted; a patch is always merged.")
@namespace_option
@global_options
@click.pass_context
def patch(ctx: click.Context, /, **options: Any) -> None:
    """Change a part of a resource: null removes a field, lists are replaced."""
    run(ctx, "commands:patch", options)


@cli.command()
@click.argument("kind", shell_complete=_complete_kind)
@click.argument("name", shell_complete=_complete_name)
@click.argument("label")
@click.option("--overwrite", is_flag=True, help="Change the value of a label that is there.")
@click.option("--remove", is_flag=True, help="Remove the label.")
@namespace_option
@global_options
@click.pass_context
def label(ctx: click.Context, /, **options: Any) -> None:
    """Set KEY=VALUE as a label of a resource, or remove KEY."""
    run(ctx, "commands:label", options)


@cli.command()
@click.option("--client", "client_only", is_flag=True, help="Do not ask the cluster.")
@click.option("--poll", default="", help="Look again every so often (10s, 1m) and print what has changed.")
@global_options
@click.pass_context
def version(ctx: click.Context, /, **options: Any) -> None:
    """Show the versions of this tool and of the cluster."""
    run(ctx, "version:version", options)


@cli.command()
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
def completion(shell: str) -> None:
    """Print what makes a shell complete calicoctl's words.

    For bash: put  eval "$(calicoctl completion bash)"  into ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "calicoctl", "_CALICOCTL_COMPLETE").source())


def main(arguments: list[str] | None = None) -> None:
    """Carry out a command line, the process's own by default.  Exits with status 0, or 1 and a text on stderr."""
    # Two full collections at the interpreter's end take a tenth of a command's time, and what they free ends anyway.
    atexit.register(gc.freeze)
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
        where = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        _fail(f"failed to execute command: {where}")
    except Exception as error:
        if "debug" in (sys.argv if arguments is None else arguments):
            raise
        _fail(f"unexpected failure ({type(error).__name__}: {error}); -l debug shows where")
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(text: str) -> None:
    print(text, file=sys.stderr)
    sys.exit(1)
