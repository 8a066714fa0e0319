"""``calico-node``: run the node, try a lab, ask for health."""

from __future__ import annotations

import sys

import click

from calico_node.errors import CalicoError


class _LazyGroup(click.Group):
    """Imports the lab only when it is called for: the other commands start without it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "lab"])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name == "lab":
            from calico_node.lab.cli import lab

            return lab
        return super().get_command(ctx, name)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
def calico_node() -> None:
    """Project Calico's networking and network policy in one process."""


@calico_node.command()
def run() -> None:
    """Run the node's components until SIGTERM; settings come from the environment."""
    import anyio

    from calico_node import agent
    from calico_node.logs import configure
    from calico_node.settings import Settings

    settings = Settings.load()
    configure(settings.log_level)
    try:
        anyio.run(agent.run, settings)
    except ExceptionGroup as group:
        expected, rest = group.split(CalicoError)
        if rest is not None or expected is None:
            raise
        raise agent.innermost(expected) from None


@calico_node.command()
@click.option("--felix-live", is_flag=True, help="Ask the health listener for liveness.")
@click.option("--felix-ready", is_flag=True, help="Ask the health listener for readiness.")
@click.option("--bird-live", is_flag=True, help="Accepted for compatibility: the same listener answers.")
@click.option("--bird-ready", is_flag=True, help="Accepted for compatibility: the same listener answers.")
def health(felix_live: bool, felix_ready: bool, bird_live: bool, bird_ready: bool) -> None:
    """Exit 0 when the node on this host is live or ready, 1 with its table otherwise."""
    import urllib.error
    import urllib.request

    from calico_node.settings import Settings

    wanted = ["liveness"] if felix_live or bird_live else []
    if felix_ready or bird_ready:
        wanted.append("readiness")
    if not wanted:
        raise click.UsageError("name at least one of --felix-live, --felix-ready, --bird-live, --bird-ready")
    settings = Settings.load()
    for path in wanted:
        url = f"http://{settings.health_host}:{settings.health_port}/{path}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            click.echo(f"{path} failed:\n{error.read().decode()}", err=True)
            sys.exit(1)
        except OSError as error:
            click.echo(f"calico-node does not answer at {url}: {error}", err=True)
            sys.exit(1)


@calico_node.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as package_version

    click.echo(package_version("calico-node"))


def main() -> None:
    """The console script: an expected error is one line on standard error and exit code 1; Ctrl-C is 130."""
    try:
        code = calico_node(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except CalicoError as error:
        click.echo(f"calico-node: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
