"""What the service and a backend say to each other. Plain data and one protocol: no Ray, no torch.

Who owns what: the service decides what runs and when there is room; a backend runs it and answers polls. A backend
keeps no truth. Whatever it forgets (its process died, a node went away) the service notices as a lost attempt. What it
has not forgotten when a server starts anew (slots on a cluster outlive theirs), that server adopts.

An attempt is one try at one task. Its id is chosen by the service, is never used twice, and is the only handle.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from fixnorm_core.reports import EpochReport, Evaluation, TrialResult
from fixnorm_core.spec import ResourceSpec, TrialSpec

__all__ = [
    "NOTHING",
    "RETRIED_FAILURES",
    "UNCHARGED_FAILURES",
    "Backend",
    "Cancelled",
    "EvaluateTask",
    "Evaluated",
    "Failed",
    "FailureKind",
    "Outcome",
    "Resources",
    "Stopped",
    "Task",
    "TrainTask",
    "Trained",
    "Update",
    "log_path",
]


@dataclass(frozen=True, slots=True)
class Resources:
    """An amount of what trials hold."""

    cpus: float
    gpus: float

    @classmethod
    def of(cls, spec: ResourceSpec) -> Resources:
        """What one trial of a job holds."""
        return cls(cpus=spec.cpus_per_trial, gpus=spec.gpus_per_trial)

    def fits_in(self, other: Resources) -> bool:
        """Whether ``other`` is at least this much of everything (up to rounding of fractions)."""
        return self.cpus <= other.cpus + 1e-9 and self.gpus <= other.gpus + 1e-9

    @classmethod
    def together(cls, amounts: Iterable[Resources]) -> Resources:
        """The sum of some amounts."""
        return sum(amounts, start=cls(0.0, 0.0))

    def __str__(self) -> str:
        cpus = f"{self.cpus:g} CPU" if self.cpus == 1 else f"{self.cpus:g} CPUs"
        gpus = f"{self.gpus:g} GPU" if self.gpus == 1 else f"{self.gpus:g} GPUs"
        return f"{cpus} and {gpus}"

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)


NOTHING = Resources(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train ``trial``; resume from the checkpoint in ``folder`` if there is one.

    Attributes:
        attempt_id: The handle of this attempt.
        trial: What to train.
        folder: An absolute path that server and worker share: checkpoint, weights and logs of the trial.
    """

    attempt_id: str
    trial: TrialSpec
    folder: str


@dataclass(frozen=True, slots=True)
class EvaluateTask:
    """Evaluate saved weights on the test split, which no trial has seen.

    Attributes:
        attempt_id: The handle of this attempt.
        trial: The training run that left the weights.
        folder: Its folder, which holds them.
    """

    attempt_id: str
    trial: TrialSpec
    folder: str


Task = TrainTask | EvaluateTask


def log_path(folder: str | Path, attempt_id: str) -> Path:
    """The log of one attempt, in its trial's folder; no two attempts share one."""
    return Path(folder) / "logs" / f"{attempt_id}.log"


class FailureKind(StrEnum):
    """What a failure says of other tries."""

    RETRYABLE = "retryable"
    """The worker was lost or preempted: the same trial again, from its last checkpoint, costs the budget nothing."""

    OUTAGE = "outage"
    """The node died or was taken away, or nothing could be started: as above, and no number of them fails the trial."""

    GPU_MEMORY = "gpu_memory"
    """CUDA was out of memory: perhaps another process's doing the first time, the job's own the second."""

    DISK_FULL = "disk_full"
    """A file of the trial had no room: the same trial again, from its last checkpoint, once somebody has made some."""

    CRASHED = "crashed"
    """Something unexpected was raised: this trial fails, others may not."""

    OVERDUE = "overdue"
    """It took longer than any may: it hung, or is too much work. This trial fails, others may not."""

    FATAL = "fatal"
    """The job itself is wrong (a model that cannot be built, an unreadable image): every trial would fail alike."""


RETRIED_FAILURES = frozenset({FailureKind.RETRYABLE, FailureKind.OUTAGE, FailureKind.GPU_MEMORY})
"""After these the same task is tried again, by itself."""

UNCHARGED_FAILURES = frozenset({FailureKind.OUTAGE, FailureKind.DISK_FULL})
"""No number of these fails the trial."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A training run ended by itself, completely or by diverging."""

    result: TrialResult


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation ended."""

    evaluation: Evaluation


@dataclass(frozen=True, slots=True)
class Failed:
    """An attempt ended without a result.

    Attributes:
        kind: What it says of other tries.
        message: One sentence for a person.
        details: The traceback, when there is one.
    """

    kind: FailureKind
    message: str
    details: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An attempt ended because it was cancelled."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A training run ended after an epoch because it was asked to; its slot stays warm."""


Outcome = Trained | Evaluated | Failed | Cancelled | Stopped


@dataclass(frozen=True, slots=True)
class Update:
    """News of one attempt since the last poll. ``outcome`` is set once, in the attempt's last update."""

    attempt_id: str
    reports: tuple[EpochReport, ...] = ()
    outcome: Outcome | None = None


class Backend(Protocol):
    """Runs tasks somewhere. Called from one thread, the dispatcher's; every method returns soon.

    Each report and each outcome is handed over once, reports in the order of their epochs and before the outcome; to a
    server that adopts an attempt, once more whatever was not acknowledged. After an outcome that was acknowledged the
    attempt holds no process, no memory and no GPU of its own; a warm slot may stay.
    """

    def adopt(self, term: int) -> Mapping[str, Resources]:
        """Takes over what runs here since an earlier server's time, or has ended with news that nobody acknowledged.

        Called before anything is started, each time that a server begins to dispatch.

        Args:
            term: How often servers have begun to; one with a lower term can do nothing to what was adopted.

        Returns:
            What each attempt holds, by its id. Those that the caller does not know are to be cancelled.
        """

    def trouble(self) -> str | None:
        """Why nothing can be started at present, for a person; None while it can."""

    def capacity(self) -> Resources:
        """All that trials could hold together if nothing ran."""

    def nodes(self) -> Sequence[Resources]:
        """What each machine has of that. A trial runs on one of them."""

    def start(self, task: Task, resources: Resources) -> None:
        """Starts an attempt. The caller has made sure that ``resources`` are free."""

    def poll(self) -> Sequence[Update]:
        """All news since the last poll, of all attempts."""

    def wait(self, seconds: float) -> None:
        """Returns as soon as there may be news, and after so long at the latest."""

    def acknowledge(self, update: Update) -> None:
        """Forgets news that the caller has stored. Called once for each update, in their order."""

    def cancel(self, attempt_id: str) -> None:
        """Ends an attempt now; its last update says :class:`Cancelled` unless it had ended. Unknown ids are ignored."""

    def stop(self, attempt_id: str) -> None:
        """Asks a training attempt to end after the epoch that it is in.

        Its last update says :class:`Stopped`, after the reports of the epochs that it still finished; it says
        :class:`Trained` when that epoch was the last. Unknown ids are ignored.
        """

    def release(self) -> None:
        """Lets go of every attempt without news of it: another server dispatches. More may be started after.

        Attempts that the other can adopt go on; others end, and what warm slots hold is given back.
        """

    def close(self) -> None:
        """Lets go of every attempt as above and gives back everything that none of them holds. Idempotent."""
