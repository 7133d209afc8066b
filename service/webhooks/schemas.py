"""What the API tells of a job's webhook. Shared by server, client and CLI, as :mod:`service.schemas`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict

__all__ = ["WebhookState", "WebhookView"]


class WebhookState(StrEnum):
    """Where the message of a job's end is."""

    PROMISED = "promised"
    """The job has not ended."""

    WAITING = "waiting"
    """It is to be sent, or sent again."""

    DELIVERED = "delivered"
    GIVEN_UP = "given up"


class WebhookView(BaseModel):
    """What has become of a job's webhook, at the last time that the job ended.

    Attributes:
        url: Where to.
        tries: So far.
        next_try_at: When it is tried again; None when it is not.
        delivered_at: When it arrived; None while it has not.
        error: What went wrong at the last try; None if nothing did.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    url: str
    state: WebhookState
    tries: int = 0
    next_try_at: datetime | None = None
    delivered_at: datetime | None = None
    error: str | None = None

    @property
    def host(self) -> str:
        """Of the address, which may hold a secret further on."""
        return urlsplit(self.url).hostname or ""

    @property
    def outcome(self) -> str:
        """In words, without times."""
        tries = "1 try" if self.tries == 1 else f"{self.tries} tries"
        if self.state is WebhookState.PROMISED:
            return f"{self.host} is told when the job has ended"
        if self.state is WebhookState.DELIVERED:
            return f"{self.host} was told"
        if self.state is WebhookState.GIVEN_UP:
            return f"{self.host} could not be told and was given up after {tries}: {self.error}"
        if self.error is None:
            return f"{self.host} is being told"
        return f"{self.host} could not be told yet, after {tries}, and is tried again: {self.error}"
