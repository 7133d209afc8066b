"""The whole job, and one training run of it."""

from __future__ import annotations

import math
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fixnorm_core.spec.base import Spec
from fixnorm_core.spec.data import DataSpec, ModelSpec
from fixnorm_core.spec.search import DEFAULT_SPACE, BudgetSpec, Method, SearchSpec
from fixnorm_core.spec.start import equivalent_start_of
from fixnorm_core.spec.training import TrainingSpec
from fixnorm_core.spec.warm_start import warm_starts_of

__all__ = ["CODE_BYTES", "JobSpec", "ResourceSpec", "ShareSpec", "TrialSpec"]


CODE_BYTES = 256 * 2**10
"""A Python file that comes with a job has at most this."""


class ResourceSpec(Spec):
    """What each trial holds while it runs.

    Attributes:
        cpus_per_trial: CPU cores, a thousandth at least; also the number of torch threads (at least one), of all ranks
            together.
        gpus_per_trial: GPUs; whole numbers, or a fraction below one, a thousandth at least, to share a GPU. With
            several, as many ranks train the trial.
        ranks_per_trial: Processes that train a trial together, each on its part of every batch. None takes one for each
            GPU, and one without any. Several on CPUs alone are for trying it out.
        nodes_per_trial: Machines that the ranks of a trial are on, as many on each; all that it holds is divided over
            them likewise.
    """

    cpus_per_trial: float = Field(default=1.0, ge=0.001)
    gpus_per_trial: float = Field(default=0.0, ge=0)
    ranks_per_trial: int | None = Field(default=None, ge=1)
    nodes_per_trial: int = Field(default=1, ge=1)

    @field_validator("gpus_per_trial")
    @classmethod
    def _is_whole_above_one(cls, value: float) -> float:
        if value > 1 and value != int(value):
            raise ValueError(f"{value:g} GPUs cannot be held; above one, ask for a whole number")
        if 0 < value < 0.001:
            raise ValueError(f"{value:g} GPUs cannot be held; ask for 0, or for a thousandth of one at least")
        return value

    @model_validator(mode="after")
    def _has_a_gpu_for_each_rank(self) -> Self:
        if self.ranks_per_trial is not None and self.gpus_per_trial > 0 and self.ranks_per_trial != self._by_gpus:
            raise ValueError(
                f"ranks_per_trial is {self.ranks_per_trial} and gpus_per_trial {self.gpus_per_trial:g}, and each rank "
                "has one GPU: leave ranks_per_trial out"
            )
        return self

    @model_validator(mode="after")
    def _has_as_many_ranks_on_each_node(self) -> Self:
        if self.ranks % self.nodes_per_trial:
            raise ValueError(
                f"nodes_per_trial is {self.nodes_per_trial} and a trial has {self.ranks} rank{'s'[: self.ranks != 1]}, "
                "which cannot be divided over them evenly: ask for as many GPUs on each (gpus_per_trial counts all), "
                "or for fewer nodes"
            )
        return self

    @property
    def ranks(self) -> int:
        """Processes that train a trial together."""
        return self._by_gpus if self.ranks_per_trial is None else self.ranks_per_trial

    @property
    def _by_gpus(self) -> int:
        return max(1, int(self.gpus_per_trial))


class ShareSpec(Spec):
    """What a job gets of the cluster while others want it too.

    Attributes:
        weight: A job of twice the weight holds twice as much as another of its priority, when both want more.
        priority: A job of a higher one goes first whenever there is room; nothing that runs is ended for it.
        user: Whose job it is; any name. Users get equal shares, whatever the number and the weights of their jobs; jobs
            without one share as one user's.
        max_gpus: What its running trials hold together at most; None holds as much as its share has.
        max_cpus: Likewise CPU cores.
    """

    weight: float = Field(default=1.0, gt=0)
    priority: int = Field(default=0, ge=-(2**31), lt=2**31)
    user: str | None = Field(default=None, min_length=1, max_length=100)
    max_gpus: float | None = Field(default=None, gt=0)
    max_cpus: float | None = Field(default=None, gt=0)


class TrialSpec(Spec):
    """One training run: what a worker receives, and what a weights file remembers.

    Attributes:
        method: Decides which of ``params`` are read.
        params: The tuned knobs: ``lr`` and ``fc_norm`` (a multiple of the head's norm at initialisation), or ``lr``
            and ``weight_decay``.
        seed: Seeds initialisation, the order of images and augmentation.
        cpu_threads: Torch's threads, of each rank.
        ranks: Processes that train it together, each on its part of every batch.
    """

    model: ModelSpec
    data: DataSpec
    training: TrainingSpec
    method: Method
    params: dict[str, float]
    seed: int
    cpu_threads: int = Field(default=1, ge=1)
    ranks: int = Field(default=1, ge=1)

    @property
    def reading_processes(self) -> int:
        """How many processes of each rank read streamed images."""
        return self.cpu_threads if self.data.loader_workers is None else self.data.loader_workers

    @model_validator(mode="after")
    def _has_its_knobs(self) -> Self:
        knobs = DEFAULT_SPACE[self.method].keys()
        if self.params.keys() != knobs:
            raise ValueError(f"params are {sorted(self.params)}; method {self.method} needs {sorted(knobs)}")
        return self


class JobSpec(Spec):
    """A whole tuning job.

    Attributes:
        code: The text of a Python file, 256 KiB at most, for models and data sets that are named ``code:factory``. A
            server that allows it keeps the file, and the job then names it by its SHA-256.
        webhook: An http or https address that is told when the job has ended; None tells nobody.
    """

    name: str = Field(default="job", min_length=1, max_length=100)
    model: ModelSpec = ModelSpec()
    data: DataSpec = DataSpec()
    training: TrainingSpec = TrainingSpec()
    search: SearchSpec = SearchSpec()
    budget: BudgetSpec = BudgetSpec()
    resources: ResourceSpec = ResourceSpec()
    share: ShareSpec = ShareSpec()
    seed: int = Field(default=0, ge=0, lt=2**31)
    code: str | None = None
    webhook: str | None = Field(default=None, max_length=2000)

    @field_validator("code")
    @classmethod
    def _is_small(cls, value: str | None) -> str | None:
        if value is not None and (size := len(value.encode())) > CODE_BYTES:
            raise ValueError(
                f"it has {size:,} bytes, and a file has at most {CODE_BYTES:,}: have a module allowed instead"
            )
        return value

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        parts = urlsplit(value) if value is not None else None
        if parts is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError(f"{value!r} is no http or https address")
        return value

    @model_validator(mode="after")
    def _has_the_gpu_it_asks_for(self) -> Self:
        if self.training.device == "cuda" and self.resources.gpus_per_trial == 0:
            raise ValueError(
                "training.device is cuda, but resources.gpus_per_trial is 0, which hides every GPU from the trial: "
                "set gpus_per_trial to 1, or device to auto"
            )
        return self

    @model_validator(mode="after")
    def _has_images_for_each_rank(self) -> Self:
        ranks, images = self.resources.ranks, self.training.batch_size
        if ranks > images:
            raise ValueError(
                f"training.batch_size is {images}, and a trial has {ranks} ranks, so one of them would have no image: "
                "raise batch_size, or lower resources.gpus_per_trial or ranks_per_trial"
            )
        if (
            self.training.sync_batchnorm
            and ranks > 1
            and (self.resources.gpus_per_trial == 0 or self.training.device == "cpu")
        ):
            raise ValueError(
                "training.sync_batchnorm is true for ranks on CPUs, and torch's SyncBatchNorm computes on GPUs alone: "
                "leave it out, take a model with group normalization, or give the trial GPUs"
            )
        return self

    @model_validator(mode="after")
    def _has_room_for_a_trial(self) -> Self:
        for name, what, cap, needed in self._caps():
            if cap is not None and needed > cap:
                raise ValueError(
                    f"share.max_{name} is {cap:g}, but a trial holds {needed:g} {what}, so none could ever start: "
                    f"raise share.max_{name} or lower resources.{name}_per_trial"
                )
        return self

    @model_validator(mode="after")
    def _starts_inside(self) -> Self:
        equivalent_start_of(self.search, training=self.training)
        warm_starts_of(self.search, training=self.training)
        return self

    @property
    def trials_at_once(self) -> int:
        """How many trials may run at once: ``budget.parallel_trials``, or fewer where ``share`` caps what they hold."""
        capped = [cap / needed for _, _, cap, needed in self._caps() if cap is not None and needed > 0]
        return min(self.budget.parallel_trials, *(max(1, math.floor(many + 1e-9)) for many in capped), 2**31)

    def _caps(self) -> tuple[tuple[str, str, float | None, float], ...]:
        share, trial = self.share, self.resources
        return (
            ("gpus", "GPUs", share.max_gpus, trial.gpus_per_trial),
            ("cpus", "CPUs", share.max_cpus, trial.cpus_per_trial),
        )

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
            cpu_threads=max(1, int(self.resources.cpus_per_trial / self.resources.ranks)),
            ranks=self.resources.ranks,
        )
