"""Finding plugins: the entry points of the group ``calico_node``.

Names are ``component.X``, ``dataplane.X``, ``datastore.X`` and ``hooks.X``.  A name that two packages offer is
refused unless the setting says ``package:name``.  Only what is asked for is imported.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from attrs import frozen

from calico_node.errors import PluginError

GROUP = "calico_node"


@frozen
class Offer:
    """One plugin that a package offers, not imported yet."""

    role: str
    name: str
    package: str
    entry_point: EntryPoint

    def load(self) -> Any:
        """Import it.  Raises ``PluginError`` with the plugin's name, its package and the cause."""
        try:
            return self.entry_point.load()
        except Exception as error:
            raise PluginError(
                f"plugin {self.role}.{self.name} of package {self.package} could not be loaded: "
                f"{type(error).__name__}: {error}"
            ) from error


def offers(role: str) -> list[Offer]:
    """All plugins of ``role`` (component, dataplane, datastore or hooks), by name then package."""
    found = {}
    for entry in entry_points(group=GROUP):
        kind, _, name = entry.name.partition(".")
        if kind == role and name:
            package = entry.dist.name if entry.dist is not None else "?"
            found[name, package] = Offer(role, name, package, entry)
    return [found[key] for key in sorted(found)]


def find(role: str, wanted: str) -> Offer:
    """The plugin named ``wanted`` (``name`` or ``package:name``).  Raises ``PluginError`` naming what there is."""
    package, _, name = wanted.rpartition(":")
    present = offers(role)
    matching = [offer for offer in present if offer.name == name and package in ("", offer.package)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        names = ", ".join(sorted({offer.name for offer in present})) or "none"
        raise PluginError(f"no {role} plugin is named {wanted!r}; installed: {names}")
    packages = ", ".join(f"{offer.package}:{offer.name}" for offer in matching)
    raise PluginError(f"{role} plugin {wanted!r} is offered by several packages; name one of: {packages}")
