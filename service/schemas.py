"""What the REST API answers. Shared by server, client and CLI, so it knows neither FastAPI nor a database.

Accuracies are fractions in [0, 1]; times are UTC.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from fixnorm_core.reports import Evaluation
from fixnorm_core.spec import JobSpec, Method
from service.events.schemas import EventKind, EventView
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


class CandidateView(_View):
    """A point that was tried, and what is known of its accuracy.

    Attributes:
        params: The knobs.
        validation_accuracy: Mean over ``runs`` training runs at this point: the confirming ones, if there is one.
        standard_error: Of that mean: over seeds and validation images when a point was repeated, else of the one
            run over validation images alone. ``standard_error_source`` says which. How much seeds matter is estimated
            from all repeated points together, of a point that was run once from the others alone.
        runs: Training runs that the mean is over.
        trials: Their numbers.
        confirmed: Whether they are confirming runs; if not, the point was chosen for this mean, which is therefore too
            high on average. None in results that were stored before this was told.
        expected_accuracy: What the sampler expects here from all trials, free of the seed's luck; what points are
            ranked by. None when the sampler has no such belief.
    """

    params: dict[str, float]
    validation_accuracy: float
    standard_error: float
    standard_error_source: Literal["seeds and images", "images"]
    runs: int
    trials: tuple[int, ...]
    confirmed: bool | None = None
    expected_accuracy: float | None = None

    @property
    def basis(self) -> str:
        """What the accuracy and its standard error come from, in words."""
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        if self.confirmed is False:
            runs += ", unconfirmed: the point was chosen for this number, so it is too high on average"
        source = f"standard error over {self.standard_error_source}"
        if self.runs == 1 and self.standard_error_source == "seeds and images":
            source += ", of seeds as at other points, which were run again"
        if self.validation_accuracy == 1.0:
            source += ", which with so many images does not take 100 % for certain"
        return f"{runs}; {source}"


class BestView(CandidateView):
    """The recommended point.

    Attributes:
        weights_trial: The run whose weights are kept.
        weights: Path of those weights on the server.
        weights_url: Where to fetch them; None until the job has ended.
        test: Measured once, on data that no trial has seen; None until the job has ended.
        report: Path of the report on the server; None until the job has ended.
        stop_reason: Why the search ended; None while it runs.
        epochs_saved: Epochs that trials did not train because they were stopped early (``search.pruner``).
        runner_up: The next best point, of the confirmed ones if there are several; None if there is no other.
        told_apart: Whether it is worse by more than the standard error of the difference; None without one, or while no
            repeated run tells how much the seed matters.
        largest_class_share: The validation accuracy of always naming the largest class; None where that is not known.
    """

    weights_trial: int
    weights: str | None = None
    weights_url: str | None = None
    test: Evaluation | None = None
    report: str | None = None
    stop_reason: str | None = None
    epochs_saved: int = 0
    runner_up: CandidateView | None = None
    told_apart: bool | None = None
    largest_class_share: float | None = None

    @property
    def basis(self) -> str:
        """As of any point; and whether it is no better than no network at all."""
        share = self.largest_class_share
        if share is None or self.validation_accuracy > share:
            return super().basis
        return f"{super().basis}; no better than always naming the largest class, {100 * share:.2f} %"

    @property
    def rivalry(self) -> str | None:
        """How the runner-up compares, in words; None if there is none."""
        other = self.runner_up
        if other is None:
            return None
        point = ", ".join(f"{knob} {value:.4g}" for knob, value in other.params.items())
        runs = ("1 run" if other.runs == 1 else f"{other.runs} runs") + ("" if other.confirmed else ", unconfirmed")
        accuracy = f"{100 * other.validation_accuracy:.2f} % ± {100 * other.standard_error:.2f} % ({runs}) at {point}"
        if (more := self._doubts(other)) is not None:
            return f"{accuracy}; {more}"
        if self.told_apart is None:
            return f"{accuracy}; how much of the difference is the seed's luck is not known without repeated runs"
        if self.told_apart:
            return f"{accuracy}; worse by more than the standard error"
        return f"{accuracy}; the two cannot be told apart, the difference is within the standard error"

    def _doubts(self, other: CandidateView) -> str | None:
        """That the sampler expects more of a point without a confirming run than of this one, if it does."""
        mine, others = self.expected_accuracy, other.expected_accuracy
        if not self.confirmed or other.confirmed or mine is None or others is None or others <= mine:
            return None
        return (
            f"the sampler now expects more of it, {100 * others:.2f} % against {100 * mine:.2f} %, though no run has "
            "confirmed it; more trials (extend) would tell"
        )


class JobView(_View):
    """One job.

    Attributes:
        user: Whose it is, the ``share.user`` of its spec; None where nobody was named.
        reason: Why it is in this state, for a person.
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
        reason: Why it failed, was cancelled or was stopped early; empty otherwise.
        attempts: How often it was started.
        seconds: Wall time of its attempts so far.
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
