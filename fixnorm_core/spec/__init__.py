"""The job, in one definition: the job file, the REST body, the stored row and what a worker receives.

Unknown fields are refused on input (:meth:`JobSpec.model_validate`) and ignored when a stored spec is read back
(:meth:`JobSpec.from_stored`), so that an older release can read what a newer one wrote. Everything is frozen.
"""

from __future__ import annotations

from fixnorm_core.spec.data import DataSpec, ModelSpec
from fixnorm_core.spec.duration import duration_text
from fixnorm_core.spec.job import JobSpec, ResourceSpec, ShareSpec, TrialSpec
from fixnorm_core.spec.moment import moment_text
from fixnorm_core.spec.search import (
    BudgetSpec,
    Method,
    PrunerName,
    Range,
    SamplerName,
    SearchSpec,
    Summary,
    WeightDecayRun,
)
from fixnorm_core.spec.start import equivalent_start_of
from fixnorm_core.spec.training import CheckpointSpec, OptimizerSpec, RandAugmentSpec, ScheduleSpec, TrainingSpec
from fixnorm_core.spec.warm_start import WarmStart, warm_starts_of

__all__ = [
    "BudgetSpec",
    "CheckpointSpec",
    "DataSpec",
    "JobSpec",
    "Method",
    "ModelSpec",
    "OptimizerSpec",
    "PrunerName",
    "RandAugmentSpec",
    "Range",
    "ResourceSpec",
    "SamplerName",
    "ScheduleSpec",
    "SearchSpec",
    "ShareSpec",
    "Summary",
    "TrainingSpec",
    "TrialSpec",
    "WarmStart",
    "WeightDecayRun",
    "duration_text",
    "equivalent_start_of",
    "moment_text",
    "warm_starts_of",
]
