"""FixNorm for image classifiers: the method, its trainer and its few-trial sampler.

Importing this package imports neither torch nor Optuna; each public name loads its own module when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fixnorm_core.method.equilibrium import equivalent_start
    from fixnorm_core.method.groups import parameter_groups
    from fixnorm_core.method.roles import Roles, find_roles
    from fixnorm_core.method.step import FixNorm
    from fixnorm_core.spec import JobSpec, TrialSpec
    from fixnorm_core.training.trainer import Trainer
    from fixnorm_core.training.weights import load_classifier
    from fixnorm_core.tuning.hints import Hint
    from fixnorm_core.tuning.sampler import FixNormSampler

__all__ = [
    "FixNorm",
    "FixNormSampler",
    "Hint",
    "JobSpec",
    "Roles",
    "Trainer",
    "TrialSpec",
    "equivalent_start",
    "find_roles",
    "load_classifier",
    "parameter_groups",
]

_HOME = {
    "FixNorm": "fixnorm_core.method.step",
    "FixNormSampler": "fixnorm_core.tuning.sampler",
    "Hint": "fixnorm_core.tuning.hints",
    "JobSpec": "fixnorm_core.spec",
    "Roles": "fixnorm_core.method.roles",
    "Trainer": "fixnorm_core.training.trainer",
    "TrialSpec": "fixnorm_core.spec",
    "equivalent_start": "fixnorm_core.method.equilibrium",
    "find_roles": "fixnorm_core.method.roles",
    "load_classifier": "fixnorm_core.training.weights",
    "parameter_groups": "fixnorm_core.method.groups",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
