"""Events as the API tells them. Shared by server, client and CLI, as :mod:`service.schemas`, which has them too."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["EventKind", "EventView"]


class EventKind(StrEnum):
    """What an event tells of."""

    JOB_CHANGED = "job.changed"
    JOB_ENDED = "job.ended"
    ATTEMPT_STARTED = "attempt.started"
    ATTEMPT_ENDED = "attempt.ended"
    TRIAL_EPOCH = "trial.epoch"
    TRIAL_ENDED = "trial.ended"
    NODE_QUARANTINED = "node.quarantined"


class EventView(BaseModel):
    """Something that happened to a job. Which of the optional fields are there depends on the kind.

    Attributes:
        number: Counts the job's events from 1 without gaps; the ``id`` of a server-sent event.
        kind: ``job.changed`` and ``job.ended`` (``state``, ``reason``); ``attempt.started`` (``trial``, ``attempt``,
            ``task``, ``params``) and ``attempt.ended`` (``state``, ``reason``), one for each try at training a trial
            or at evaluating its weights; ``trial.epoch`` (``epoch``, ``validation_accuracy``); ``trial.ended``
            (``state``, ``validation_accuracy``, ``reason``); ``node.quarantined`` (``node``, ``trial``,
            ``reason``), where a trial of this job was the last that was lost there.
        at: When it was stored.
        state: A job's, an attempt's or a trial's, as the kind says.
        task: ``train`` or ``evaluate``.
        epoch: Counted from 1.
        measures: All else that was measured in that epoch, by name, as :func:`fixnorm_core.reports.measures_of` has it.
        node: The name of one.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    number: int
    job: str
    kind: EventKind
    at: datetime
    state: str | None = None
    reason: str | None = None
    trial: int | None = None
    attempt: str | None = None
    task: Literal["train", "evaluate"] | None = None
    params: dict[str, float] | None = None
    epoch: int | None = None
    validation_accuracy: float | None = None
    measures: dict[str, float] | None = None
    node: str | None = None
