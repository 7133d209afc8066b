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

from fixnorm_core.artifacts import Artifacts
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.reports import EpochReport, Evaluation, TrialResult
from fixnorm_core.spec import ResourceSpec, TrialSpec
from fixnorm_core.waits import StoreWait

__all__ = [
    "LOST_TOUCH",
    "NODE_FAILURES",
    "NOTHING",
    "NOWHERE",
    "RETRIED_FAILURES",
    "UNCHARGED_FAILURES",
    "Backend",
    "Cancelled",
    "EvaluateTask",
    "Evaluated",
    "Failed",
    "FailureKind",
    "Node",
    "Outcome",
    "Place",
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
    """An amount of what trials hold.

    Attributes:
        cpus: Cores.
        gpus: GPUs.
        ranks: Of what one trial holds: into how many equal parts it is divided, one for each process that trains it.
        nodes: Of what one trial holds: over how many nodes it is divided, evenly.
    """

    cpus: float
    gpus: float
    ranks: int = 1
    nodes: int = 1

    @classmethod
    def of(cls, spec: ResourceSpec) -> Resources:
        """What one trial of a job holds."""
        cpus, gpus = spec.cpus_per_trial, spec.gpus_per_trial
        return cls(cpus=cpus, gpus=gpus, ranks=spec.ranks, nodes=spec.nodes_per_trial)

    @property
    def of_one_rank(self) -> Resources:
        """The part of one process. Ray cuts it off after 1/10,000, so that all parts fit into the whole."""
        return Resources(self.cpus / self.ranks, self.gpus / self.ranks)

    @property
    def on_one_node(self) -> Resources:
        """What is held on each of its nodes."""
        if self.nodes == 1:
            return self
        return Resources(self.cpus / self.nodes, self.gpus / self.nodes, self.ranks // self.nodes)

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
        return f"{cpus} and {gpus}" + (f" over {self.nodes} nodes" if self.nodes > 1 else "")

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.gpus + other.gpus)

    def __sub__(self, other: Resources) -> Resources:
        return Resources(self.cpus - other.cpus, self.gpus - other.gpus)


LOST_TOUCH = "the ranks of the trial lost touch with each other"
"""How the message of a failure begins that is of a rank's connection to another, and so need not be its own doing."""
NOTHING = Resources(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Node:
    """A machine that trials run on.

    Attributes:
        name: Stays the same when it was away and is back.
        total: What trials could hold there together if nothing ran.
    """

    name: str
    total: Resources


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attempt runs.

    Attributes:
        node: The node's name.
        gpus: The names of the GPUs there that it holds, or of the one that it holds a part of.
        others: Likewise its other nodes, if it runs on several; this one has the first rank.
    """

    node: str
    gpus: tuple[str, ...] = ()
    others: tuple[Place, ...] = ()

    @property
    def parts(self) -> tuple[Place, ...]:
        """One of each node, without others."""
        return (Place(self.node, self.gpus), *self.others)

    @classmethod
    def of_parts(cls, parts: Sequence[Place]) -> Place:
        """The place of some nodes, the first rank's first."""
        first, *others = parts
        return cls(first.node, first.gpus, tuple(others))


NOWHERE = Place("")


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Train ``trial``; resume from the checkpoint in ``folder`` if there is one.

    Attributes:
        attempt_id: The handle of this attempt.
        trial: What to train.
        folder: An absolute path that server and worker share: checkpoint, weights and logs of the trial.
        reach: What the trial may read, as the server's operator has it; never from the job.
        artifacts: Where those are instead if they share none.
    """

    attempt_id: str
    trial: TrialSpec
    folder: str
    reach: Reach = LOCAL
    artifacts: Artifacts | None = None


@dataclass(frozen=True, slots=True)
class EvaluateTask:
    """Evaluate saved weights on the test split, which no trial has seen.

    Attributes:
        attempt_id: The handle of this attempt.
        trial: The training run that left the weights.
        folder: Its folder, which holds them.
        reach: As for training.
        artifacts: Likewise.
    """

    attempt_id: str
    trial: TrialSpec
    folder: str
    reach: Reach = LOCAL
    artifacts: Artifacts | None = None


Task = TrainTask | EvaluateTask


def log_path(folder: str | Path, attempt_id: str) -> Path:
    """The log of one attempt, in its trial's folder; no two attempts share one."""
    return Path(folder) / "logs" / f"{attempt_id}.log"


class FailureKind(StrEnum):
    """What a failure says of other tries."""

    RETRYABLE = "retryable"
    """The worker, or one of its ranks, was lost, preempted or hung: the same trial again, from its last checkpoint,
    costs the budget nothing."""

    OUTAGE = "outage"
    """The node died, was taken away or lacks what any trial needs, or nothing could be started: as above, and no number
    of them fails the trial."""

    GPU_MEMORY = "gpu_memory"
    """CUDA was out of memory: perhaps another process's doing the first time, the job's own the second."""

    GPU_FAULT = "gpu_fault"
    """The GPU or its driver does not work: as a lost worker."""

    BUCKET_DOWN = "bucket_down"
    """The object store of the data, or of what trials leave, did not answer: as an outage, but not the node's doing."""

    DISK_FULL = "disk_full"
    """A file of the trial had no room: the same trial again, from its last checkpoint, once somebody has made some."""

    CRASHED = "crashed"
    """Something unexpected was raised: this trial fails, others may not."""

    OVERDUE = "overdue"
    """It took longer than any may: it hung, or is too much work. This trial fails, others may not."""

    FATAL = "fatal"
    """The job itself is wrong (a model that cannot be built, an unreadable image): every trial would fail alike."""


RETRIED_FAILURES = frozenset(
    {
        FailureKind.RETRYABLE,
        FailureKind.OUTAGE,
        FailureKind.BUCKET_DOWN,
        FailureKind.GPU_MEMORY,
        FailureKind.GPU_FAULT,
    }
)
"""After these the same task is tried again, by itself."""

NODE_FAILURES = frozenset({FailureKind.RETRYABLE, FailureKind.OUTAGE, FailureKind.GPU_FAULT})
"""These may be the doing of the node, where there is one to name."""

UNCHARGED_FAILURES = frozenset({FailureKind.OUTAGE, FailureKind.BUCKET_DOWN, FailureKind.DISK_FULL})
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
        node: What was lost, of an attempt on several nodes: the name of its node; None where that is not known.
    """

    kind: FailureKind
    message: str
    details: str = ""
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An attempt ended because it was cancelled."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A training run ended after an epoch because it was asked to; its slot stays warm."""


Outcome = Trained | Evaluated | Failed | Cancelled | Stopped


@dataclass(frozen=True, slots=True)
class Update:
    """News of one attempt since the last poll.

    Attributes:
        outcome: Set once, in the attempt's last update.
        place: Where it ran, with the outcome; None where that is not known, or had no part in it.
        waits: The object store that it has waited for so long that it is worth telling; None if for none. There is an
            update when it begins to, and when it no longer does.
        ended_seconds_ago: How long its outcome has been there: while no server was, perhaps.
    """

    attempt_id: str
    reports: tuple[EpochReport, ...] = ()
    outcome: Outcome | None = None
    place: Place | None = None
    waits: StoreWait | None = None
    ended_seconds_ago: float = 0.0


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

    def nodes(self) -> Sequence[Node]:
        """The machines that have that. A trial runs on one of them, or on several."""

    def places(self) -> Mapping[str, Place]:
        """Where each attempt is that holds something, by its id; those that were started a moment ago as planned."""

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        """Starts an attempt.

        Args:
            task: What it is to do.
            resources: What it holds. The caller has made sure that they are free on each of ``nodes``.
            nodes: Where it may run, the best first; a warm slot on any of them is better still. Empty for anywhere.
        """

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
