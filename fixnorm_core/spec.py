"""The job, in one definition: the job file, the REST body, the stored row and what a worker receives.

Unknown fields are refused on input (:meth:`JobSpec.model_validate`) and ignored when a stored spec is read back
(:meth:`JobSpec.from_stored`), so that an older release can read what a newer one wrote. Everything is frozen.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "BudgetSpec",
    "DataSpec",
    "JobSpec",
    "Method",
    "ModelSpec",
    "OptimizerSpec",
    "Range",
    "ResourceSpec",
    "SamplerName",
    "SearchSpec",
    "TrainingSpec",
    "TrialSpec",
]

OptionValue = bool | int | float | str
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


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


class Range(_Spec):
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


class ModelSpec(_Spec):
    """Which network, by name (``fixnorm-tune models`` lists them).

    Attributes:
        name: A name of ``fixnorm_core.models.catalog``.
        options: Passed on to the model's factory, for example ``{width: 16}``.
        stem: ``"imagenet"`` leaves a torchvision model as it is; ``"small"`` takes its early down-sampling out, for
            small images; ``"auto"`` picks ``"small"`` when images have fewer than 96 pixels a side.
    """

    name: str = "small_resnet"
    options: dict[str, OptionValue] = Field(default_factory=dict)
    stem: Literal["auto", "imagenet", "small"] = "auto"


class DataSpec(_Spec):
    """Which images, and how they are split.

    The test split is what the data set ships as such (``test/`` of an image folder), or ``test_fraction`` of it; no
    trial ever sees it. The validation split is ``val/`` of an image folder, or ``validation_fraction`` of what is
    left. Splits are stratified by class and depend on ``split_seed`` alone.

    Attributes:
        name: A name of ``fixnorm_core.data.catalog``.
        path: The image folder (required for ``imagefolder``), or where a downloaded set is kept.
        image_size: Pixels a side; images of another size are resized (shorter side) and cropped at the centre. None
            keeps the size that all images share.
        flip: Random horizontal flips in training; None takes the data set's default.
        shift: Random shifts in training, at most this many pixels; None takes the data set's default.
        validation_fraction: Share of the training images held out.
        test_fraction: Share held out for the final test where the data set ships no test split.
        train_limit: At most this many training images (stratified); None takes all.
        validation_limit: Likewise for the validation split.
        test_limit: Likewise for the test split.
        split_seed: Seeds the splits and the subsets.
    """

    name: str = "digits"
    path: str | None = None
    image_size: int | None = Field(default=None, ge=4, le=1024)
    flip: bool | None = None
    shift: int | None = Field(default=None, ge=0, le=64)
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    train_limit: int | None = Field(default=None, ge=2)
    validation_limit: int | None = Field(default=None, ge=2)
    test_limit: int | None = Field(default=None, ge=2)
    split_seed: int = Field(default=0, ge=0)


class OptimizerSpec(_Spec):
    """The base optimizer.

    Attributes:
        name: ``"sgd"`` or ``"adamw"`` (torch.optim's); weight decay is set by the search method alone.
        momentum: SGD's momentum, or AdamW's first beta.
        nesterov: SGD only.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = True


class TrainingSpec(_Spec):
    """How one trial trains; everything but the tuned knobs.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: The base optimizer.
        warmup_fraction: Share of all steps in which the learning rate rises linearly; a cosine to zero follows.
        label_smoothing: Of the training loss.
        weight_norm: The norm R at which every scale-invariant weight is held; ``"init"`` keeps each at its own norm
            at initialisation. Ignored by ``method: weight_decay``.
        device: ``"auto"`` takes CUDA where there is a GPU for the trial.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    warmup_fraction: Fraction = 0.1
    label_smoothing: Fraction = 0.0
    weight_norm: Annotated[float, Field(gt=0.0)] | Literal["init"] = 1.0
    device: Literal["auto", "cpu", "cuda"] = "auto"


DEFAULT_SPACE: dict[Method, dict[str, Range]] = {
    Method.FIXNORM: {"lr": Range(low=1e-4, high=1.0), "fc_norm": Range(low=0.25, high=16.0)},
    Method.WEIGHT_DECAY: {"lr": Range(low=1e-3, high=3.0), "weight_decay": Range(low=1e-6, high=1e-1)},
}


class SearchSpec(_Spec):
    """What is tuned, over which ranges, by whom.

    Attributes:
        method: FixNorm's two knobs, or weight decay's.
        sampler: Who proposes points.
        space: The range of each knob; a knob that is left out gets its default range.
        start: A first point to try, by knob; None leaves it to the sampler.
    """

    method: Method = Method.FIXNORM
    sampler: SamplerName = SamplerName.FIXNORM
    space: dict[str, Range] = Field(default_factory=dict)
    start: dict[str, float] | None = None

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


class BudgetSpec(_Spec):
    """When to stop.

    Attributes:
        max_trials: Finished training runs at most, confirming runs included.
        parallel_trials: Training runs at once at most.
        confirm_runs: Of these, runs of the best point with new seeds, for its mean and standard error.
        stop_early: Let the sampler end the search when it expects no more gain (FixNormSampler only).
        max_failures: The job fails after this many trials in a row have failed.
    """

    max_trials: int = Field(default=12, ge=1)
    parallel_trials: int = Field(default=1, ge=1)
    confirm_runs: int = Field(default=2, ge=0)
    stop_early: bool = True
    max_failures: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _leaves_room_to_search(self) -> Self:
        if self.confirm_runs >= self.max_trials:
            raise ValueError(
                f"confirm_runs is {self.confirm_runs} of max_trials {self.max_trials}, which leaves no trial to "
                "search with: raise max_trials or lower confirm_runs"
            )
        return self


class ResourceSpec(_Spec):
    """What each trial holds while it runs.

    Attributes:
        cpus_per_trial: CPU cores; also the number of torch threads (at least one).
        gpus_per_trial: GPUs; whole numbers, or a fraction below one to share a GPU.
    """

    cpus_per_trial: float = Field(default=1.0, gt=0)
    gpus_per_trial: float = Field(default=0.0, ge=0)

    @field_validator("gpus_per_trial")
    @classmethod
    def _is_whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value:g} GPUs cannot be held; above one, ask for a whole number")
        return value


class TrialSpec(_Spec):
    """One training run: what a worker receives, and what a weights file remembers.

    Attributes:
        method: Decides which of ``params`` are read.
        params: The tuned knobs: ``lr`` and ``fc_norm`` (a multiple of the head's norm at initialisation), or ``lr``
            and ``weight_decay``.
        seed: Seeds initialisation, the order of images and augmentation.
        cpu_threads: Torch's threads.
    """

    model: ModelSpec
    data: DataSpec
    training: TrainingSpec
    method: Method
    params: dict[str, float]
    seed: int
    cpu_threads: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _has_its_knobs(self) -> Self:
        knobs = DEFAULT_SPACE[self.method].keys()
        if self.params.keys() != knobs:
            raise ValueError(f"params are {sorted(self.params)}; method {self.method} needs {sorted(knobs)}")
        return self


class JobSpec(_Spec):
    """A whole tuning job."""

    name: str = Field(default="job", min_length=1, max_length=100)
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    training: TrainingSpec = TrainingSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: ResourceSpec = ResourceSpec()
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _has_the_gpu_it_asks_for(self) -> Self:
        if self.training.device == "cuda" and self.resources.gpus_per_trial == 0:
            raise ValueError(
                "training.device is cuda, but resources.gpus_per_trial is 0, which hides every GPU from the trial: "
                "set gpus_per_trial to 1, or device to auto"
            )
        return self

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> Self:
        """Reads a spec that some release of this software wrote; fields that this one does not know are ignored."""
        return cls.model_validate(stored, extra="ignore")

    def trial(self, params: dict[str, float], *, seed: int) -> TrialSpec:
        """The training run of this job at one point of its search space."""
        return TrialSpec(
            model=self.model,
            data=self.data,
            training=self.training,
            method=self.search.method,
            params=params,
            seed=seed,
            cpu_threads=max(1, int(self.resources.cpus_per_trial)),
        )
