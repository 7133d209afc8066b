"""What the REST API answers. Shared by server, client and CLI, so it knows neither FastAPI nor a database.

Accuracies are fractions in [0, 1]; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from fixnorm_core.spec import JobSpec, Method
from service.events.schemas import EventKind, EventView
from service.results import BestView, CandidateView
from service.webhooks.schemas import WebhookView

if TYPE_CHECKING:
    from fixnorm_core.recipes import Recipe

__all__ = [
    "ATTEMPT_HEADER",
    "TERMINAL_STATES",
    "BestView",
    "BudgetChange",
    "CandidateView",
    "DatasetView",
    "EventKind",
    "EventView",
    "Extension",
    "FieldProblem",
    "Health",
    "JobChange",
    "JobPage",
    "JobState",
    "JobView",
    "ModelView",
    "Problem",
    "Progress",
    "RecipeView",
    "ShareChange",
    "TrialState",
    "TrialView",
]


ATTEMPT_HEADER = "X-Fixnorm-Attempt"
"""Of an answer with a log: which attempt at the trial it is of, counted from 1."""


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class JobState(StrEnum):
    """Where a job is; its ``reason`` says why."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPING = "STOPPING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class TrialState(StrEnum):
    """Where a trial is."""

    RUNNING = "RUNNING"
    COMPLETE = "COMPLETE"
    DIVERGED = "DIVERGED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class Progress(_View):
    """How far a job is. ``finished`` counts complete, diverged and pruned trials, which is what the budget counts.

    ``pruned`` are those of them that were stopped early.
    """

    finished: int
    pruned: int = 0
    running: int
    failed: int
    max_trials: int


class JobView(_View):
    """One job.

    Attributes:
        user: Whose it is, the ``share.user`` of its spec; None where nobody was named.
        reason: Why it is in this state, for a person.
        reopened_at: When it last went on after an end, extended or retried; None if it never did. What lies between
            that end and this is no time of its.
        stop_reason: Why its search ended, also while points are still being confirmed; None before.
        place: Among the jobs that wait for room, from 1; None when it does not wait for any.
        best: The best point so far, final once the state is SUCCEEDED; None until a trial is complete.
        former: The result that a job ended with before it was extended or retried. Its weights and its report are those
            that can be fetched until the job ends again; None once it has, and if it had none.
        notes: What was made of each warm start.
        dashboard: Path of the job's study in the Optuna dashboard, for example ``/dashboard/studies/1``.
        webhook: What has become of its webhook; None without one.
    """

    id: str
    name: str
    user: str | None = None
    state: JobState
    reason: str
    stop_reason: str | None = None
    place: int | None = None
    created_at: datetime
    started_at: datetime | None
    reopened_at: datetime | None = None
    ended_at: datetime | None
    spec: JobSpec
    progress: Progress
    best: BestView | None
    former: BestView | None = None
    notes: tuple[str, ...] = ()
    dashboard: str | None
    webhook: WebhookView | None = None


class Extension(BaseModel):
    """What ``extend`` is sent.

    Attributes:
        trials: So many are added to ``budget.max_trials``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    trials: int = Field(ge=1, le=100_000)


class _Change(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ShareChange(_Change):
    """Other fields of a job's ``share``; a cap of None lifts it."""

    weight: float = Field(default=1.0, gt=0)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    max_gpus: float | None = Field(default=None, gt=0)
    max_cpus: float | None = Field(default=None, gt=0)


class BudgetChange(_Change):
    """Other fields of a job's ``budget``."""

    parallel_trials: int = Field(default=1, ge=1)


class JobChange(_Change):
    """What is to be another of a job that has not ended."""

    share: ShareChange = ShareChange()
    budget: BudgetChange = BudgetChange()


class JobPage(_View):
    """Jobs, newest first. ``next_cursor`` is None on the last page."""

    jobs: tuple[JobView, ...]
    next_cursor: str | None


class TrialView(_View):
    """One trial.

    Attributes:
        kind: ``"search"`` for a proposed point, ``"confirm"`` for another run of the best one with a new seed.
        validation_accuracy: Final; None while it runs, and for a failed or pruned one.
        curve: Validation accuracy after each finished epoch.
        epochs: Epochs planned.
        reason: Why it failed, was cancelled or was stopped early; what it waits for while it runs; empty otherwise.
        attempts: How often it was started.
        seconds: Wall time of its attempts so far. One that was lost with its server counts up to the last that was
            heard of its job.
    """

    number: int
    state: TrialState
    kind: Literal["search", "confirm"]
    params: dict[str, float]
    seed: int
    validation_accuracy: float | None
    curve: tuple[float, ...]
    epochs: int
    reason: str
    attempts: int
    seconds: float | None


class ModelView(_View):
    """A model that a job can name, with the options it takes and what ``search.method`` can be for it."""

    name: str
    options: tuple[str, ...]
    methods: tuple[Method, ...] = tuple(Method)


class DatasetView(_View):
    """A data set that a job can name."""

    name: str
    about: str


class RecipeView(_View):
    """A named job that is ready to run.

    Attributes:
        about: What it trains, and on what.
        images: Where they come from.
        hardware: What it expects of the machine.
        aims_at: The published figure, and whose it is.
        text: Its job file, YAML with comments.
        job: The job itself, to submit as it is or changed.
    """

    name: str
    about: str
    images: str
    hardware: str
    aims_at: str
    text: str
    job: JobSpec

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The view of a recipe that is shipped with this software."""
        return cls(
            name=recipe.name,
            about=recipe.about,
            images=recipe.images,
            hardware=recipe.hardware,
            aims_at=recipe.aims_at,
            text=recipe.text,
            job=recipe.job(),
        )


class Health(_View):
    """The server is there.

    Attributes:
        dispatching: Whether it is the one that runs jobs; of several servers on one database one is, the others answer
            requests and stand by.
    """

    status: Literal["ok"]
    version: str
    dispatching: bool


class FieldProblem(_View):
    """One broken rule of a submitted document; ``field`` is a dotted path such as ``search.space.lr``."""

    field: str
    rule: str
    value: Any = None


class Problem(_View):
    """An error, as RFC 9457 problem details.

    Attributes:
        code: Stable and machine-readable.
        detail: The value and the rule, for a person.
        way_out: What to do about it.
        errors: Every broken rule, when a document was refused.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    code: str
    way_out: str = ""
    errors: tuple[FieldProblem, ...] = ()
