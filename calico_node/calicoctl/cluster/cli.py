"""The command line of ``calicoctl cluster``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import global_options, run, together


@click.group(name="cluster")
def group() -> None:
    """Look at the whole cluster."""


@group.command()
@together(
    click.option("--since", default="", help="Accepted: of hosts' logs, those newer than this (10s, 2m, 3h)."),
    click.option("--max-logs", default="", help="Accepted: of hosts' logs, this many per component."),
    click.option("--max-parallelism", default="", help="Accepted: of hosts' logs, this many at a time."),
    click.option("--focus-nodes", default="", help="Accepted: of hosts' logs, those of these nodes first."),
    click.option("--skip-temp-dir-cleanup", is_flag=True, help="Leave the files beside the archive."),
)
@global_options
@click.pass_context
def diags(ctx: click.Context, /, **options: Any) -> None:
    """Collect the datastore's contents and the checks of them, without secrets, in one file.

    What single hosts look like, logs included, is in their own 'calicoctl node diags'.
    """
    run(ctx, "cluster.diags:diags", options)
