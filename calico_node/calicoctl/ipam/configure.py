"""``calicoctl ipam configure``."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from calico_node.calicoctl.connect import complete, connect
from calico_node.calicoctl.errors import InputError
from calico_node.errors import UpdateConflict
from calico_node.ipam.claims import LOST_RACE
from calico_node.ipam.documents import ConfigKey, IPAMConfig
from calico_node.ipam.store import KVStore, Stored

TRIES = 10
_TRUE, _FALSE = ("1", "t", "T", "TRUE", "true", "True"), ("0", "f", "F", "FALSE", "false", "False")


def configure(options: dict[str, Any]) -> int:
    """Change what is given and leave the rest as it is stored."""
    changes = _changes(options)
    if not changes:
        raise InputError(
            "give at least one of --strictaffinity, --max-blocks-per-host, --kubevirt-ip-persistence and "
            "--ip-cooldown-seconds"
        )

    async def write() -> None:
        async with connect(options, writing=True) as client:
            store = KVStore(client)
            for _ in range(TRIES):
                stored: Stored[IPAMConfig] | None = await store.get(ConfigKey())
                config = evolve(stored.value if stored else IPAMConfig(), **changes)
                config.validate()
                try:
                    if stored is None:
                        await store.create(ConfigKey(), config)
                    else:
                        await store.update(stored, config)
                    return
                except LOST_RACE:
                    continue
            raise UpdateConflict("IPAMConfig(default)")

    complete(write())
    for attribute, title in _TITLES.items():
        if attribute in changes:
            value = changes[attribute]
            print(f"Successfully set {title} to: {str(value).lower() if isinstance(value, bool) else value}")
    return 0


_TITLES = {
    "strict_affinity": "StrictAffinity",
    "max_blocks_per_host": "MaxBlocksPerHost",
    "kubevirt_persistence": "KubeVirtVMAddressPersistence",
    "cooldown_seconds": "IPCooldownSeconds",
}


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    strict = options["strictaffinity"]
    if strict:
        if strict not in _TRUE + _FALSE:
            raise InputError(f"--strictaffinity = {strict!r}: must be true or false")
        changes["strict_affinity"] = strict in _TRUE
    persistence = options["kubevirt_ip_persistence"]
    if persistence:
        if persistence not in ("Enabled", "Disabled"):
            raise InputError(f"--kubevirt-ip-persistence = {persistence!r}: must be Enabled or Disabled")
        changes["kubevirt_persistence"] = persistence
    if options["max_blocks_per_host"]:
        changes["max_blocks_per_host"] = _number(options, "max_blocks_per_host", 2**31 - 1)
    if options["ip_cooldown_seconds"]:
        changes["cooldown_seconds"] = _number(options, "ip_cooldown_seconds", 1200)
    return changes


def _number(options: dict[str, Any], name: str, most: int) -> int:
    text = options[name]
    if not (text.isascii() and text.isdigit()) or int(text) > most:
        raise InputError(f"--{name.replace('_', '-')} = {text!r}: must be a number from 0 to {most}")
    return int(text)
