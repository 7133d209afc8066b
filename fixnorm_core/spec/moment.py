"""Points in time as people write them: with their zone."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

__all__ = ["Moment", "moment_text"]

_WAY_OUT = "write it with date, time and zone, as 2030-05-01T08:00+02:00 or 2030-05-01T06:00Z"


def moment_text(moment: datetime) -> str:
    """In UTC, to the minute where that is exact: ``2030-05-01 06:00 UTC``."""
    there = moment.astimezone(UTC)
    return f"{there:%Y-%m-%d %H:%M:%S} UTC" if there.second else f"{there:%Y-%m-%d %H:%M} UTC"


def _parse(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(f"{value!r} is no point in time: {_WAY_OUT}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no point in time: {_WAY_OUT}")
    if value.tzinfo is None:
        raise ValueError(f"{value.isoformat()} has no zone, and the server may be in another: {_WAY_OUT}")
    return value.astimezone(UTC)


Moment = Annotated[
    datetime,
    BeforeValidator(_parse),
    PlainSerializer(lambda moment: moment.isoformat(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2030-05-01T08:00+02:00"]}),
]
"""A point in time, kept in UTC. One without a zone is refused: whose clock is meant, nobody could tell."""
