"""The command line of ``calicoctl cluster``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import global_options, run


@click.group(name="cluster")
def group() -> None:
    """Look at the whole cluster."""


@group.command()
@global_options
@click.pass_context
def diags(ctx: click.Context, /, **options: Any) -> None:
    """Collect the datastore's contents and the checks of them, without secrets, in one file.

    What single hosts look like is in their own 'calicoctl node diags'.
    """
    run(ctx, "cluster.diags:diags", options)
