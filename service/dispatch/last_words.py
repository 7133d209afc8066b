"""The line that the server adds to the log of an attempt that did not end well: its worker may have had no time to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import structlog

from service.database.rows import AttemptState

__all__ = ["add_last_words"]

log = structlog.get_logger(__name__)


def add_last_words(path: Path, state: AttemptState, reason: str, *, now: datetime) -> None:
    """Appends how an attempt ended. A log that cannot be written is no reason to hold up the job."""
    line = f"{now:%Y-%m-%d %H:%M:%S} UTC the server: this attempt is {state}{': ' if reason else ''}{reason}\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        log.warning("attempt.log_not_written", path=str(path), error=str(error))
