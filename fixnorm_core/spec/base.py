"""What all specs share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fraction", "Spec"]

Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class Spec(BaseModel):
    """Frozen; refuses unknown fields, infinities and not-a-numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
