"""The health registry: what each component last said of itself.  Pure; the clock is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field, frozen


@frozen
class ComponentHealth:
    """One component's state as of now; ``timed_out`` says its last report is older than it promised."""

    name: str
    live: bool
    ready: bool
    reason: str
    revision: int
    rejected: Mapping[str, str]
    extra: Mapping[str, object]
    timed_out: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "live": self.live,
            "ready": self.ready,
            "reason": self.reason,
            "revision": self.revision,
            "rejected": dict(self.rejected),
            "extra": dict(self.extra),
        }


@define(eq=False)
class Reporter:
    """A component's line; ready only once it has said so."""

    name: str
    timeout: float
    clock: Callable[[], float] = field(repr=False)
    live: bool = True
    ready: bool = False
    reason: str = "has not reported yet"
    revision: int = 0
    rejected: Mapping[str, str] = field(factory=dict)
    extra: Mapping[str, object] = field(factory=dict)
    reported_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reported_at = self.clock()

    def report(
        self,
        *,
        live: bool = True,
        ready: bool = True,
        reason: str = "",
        revision: int | None = None,
        rejected: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        self.live, self.ready, self.reason = live, ready, reason
        if revision is not None:
            self.revision = revision
        if rejected is not None:
            self.rejected = dict(rejected)
        if extra is not None:
            self.extra = dict(extra)
        self.reported_at = self.clock()

    def state(self) -> ComponentHealth:
        late = self.timeout > 0 and self.clock() - self.reported_at > self.timeout
        return ComponentHealth(
            name=self.name,
            live=self.live and not late,
            ready=self.ready and not late,
            reason=f"has not reported for {self.timeout:g} s" if late else self.reason,
            revision=self.revision,
            rejected=self.rejected,
            extra=self.extra,
            timed_out=late,
        )


class HealthRegistry:
    """All reporters of the process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reporters: dict[str, Reporter] = {}

    def reporter(self, name: str, *, timeout: float = 0.0) -> Reporter:
        """The reporter called ``name``, made anew: a restarted component begins not ready."""
        self._reporters[name] = Reporter(name, timeout, self._clock)
        return self._reporters[name]

    def states(self) -> list[ComponentHealth]:
        return [reporter.state() for _, reporter in sorted(self._reporters.items())]
