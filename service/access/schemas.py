"""What is told of tokens."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

__all__ = ["TokenView"]


class TokenView(BaseModel):
    """A token, without what makes it one."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    scope: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
