"""When a job was paused: its limits of time leave that out. Pure functions of what is stored with it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

__all__ = ["begin_pause", "end_pause", "time_paused"]

_SPANS = "spans"
"""Pairs of begin and end, oldest first; the last one has no end while the job is paused."""


def begin_pause(pauses: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
    """What is to be stored of a job that is paused from now on."""
    return {_SPANS: [*_spans(pauses), [now.isoformat(), None]]}


def end_pause(pauses: dict[str, Any] | None, now: datetime) -> dict[str, Any]:
    """What is to be stored of a job that no longer is; one paused by an older version has no beginning to end."""
    *before, last = _spans(pauses) or [[now.isoformat(), None]]
    return {_SPANS: [*before, [last[0], last[1] or now.isoformat()]]}


def time_paused(pauses: dict[str, Any] | None, *, since: datetime, now: datetime) -> timedelta:
    """How long a job was paused between two times. A clock that was set back while no server ran lengthens nothing."""
    total = timedelta(0)
    for begun, ended in _spans(pauses):
        begin, end = datetime.fromisoformat(begun), datetime.fromisoformat(ended) if ended is not None else now
        total += max(min(end, now) - max(begin, since), timedelta(0))
    return total


def _spans(pauses: dict[str, Any] | None) -> list[list[Any]]:
    return list((pauses or {}).get(_SPANS, ()))
