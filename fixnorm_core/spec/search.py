"""What is tuned, by whom, and when to stop."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fixnorm_core.spec.base import Fraction, Spec
from fixnorm_core.spec.data import DataSpec, ModelSpec
from fixnorm_core.spec.duration import Duration
from fixnorm_core.spec.moment import Moment
from fixnorm_core.spec.training import TrainingSpec

__all__ = [
    "DEFAULT_SPACE",
    "BudgetSpec",
    "Method",
    "PrunerName",
    "Range",
    "SamplerName",
    "SearchSpec",
    "Summary",
    "WeightDecayRun",
]


class Method(StrEnum):
    """What is tuned."""

    FIXNORM = "fixnorm"
    """(lr, fc_norm): scale-invariant weights at a fixed norm, the head under a bound, no weight decay."""

    WEIGHT_DECAY = "weight_decay"
    """(lr, weight_decay): the usual training, for comparison."""


class SamplerName(StrEnum):
    """Who proposes the next point: ours, or one of Optuna's samplers."""

    FIXNORM = "fixnorm"
    TPE = "tpe"
    GP = "gp"
    CMAES = "cmaes"
    QMC = "qmc"
    RANDOM = "random"


class PrunerName(StrEnum):
    """Who stops a trial before its last epoch."""

    NONE = "none"
    """Nobody: every trial trains to its end."""

    CURVE = "curve"
    """A trial ends when it has next to no chance to beat the best one, judged by the curves of the job's own trials."""

    SCREENING = "screening"
    """The first four trials end after a sixteenth of their epochs: they show which learning rates are worth a whole
    run. None does where a first point is known, be it a start, a parent's or the default one."""


class Range(Spec):
    """A range of positive numbers, searched on a log scale. Written ``[low, high]`` or ``{low: ..., high: ...}``."""

    low: float
    high: float

    @model_validator(mode="before")
    @classmethod
    def _accept_pair(cls, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            if len(value) != 2:
                raise ValueError(f"{list(value)!r} has {len(value)} numbers; a range is a pair: write [low, high]")
            return {"low": value[0], "high": value[1]}
        return value

    @model_validator(mode="after")
    def _is_searchable(self) -> Self:
        if self.low <= 0:
            raise ValueError(f"low is {self.low:g}; it is searched on a log scale: give a low above zero")
        if self.low >= self.high:
            raise ValueError(
                f"[{self.low:g}, {self.high:g}] is empty; low must be below high: swap the two or widen the range"
            )
        return self

    @property
    def centre(self) -> float:
        """The geometric middle."""
        return math.sqrt(self.low * self.high)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


DEFAULT_SPACE: dict[Method, dict[str, Range]] = {
    Method.FIXNORM: {"lr": Range(low=1e-4, high=1.0), "fc_norm": Range(low=0.25, high=16.0)},
    Method.WEIGHT_DECAY: {"lr": Range(low=1e-3, high=3.0), "weight_decay": Range(low=1e-6, high=1e-1)},
}


class WeightDecayRun(Spec):
    """A tuned weight-decay run to start from (``fixnorm_core.equivalent_start``).

    Attributes:
        lr: Its highest learning rate.
        weight_decay: Its decay, as torch counts it.
        momentum: Its momentum.
        optimizer: SGD alone: AdamW's equivalent depends on the sizes of the weights, which no job file knows.
    """

    lr: Annotated[float, Field(gt=0.0)]
    weight_decay: Annotated[float, Field(gt=0.0)]
    momentum: Fraction = 0.9
    optimizer: Literal["sgd", "adamw"] = "sgd"

    @field_validator("optimizer")
    @classmethod
    def _has_an_equivalent(cls, name: str) -> str:
        if name == "adamw":
            raise ValueError(
                "adamw has no equivalent start that a job file could give, since it depends on the sizes of the "
                "weights: compute one with fixnorm_core.equivalent_start(elements=...) and write it as search.start"
            )
        return name


class Summary(Spec):
    """What a finished job has learned, as far as another one can begin with it.

    Attributes:
        job: The job's id.
        method: What it tuned.
        model: Of which network.
        data: On which images.
        training: Trained how.
        params: The point that it recommends.
        spread: By knob, how far from that point the best one may be for all that its trials say: a standard deviation
            in natural logarithms, so 0.7 is a factor of two.
        validation_accuracy: At that point.
        trials: Finished training runs that this rests on.
    """

    job: str = Field(min_length=1, max_length=200)
    method: Method
    model: ModelSpec
    data: DataSpec
    training: TrainingSpec
    params: dict[str, Annotated[float, Field(gt=0.0)]]
    spread: dict[str, Annotated[float, Field(ge=0.0)]]
    validation_accuracy: float
    trials: int = Field(ge=1)

    @model_validator(mode="after")
    def _has_its_knobs(self) -> Self:
        knobs = DEFAULT_SPACE[self.method].keys()
        for name, values in (("params", self.params), ("spread", self.spread)):
            if values.keys() != knobs:
                raise ValueError(
                    f"{name} of the summary of {self.job} has {sorted(values)}; method {self.method} has the knobs "
                    f"{sorted(knobs)}: give one value for each"
                )
        return self


class SearchSpec(Spec):
    """What is tuned, over which ranges, by whom.

    Attributes:
        method: FixNorm's two knobs, or weight decay's.
        sampler: Who proposes points.
        pruner: Whether trials are stopped before their last epoch, and which.
        space: The range of each knob; a knob that is left out gets its default range.
        start: A first point to try, by knob; None leaves it to the sampler.
        start_from: A tuned weight-decay run to derive the first point from, in place of ``start``.
        warm_start: Finished jobs of the same method to learn from: ids, or what they have learned. A job that is stored
            holds the latter only, so that it needs those jobs no more. ``start`` and ``start_from`` come before them.
    """

    method: Method = Method.FIXNORM
    sampler: SamplerName = SamplerName.FIXNORM
    pruner: PrunerName = PrunerName.NONE
    space: dict[str, Range] = Field(default_factory=dict)
    start: dict[str, float] | None = None
    start_from: WeightDecayRun | None = None
    warm_start: tuple[str | Summary, ...] = Field(default=(), max_length=20)

    @field_validator("space")
    @classmethod
    def _fill(cls, space: dict[str, Range], info: Any) -> dict[str, Range]:
        method = info.data.get("method")
        if method is None:  # the method itself was refused; its own error is enough
            return space
        knobs = DEFAULT_SPACE[method]
        if unknown := sorted(space.keys() - knobs.keys()):
            raise ValueError(f"method {method} has no knob {unknown[0]!r}; its knobs are {', '.join(knobs)}")
        return {knob: space.get(knob, default) for knob, default in knobs.items()}

    @model_validator(mode="after")
    def _screens_for_fixnorm(self) -> Self:
        if self.pruner is PrunerName.SCREENING and self.sampler is not SamplerName.FIXNORM:
            raise ValueError(
                f"pruner {self.pruner} needs sampler fixnorm, and it is {self.sampler}: only fixnorm learns from short "
                "runs where to begin. Choose it, or pruner curve"
            )
        return self

    @field_validator("warm_start", mode="before")
    @classmethod
    def _accept_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, (str, dict, Summary)) else value

    @field_validator("warm_start")
    @classmethod
    def _names_each_once(cls, parents: tuple[str | Summary, ...]) -> tuple[str | Summary, ...]:
        names = [parent if isinstance(parent, str) else parent.job for parent in parents]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice, which would not make it surer: name it once")
        return parents

    @model_validator(mode="after")
    def _start_is_inside(self) -> Self:
        if self.start is None:
            return self
        if self.start.keys() != self.space.keys():
            raise ValueError(f"start has {sorted(self.start)}; it needs one value for each of {sorted(self.space)}")
        for knob, value in self.start.items():
            if value not in self.space[knob]:
                low, high = self.space[knob].low, self.space[knob].high
                raise ValueError(
                    f"start.{knob} is {value:g}, outside its range [{low:g}, {high:g}]: move it or widen the range"
                )
        return self

    @model_validator(mode="after")
    def _start_is_given_once(self) -> Self:
        if self.start_from is None:
            return self
        if self.method is Method.WEIGHT_DECAY:
            raise ValueError(
                "start_from is given, but method is weight_decay, which can begin at the run itself: write its lr and "
                "weight_decay as start, or tune method fixnorm"
            )
        if self.start is not None:
            raise ValueError("start and start_from are both given, and there is one first point: keep one of them")
        return self


class BudgetSpec(Spec):
    """When to stop, and what to make sure of then.

    Attributes:
        max_trials: Finished training runs at most, confirming runs and those that ``search.pruner`` stopped included.
        parallel_trials: Training runs at once at most.
        confirm_top_k: So many of the best points are run again at the end, to choose among them.
        confirm_runs: Runs of each of these points with new seeds, for its mean and standard error.
        stop_early: Let the sampler end the search when it expects no more gain (FixNormSampler only).
        tolerance: A gain in accuracy that is not worth a trial: for ``stop_early``, and for what counts as progress.
        target_accuracy: The search ends as soon as a trial's final validation accuracy reaches it.
        max_time: Of the whole job, from the start of its first trial; a stopped server's time counts, a pause does not.
        deadline: When the job is to be over, by the clock; its time in the queue counts as well.
        max_trial_time: Of one try at a trial, or at measuring the test accuracy: one that takes longer (it may hang) is
            ended as failed, and counts for ``max_failures``.
        max_time_without_progress: The search ends so long after the trial that last raised the best accuracy by more
            than ``tolerance``, less what the job was paused.
        max_trials_without_progress: Likewise, after so many further search trials.
        max_failures: The job fails after this many trials in a row have failed.
        max_failed: Likewise, after this many in all.
    """

    max_trials: int = Field(default=12, ge=1)
    parallel_trials: int = Field(default=1, ge=1)
    confirm_top_k: int = Field(default=1, ge=1)
    confirm_runs: int = Field(default=2, ge=0)
    stop_early: bool = True
    tolerance: Fraction = 0.0
    target_accuracy: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    max_time: Duration | None = None
    deadline: Moment | None = None
    max_trial_time: Duration | None = None
    max_time_without_progress: Duration | None = None
    max_trials_without_progress: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=3, ge=1)
    max_failed: int | None = Field(default=None, ge=1)

    @property
    def confirming_trials(self) -> int:
        """Runs that are kept to confirm points."""
        return self.confirm_top_k * self.confirm_runs

    @property
    def search_trials(self) -> int:
        """Runs that the search may use."""
        return self.max_trials - self.confirming_trials

    @model_validator(mode="after")
    def _leaves_room_to_search(self) -> Self:
        if self.search_trials < 1:
            points = f" for each of confirm_top_k {self.confirm_top_k}" if self.confirm_top_k > 1 else ""
            lower = "confirm_runs or confirm_top_k" if self.confirm_top_k > 1 else "confirm_runs"
            raise ValueError(
                f"confirm_runs is {self.confirm_runs}{points} of max_trials {self.max_trials}, which leaves no trial "
                f"to search with: raise max_trials or lower {lower}"
            )
        return self
