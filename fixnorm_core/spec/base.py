"""What all specs share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

__all__ = ["Fraction", "Spec"]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Spec(BaseModel):
    """Frozen; refuses unknown fields, infinities, not-a-numbers and NULs, which no file name and no database takes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @field_validator("*")
    @classmethod
    def _holds_no_nul(cls, value: Any) -> Any:
        texts = (value,) if isinstance(value, str) else ()
        if isinstance(value, dict):
            texts = (*value, *value.values())
        elif isinstance(value, tuple | list):
            texts = tuple(value)
        for text in texts:
            if isinstance(text, str) and "\0" in text:
                raise ValueError(f"{text[:100]!r} holds a NUL character; write it without")
        return value
