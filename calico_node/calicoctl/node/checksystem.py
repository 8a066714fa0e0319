"""``calicoctl node checksystem``: whether the kernel has what a node needs.

The list is that of the nftables dataplane and of the encapsulations; Calico's own (``ip_tables``, ``xt_set``, …) is
that of its iptables dataplane.  A feature is there when its module is loaded, can be loaded, or is built in.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import define, frozen

from calico_node.errors import CalicoError

OLDEST_KERNEL = (5, 10)
"""The oldest long-term kernel that is still maintained."""


@frozen
class Need:
    """A module and its configuration option; ``use`` says what is missing without an optional one."""

    module: str
    option: str
    use: str = ""


NEEDS = (
    Need("nf_tables", "CONFIG_NF_TABLES"),
    Need("nf_conntrack", "CONFIG_NF_CONNTRACK"),
    Need("nf_conntrack_netlink", "CONFIG_NF_CT_NETLINK"),
    Need("nf_nat", "CONFIG_NF_NAT"),
    Need("nft_ct", "CONFIG_NFT_CT"),
    Need("nft_masq", "CONFIG_NFT_MASQ"),
    Need("nft_nat", "CONFIG_NFT_NAT"),
    Need("nft_fib", "CONFIG_NFT_FIB"),
    Need("nft_reject", "CONFIG_NFT_REJECT"),
    Need("nft_limit", "CONFIG_NFT_LIMIT"),
    Need("nft_log", "CONFIG_NFT_LOG", "Log rules"),
    Need("nfnetlink_log", "CONFIG_NETFILTER_NETLINK_LOG", "Log rules"),
    Need("nft_connlimit", "CONFIG_NFT_CONNLIMIT", "connection limits of pods"),
    Need("veth", "CONFIG_VETH"),
    Need("vxlan", "CONFIG_VXLAN", "pools with vxlanMode"),
    Need("ipip", "CONFIG_NET_IPIP", "pools with ipipMode"),
    Need("wireguard", "CONFIG_WIREGUARD", "encryption"),
)


@define
class Kernel:
    """What can be found out about a kernel; names of modules with ``_`` for ``-``."""

    release: str
    modules: set[str]
    options: dict[str, str]

    @classmethod
    def of_host(cls, root: Path, release: str, config: str = "") -> Kernel:
        """From the files below ``root``; ``config`` names the build configuration.  Raises ``CalicoError`` when that
        cannot be read."""
        folder = root / "lib/modules" / release
        modules = {path.name for path in _listed(root / "sys/module")}
        for name in ("modules.dep", "modules.builtin"):
            for line in _text(folder / name).splitlines():
                modules.add(re.sub(r"\.ko(\.\w+)?$", "", line.partition(":")[0].strip().rpartition("/")[2]))
        return cls(release, {name.replace("-", "_") for name in modules}, _options(root, release, config))

    def has(self, need: Need) -> bool:
        return need.module in self.modules or self.options.get(need.option) in ("y", "m")

    @property
    def new_enough(self) -> bool:
        numbers = re.match(r"(\d+)\.(\d+)", self.release)
        return numbers is not None and (int(numbers[1]), int(numbers[2])) >= OLDEST_KERNEL


def _listed(folder: Path) -> Iterable[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return ()


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _options(root: Path, release: str, config: str) -> dict[str, str]:
    if config:
        try:
            text = _decompressed(Path(config))
        except (OSError, EOFError) as error:
            raise CalicoError(f"cannot read {config}: {error}") from None
        return _parse(text)
    for place in (
        "proc/config.gz",
        "usr/src/linux/.config",
        f"boot/config-{release}",
        f"usr/src/linux-{release}/.config",
        f"usr/src/linux-headers-{release}/.config",
        f"lib/modules/{release}/build/.config",
    ):
        try:
            return _parse(_decompressed(root / place))
        except (OSError, EOFError):
            continue
    return {}


def _decompressed(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode(errors="replace")


def _parse(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(CONFIG_\w+)=(.*)$", text, re.MULTILINE))


def checksystem(options: dict[str, Any]) -> int:
    """Print each result; raises ``CalicoError`` when something needed is missing."""
    kernel = Kernel.of_host(Path("/"), os.uname().release, options["kernel_config"])
    good = True
    print("Checking kernel version...")
    _print(kernel.release, "OK" if kernel.new_enough else "FAIL")
    if not kernel.new_enough:
        print(f"The oldest kernel that will do is {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]}")
        good = False
    print("Checking kernel modules...")
    for need in NEEDS:
        if kernel.has(need):
            _print(need.module, "OK")
        elif need.use:
            print(f"WARNING: no {need.module}: {need.use} will not work")
            _print(need.module, "SKIP")
        else:
            print(f"WARNING: {need.module} is neither loaded nor built in, and not among the modules to load")
            _print(need.module, "FAIL")
            good = False
    if not good:
        raise CalicoError("system doesn't meet one or more minimum systems requirements to run Calico")
    print("System meets minimum system requirements to run Calico!")
    return 0


def _print(name: str, result: str) -> None:
    print(f"\t\t{name:20}\t\t\t\t\t{result}")
