"""The server's clock: the time of day at its start, and from then on what has passed, time in suspension included.

The machine's own clock may be set while jobs run. If the server followed it, a step forward by hours would end jobs by
their limits of time, and one back would put events, leases and waits in the wrong order. Why not otherwise:
docs/adr/0017-a-clock-that-does-not-jump.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog

__all__ = ["SteadyClock", "utc_now", "wall_clock"]

_WORTH_TELLING = timedelta(minutes=1)

log = structlog.get_logger(__name__)


def wall_clock() -> datetime:
    """The machine's clock, for those who compare it with their own: receivers of signed messages."""
    return datetime.now(UTC)


def _seconds_since_boot() -> float:
    """Goes on while the machine sleeps, where the system has such a clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class SteadyClock:
    """Tells the time in UTC, never back and never by leaps; safe from any thread."""

    def __init__(
        self, wall: Callable[[], datetime] = wall_clock, elapsed: Callable[[], float] = _seconds_since_boot
    ) -> None:
        """Reads the machine's clock, this once.

        Args:
            wall: The machine's clock, in UTC.
            elapsed: Seconds that only grow.
        """
        self._wall, self._elapsed = wall, elapsed
        self._start, self._begin = wall(), elapsed()
        self._told = timedelta(0)

    def __call__(self) -> datetime:
        """The time."""
        now = self._start + timedelta(seconds=self._elapsed() - self._begin)
        off = self._wall() - now
        if abs(off - self._told) >= _WORTH_TELLING:
            self._told = off
            log.warning("clock.machine_was_set", ahead_seconds=round(off.total_seconds()))
        return now


utc_now = SteadyClock()
"""This process's."""
