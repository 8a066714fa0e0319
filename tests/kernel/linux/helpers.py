"""Namespaces and commands for these tests."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Callable


def ip(netns: int, text: str) -> str:
    """``ip <text>`` in the namespace; its output.  ``;`` separates several."""
    output = ""
    for command in text.split(";"):
        result = subprocess.run(
            ["nsenter", f"--net=/proc/{os.getpid()}/fd/{netns}", "ip", *command.split()],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        assert result.returncode == 0, f"ip {command}: {result.stderr}"
        output += result.stdout
    return output


async def eventually(check: Callable[[], bool], seconds: float = 3.0) -> None:
    """Fail unless ``check`` comes true in time."""
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.02)
