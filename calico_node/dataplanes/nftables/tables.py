"""What one family's table should hold, and which of it may differ from what is in force."""

from __future__ import annotations

from attrs import define, field

from calico_node.dataplanes.contract import ObjectID
from calico_node.dataplanes.nftables import expressions as e
from calico_node.dataplanes.nftables import layout as names
from calico_node.dataplanes.nftables.layout import Chain, Family
from calico_node.dataplanes.nftables.members import SetShape

MAPS = (names.FROM_WORKLOAD_DISPATCH, names.TO_WORKLOAD_DISPATCH)


@define
class DesiredSet:
    """``changed`` holds keys added (True) or removed (False) since the last time it was in force; while ``fresh`` it
    has not been in force yet, and what the kernel holds under its name is another's."""

    shape: SetShape
    owner: ObjectID | None
    keys: set[bytes] = field(factory=set)
    changed: dict[bytes, bool] = field(factory=dict)
    fresh: bool = True

    def add(self, key: bytes) -> None:
        if key not in self.keys:
            self.keys.add(key)
            self.changed[key] = True

    def remove(self, key: bytes) -> None:
        if key in self.keys:
            self.keys.discard(key)
            self.changed[key] = False

    def replace(self, keys: set[bytes]) -> None:
        self.changed.update(dict.fromkeys(self.keys - keys, False))
        self.changed.update(dict.fromkeys(keys - self.keys, True))
        self.keys = set(keys)


@define
class DesiredTable:
    """One family's table; the ``changed_*`` names are what may differ from what is in force."""

    family: Family
    chains: dict[str, Chain] = field(factory=dict)
    owners: dict[str, ObjectID] = field(factory=dict)
    sets: dict[str, DesiredSet] = field(factory=dict)
    maps: dict[str, dict[bytes, e.Verdict]] = field(factory=lambda: {name: {} for name in MAPS})
    changed_chains: set[str] = field(factory=set)
    changed_sets: set[str] = field(factory=set)
    changed_elements: set[tuple[str, bytes]] = field(factory=set)

    def put_chain(self, chain: Chain, owner: ObjectID | None = None) -> None:
        self.chains[chain.name] = chain
        if owner is not None:
            self.owners[chain.name] = owner
        self.changed_chains.add(chain.name)

    def drop_chain(self, name: str) -> None:
        if self.chains.pop(name, None) is not None:
            self.owners.pop(name, None)
            self.changed_chains.add(name)

    def put_element(self, map_name: str, key: bytes, verdict: e.Verdict | None) -> None:
        if self.maps[map_name].get(key) == verdict:
            return
        if verdict is None:
            del self.maps[map_name][key]
        else:
            self.maps[map_name][key] = verdict
        self.changed_elements.add((map_name, key))

    def change_everything(self) -> None:
        """Compare all of it with what is in force at the next commit."""
        self.changed_chains.update(self.chains)
        self.changed_sets.update(self.sets)
        self.changed_elements.update((name, key) for name, content in self.maps.items() for key in content)

    def settled(self) -> None:
        """All of it is in force."""
        for name in self.changed_sets:
            if name in self.sets:
                self.sets[name].changed.clear()
                self.sets[name].fresh = False
        self.changed_chains.clear()
        self.changed_sets.clear()
        self.changed_elements.clear()
