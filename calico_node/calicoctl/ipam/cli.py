"""The command line of ``calicoctl ipam``."""

from __future__ import annotations

from typing import Any

import click

from calico_node.calicoctl.options import FILE, global_options, run


@click.group(name="ipam")
def group() -> None:
    """Show, check and repair what IPAM has assigned."""


@group.command()
@click.option("--ip", default="", help="Who holds this address.")
@click.option("--show-blocks", is_flag=True, help="Every block of every pool.")
@click.option("--show-borrowed", is_flag=True, help="Addresses that a node took from a block of another.")
@click.option("--show-configuration", is_flag=True, help="The settings of 'ipam configure'.")
@global_options
@click.pass_context
def show(ctx: click.Context, /, **options: Any) -> None:
    """Show how full the pools are, or one of the other views."""
    run(ctx, "ipam.show:show", options)


@group.command()
@click.option("--ip", default="", help="Release this address.")
@click.option(
    "--from-report",
    type=FILE,
    multiple=True,
    help="A report of 'ipam check -o'; may be given several times: what leaks in all of them is released.",
)
@click.option(
    "--force", is_flag=True, help="Even when the datastore is not locked or the report is another version's."
)
@global_options
@click.pass_context
def release(ctx: click.Context, /, **options: Any) -> None:
    """Release an address, or all that a report found to leak.

    Whoever uses the address is not told: this is for what was not cleaned up.
    """
    run(ctx, "ipam.release:release", options)


@group.command()
@click.option("--strictaffinity", default="", help="true: nodes take addresses from their own blocks alone.")
@click.option("--max-blocks-per-host", default="", help="The most blocks a node may own (needs strict affinity).")
@click.option("--kubevirt-ip-persistence", default="", help="Enabled or Disabled: virtual machines keep addresses.")
@click.option("--ip-cooldown-seconds", default="", help="How long a released address is kept back, 0 to 1200.")
@global_options
@click.pass_context
def configure(ctx: click.Context, /, **options: Any) -> None:
    """Change the settings of IPAM."""
    run(ctx, "ipam.configure:configure", options)


@group.command()
@click.option("--show-all-ips", is_flag=True, help="Every address looked at.")
@click.option("--show-problem-ips", is_flag=True, help="Every address at fault.")
@click.option("-o", "--output", type=FILE, default="", help="Write a report here, for 'ipam release --from-report'.")
@click.option("--kubeconfig", default="", hidden=True)
@global_options
@click.pass_context
def check(ctx: click.Context, /, **options: Any) -> None:
    """Compare what IPAM has assigned with what is in use."""
    run(ctx, "ipam.check:check", options)


@group.command()
@click.argument("number")
@click.option("--cidr", default="", help="The pool's CIDR.")
@click.option("--name", default="", help="The pool's name.")
@global_options
@click.pass_context
def split(ctx: click.Context, /, **options: Any) -> None:
    """Split a pool into NUMBER (a power of two) equal pools; addresses in use stay."""
    run(ctx, "ipam.split:split", options)
