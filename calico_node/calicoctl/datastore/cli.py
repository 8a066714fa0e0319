"""The command line of ``calicoctl datastore``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import global_options, run


@click.group(name="datastore")
def group() -> None:
    """Lock, export and import the datastore."""


@group.group()
def migrate() -> None:
    """Move to another datastore: lock, export, import there, unlock."""


@migrate.command()
@global_options
@click.pass_context
def lock(ctx: click.Context, /, **options: Any) -> None:
    """Tell the whole cluster to leave the datastore alone (it goes on forwarding and enforcing)."""
    run(ctx, "datastore.lock:lock", options)


@migrate.command()
@global_options
@click.pass_context
def unlock(ctx: click.Context, /, **options: Any) -> None:
    """Let the cluster use the datastore again."""
    run(ctx, "datastore.lock:unlock", options)
