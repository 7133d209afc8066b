"""Durations as people write them: a number with its unit."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

__all__ = ["Duration", "duration_text"]

_MICROSECONDS = {"d": 86_400_000_000, "h": 3_600_000_000, "min": 60_000_000, "s": 1_000_000}
_PART = r"(\d+(?:\.\d+)?|\.\d+)\s*(d|h|min|s)"
_WAY_OUT = "write it with a unit, as 45s, 30min, 8h, 2d or 1h 30min"


def duration_text(duration: timedelta) -> str:
    """The shortest such text: ``1h 30min``; parts below a second are decimals of ``s``."""
    left = duration // timedelta(microseconds=1)
    parts = []
    for unit in ("d", "h", "min"):
        count, left = divmod(left, _MICROSECONDS[unit])
        parts += [f"{count}{unit}"] if count else []
    if left or not parts:
        parts.append(f"{left / _MICROSECONDS['s']:.6f}".rstrip("0").rstrip(".") + "s")
    return " ".join(parts)


def _parse(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no duration: {_WAY_OUT}")
    if not re.fullmatch(rf"\s*{_PART}(\s*{_PART})*\s*", value):
        raise ValueError(f"{value!r} is no duration: {_WAY_OUT}")
    total = sum(float(count) * _MICROSECONDS[unit] for count, unit in re.findall(_PART, value))
    try:
        return timedelta(microseconds=round(total))
    except OverflowError:
        raise ValueError(f"{value!r} is too long a duration: leave the field out for no limit") from None


def _refuse_none_at_all(duration: timedelta) -> timedelta:
    if duration <= timedelta(0):
        raise ValueError(f"{duration_text(duration)} is no time at all: give a longer one, or null for no limit")
    return duration


Duration = Annotated[
    timedelta,
    BeforeValidator(_parse),
    AfterValidator(_refuse_none_at_all),
    PlainSerializer(duration_text, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["8h", "1h 30min"]}),
]
"""A time above zero, written ``8h`` or ``1h 30min``, with the units d, h, min and s. A bare number is refused: hours or
seconds, nobody could tell."""
