"""Reads members of a v1 document, and says which one is wrong.  Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from calico_node.errors import ValidationError


class Reader:
    """An object of a document at ``path``; null counts as absent.  Every method raises ``ValidationError``."""

    def __init__(self, data: Any, path: str = "") -> None:
        if data is not None and not isinstance(data, dict):
            raise ValidationError("must be an object", field=path, value=data)
        self.data: dict[str, Any] = data or {}
        self.path = path

    def allow(self, *names: str) -> None:
        for name in self.data:
            if name not in names:
                raise ValidationError("is not a field of the v1 API", field=self.at(str(name)))

    def at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def within(self, name: str) -> Reader:
        return Reader(self.data.get(name), self.at(name))

    def items(self, name: str) -> list[Any]:
        value = self.data.get(name)
        if value is not None and not isinstance(value, list):
            raise ValidationError("must be a list", field=self.at(name), value=value)
        return value or []

    def objects(self, name: str) -> Iterator[Reader]:
        for index, item in enumerate(self.items(name)):
            yield Reader(item, f"{self.at(name)}[{index}]")

    def texts(self, name: str) -> list[str]:
        for index, item in enumerate(self.items(name)):
            if not isinstance(item, str):
                raise ValidationError("must be text", field=f"{self.at(name)}[{index}]", value=item)
        return list(self.items(name))

    def text(self, name: str, *, needed: bool = False) -> str:
        value = self.data.get(name)
        if value is None or value == "":
            if needed:
                raise ValidationError("is missing", field=self.at(name))
            return ""
        if not isinstance(value, str):
            raise ValidationError("must be text", field=self.at(name), value=value)
        return value

    def flag(self, name: str) -> bool:
        value = self.data.get(name)
        if value is not None and not isinstance(value, bool):
            raise ValidationError("must be true or false", field=self.at(name), value=value)
        return bool(value)
