"""The command line of ``calicoctl datastore``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import FILE, global_options, run


@click.group(name="datastore")
def group() -> None:
    """Lock, export and import the datastore; back it up and restore it."""


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


@migrate.command()
@click.option("--all", "everything", is_flag=True, help="A backup: workload endpoints, profiles and identities too.")
@global_options
@click.pass_context
def export(ctx: click.Context, /, **options: Any) -> None:
    """Write the locked datastore's contents to standard output, for 'import'.

    Without --all that is what a Kubernetes cluster does not know itself, and nodes get their names in Kubernetes.
    """
    run(ctx, "datastore.export:export", options)


@migrate.command(name="import")
@click.option("-f", "--filename", type=FILE, required=True, help="What 'export' wrote; - for standard input.")
@global_options
@click.pass_context
def import_(ctx: click.Context, /, **options: Any) -> None:
    """Write what 'export' gave into an empty datastore, which stays locked."""
    run(ctx, "datastore.restore:import_", options)


@group.command()
@click.argument("file", type=click.Path())
@click.option("--force", is_flag=True, help="Replace FILE where it exists.")
@global_options
@click.pass_context
def backup(ctx: click.Context, /, **options: Any) -> None:
    """Copy the embedded datastore to FILE, while nodes go on writing.

    FILE appears whole and checked, or not at all, and only its owner can read it.
    """
    run(ctx, "datastore.backup:backup", options)


@group.command()
@click.argument("file", type=click.Path())
@click.option("--force", is_flag=True, help="Replace a datastore that is there; it is kept beside the new one.")
@global_options
@click.pass_context
def restore(ctx: click.Context, /, **options: Any) -> None:
    """Put FILE, a backup, in the embedded datastore's place; nodes that are running go on with it.

    The datastore may be gone or damaged. Keys on a lease, such as a node's status, stay where it is still renewed.
    """
    run(ctx, "datastore.backup:restore", options)


@group.command()
@global_options
@click.pass_context
def migrate_policy_names(ctx: click.Context, /, **options: Any) -> None:
    """Drop the "default." from the keys of policies that Calico before v3.32 wrote."""
    run(ctx, "datastore.policy_names:migrate_policy_names", options)
