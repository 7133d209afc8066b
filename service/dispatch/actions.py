"""What can be done next for a job: the answers of :mod:`service.dispatch.policy`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Action",
    "Ask",
    "Cancel",
    "Confirm",
    "EndAttempts",
    "EndSearch",
    "EndTrials",
    "Evaluate",
    "Fail",
    "Resume",
    "Retry",
    "Succeed",
    "Wait",
]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the sampler for a point and train it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Train the point of a failed trial again, as a new trial."""

    number: int


@dataclass(frozen=True, slots=True)
class Confirm:
    """Train a point again with a new seed."""

    params: dict[str, float]


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a trial that no attempt is training: its worker or the server was lost."""

    number: int


@dataclass(frozen=True, slots=True)
class EndSearch:
    """Note why the search is over, then decide again."""

    reason: str


@dataclass(frozen=True, slots=True)
class EndTrials:
    """End these running trials now, whether or not an attempt is training them, then decide again."""

    numbers: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class EndAttempts:
    """End these attempts now, as failed, then decide again."""

    attempts: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate the weights of this trial on the test split."""

    number: int


@dataclass(frozen=True, slots=True)
class Succeed:
    """All is done; ``reason`` says why the search ended, and what was left out."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fail:
    """The job cannot succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """The job is to end, and has nothing to succeed with."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to start now."""

    reason: str


Action = (
    Ask | Retry | Confirm | Resume | EndSearch | EndTrials | EndAttempts | Evaluate | Succeed | Fail | Cancel | Wait
)
