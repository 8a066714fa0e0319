"""The clock that the processes of a host share."""

from __future__ import annotations

import time
from pathlib import Path

from attrs import frozen


@frozen
class Clock:
    """Seconds since boot, suspended time included, and which boot: comparable between the processes of a host."""

    boot: str

    @classmethod
    def system(cls) -> Clock:
        return cls(Path("/proc/sys/kernel/random/boot_id").read_text().strip())

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
