"""The command line of ``calicoctl node``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import FILE, global_options, run


@click.group(name="node")
def group() -> None:
    """Look at the node on this host, check the host, or run the node."""


@group.command()
@global_options
@click.pass_context
def status(ctx: click.Context, /, **options: Any) -> None:
    """Show the BGP sessions of the node on this host."""
    run(ctx, "node.status:status", options)


@group.command()
@click.option("-f", "--kernel-config", type=FILE, default="", help="The kernel's build configuration.")
@global_options
@click.pass_context
def checksystem(ctx: click.Context, /, **options: Any) -> None:
    """Check that the kernel has what a node needs."""
    run(ctx, "node.checksystem:checksystem", options)


@group.command()
@click.option(
    "--log-dir", type=FILE, default="/var/log/calico", show_default=True, help="A folder with logs to take along."
)
@global_options
@click.pass_context
def diags(ctx: click.Context, /, **options: Any) -> None:
    """Collect what helps to find a fault of this node, without secrets, in one file."""
    run(ctx, "node.diags:diags", options)


@group.command(name="run")
@click.option("--name", default="", help="The node's name (default: the host's).")
@click.option("--ip", default="", help="The node's IPv4 address, with or without length, or autodetect.")
@click.option("--ip6", default="", help="The node's IPv6 address, with or without length, or autodetect.")
@click.option("--as", "as_number", default="", help="The node's AS number (default: the cluster's).")
@click.option("--ip-autodetection-method", default="", help="first-found, can-reach=…, interface=…, …")
@click.option("--ip6-autodetection-method", default="", help="first-found, can-reach=…, interface=…, …")
@click.option("--backend", default="bird", help="bird: with BGP; none: without.")
@click.option("--no-default-ippools", is_flag=True, help="Make no pool in a cluster without one.")
@click.option("--felix-config", default="", help="A Felix configuration file, [global] with 'Name = value' lines.")
@click.option(
    "--log-dir", type=FILE, default="", help="Append the log to calico-node.log in this folder, not to the terminal."
)
@click.option("--node-image", default="", help="Accepted; no container is started.")
@click.option("--init-system", is_flag=True, help="Accepted; the node always stays in the foreground.")
@click.option("--dryrun", is_flag=True, help="Print the command and do nothing.")
@global_options
@click.pass_context
def run_(ctx: click.Context, /, **options: Any) -> None:
    """Become calico-node with these settings, in the foreground."""
    run(ctx, "node.launch:launch", options)
