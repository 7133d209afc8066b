"""Column types that store the same on SQLite and on PostgreSQL, whatever they are given."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, String, Text
from sqlalchemy.types import TypeDecorator

__all__ = ["Document", "LongWords", "UtcDateTime", "Words"]


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, aware and in UTC on both sides; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """As UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Short text. What no database can hold is replaced: PostgreSQL has no NUL, and neither has lone surrogates.

    Both come from outside: a job's name, a file's name in a worker's message.
    """

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Without what cannot be stored."""
        return _storable(value) if value is not None else None


class LongWords(Words):
    """Text of any length; see :class:`Words`."""

    impl = Text
    cache_ok = True


class Document(TypeDecorator[dict[str, Any]]):
    """A JSON object. JSON has no NaN and no infinity and PostgreSQL insists on that, so they are stored by name.

    Pydantic reads ``"NaN"``, ``"Infinity"`` and ``"-Infinity"`` back as the numbers that they are.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: dict[str, Any] | None, dialect: Dialect) -> dict[str, Any] | None:  # noqa: ARG002
        """As JSON proper."""
        return _proper(value) if value is not None else None


def _storable(text: str) -> str:
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _proper(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _proper(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_proper(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
