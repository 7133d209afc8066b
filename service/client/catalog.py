"""What a server can train, and on what."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["CatalogEntry"]


class CatalogEntry(BaseModel):
    """A model or a data set by the name a job file gives it.

    Attributes:
        options: What can be set for it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    options: tuple[str, ...] | dict[str, Any] = ()
