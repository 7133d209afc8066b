"""The line that the server adds to the log of an attempt that did not end well: its worker may have had no time to."""

from __future__ import annotations

from datetime import datetime

import structlog

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptRow, AttemptState
from service.jobs.files import LogFile
from service.jobs.folders import open_own

__all__ = ["add_last_words", "last_words_of"]

log = structlog.get_logger(__name__)


def add_last_words(log_file: LogFile, state: AttemptState, reason: str, *, now: datetime) -> None:
    """Appends how an attempt ended. A log that cannot be written is no reason to hold up the job.

    Nothing is appended to an object in a store: there whoever reads it adds the line.
    """
    if log_file.store is not None:
        return
    path, line = log_file.path, _line(state, reason, at=now)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_own(path, below=log_file.below, appends=True) as file:
            file.write(line.encode())
    except OSError as error:
        log.warning("attempt.log_not_written", path=str(path), error=str(error))


def last_words_of(row: AttemptRow) -> str:
    """The same line of an attempt that has ended otherwise than well; empty of others."""
    if row.state in (*LIVE_ATTEMPT_STATES, AttemptState.COMPLETE) or row.ended_at is None:
        return ""
    return _line(AttemptState(row.state), row.reason, at=row.ended_at)


def _line(state: AttemptState, reason: str, *, at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC the server: this attempt is {state}{': ' if reason else ''}{reason}\n"
