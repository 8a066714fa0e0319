"""What readers of the datastore leave out because it cannot be used: said once a revision, known while it lasts."""

from __future__ import annotations

from collections.abc import Collection


class LeftOut:
    """Stored objects that a reader cannot use, by their keys.  Pure."""

    def __init__(self) -> None:
        self._faults: dict[str, tuple[int, str, str]] = {}

    def add(self, key: str, revision: int, title: str, reason: str) -> bool:
        """Note that the object at ``key`` cannot be used; whether that is news, and so worth a warning."""
        news = self._faults.get(key, (0, "", ""))[0] != revision
        self._faults[key] = revision, title, reason
        return news

    def listed(self, prefix: str, bad: Collection[str]) -> None:
        """All under ``prefix`` was read; ``bad`` are the keys of what cannot be used: the rest is sound or gone."""
        for key in [key for key in self._faults if key.startswith(prefix) and key not in bad]:
            del self._faults[key]

    def reasons(self, *prefixes: str) -> dict[str, str]:
        """Why what is under ``prefixes`` (none: everywhere) is left out, by its title."""
        return {
            title: reason
            for key, (_, title, reason) in self._faults.items()
            if not prefixes or key.startswith(prefixes)
        }
