"""What is wrong with a command line or with what it names."""

from __future__ import annotations

from calico_node.errors import CalicoError


class InputError(CalicoError):
    """What the user gave cannot be used."""

    def __init__(self, text: str) -> None:
        super().__init__(f"failed to execute command: {text}")
