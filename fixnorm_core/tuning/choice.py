"""From a job's search section to an Optuna sampler."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from fixnorm_core.errors import SpecError
from fixnorm_core.spec import Method, SamplerName, SearchSpec, TrainingSpec, equivalent_start_of
from fixnorm_core.tuning.sampler import FixNormSampler

__all__ = ["build_sampler", "default_start", "search_space"]

# Within a point of the best on four of five recorded surfaces of SGD with momentum 0.9 (benchmarks/few_trial.md)
_LR_AT_UNIT_NORM, _FC_NORM = 0.016, 4.0
_MOMENTUM_OF_LR = 0.9
# Optuna's ten would use up most of a study of a dozen trials.
_STARTUP_TRIALS = 4


def search_space(search: SearchSpec) -> dict[str, BaseDistribution]:
    """One log-scaled distribution for each knob of the search, by name."""
    return {knob: FloatDistribution(values.low, values.high, log=True) for knob, values in search.space.items()}


def build_sampler(search: SearchSpec, *, training: TrainingSpec | None = None, seed: int) -> BaseSampler:
    """The sampler that a job asks for, at settings for a dozen trials.

    FixNormSampler begins at ``search.start``, or at what ``search.start_from`` leads to, CMA-ES takes it as its first
    mean; Optuna's others have no place for it.

    Args:
        search: Names the sampler and the knobs.
        training: What ``start_from``, or a default first point when the search gives none, is derived from; None starts
            at the centre.
        seed: Seeds the sampler.

    Raises:
        SpecError: The sampler needs a package that is not installed.
    """
    given = search.start or (equivalent_start_of(search, training=training) if training else None)
    match search.sampler:
        case SamplerName.FIXNORM:
            start = given or (default_start(search, training=training) if training else None)
            return FixNormSampler(search_space(search), seed=seed, start=start)
        case SamplerName.TPE:
            return TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
        case SamplerName.GP:
            _require("torch", sampler=search.sampler, extra="training")
            return GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
        case SamplerName.CMAES:
            _require("cmaes", sampler=search.sampler, extra="server")
            return CmaEsSampler(seed=seed, x0=given)
        case SamplerName.QMC:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # a job that names it has chosen it
                return QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False)
        case SamplerName.RANDOM:
            return RandomSampler(seed=seed)


def default_start(search: SearchSpec, *, training: TrainingSpec) -> dict[str, float] | None:
    """A first point near the best of the recorded surfaces of benchmarks/few_trial.md, or None where they say nothing.

    They hold for fixed-norm training with SGD. With every scale-invariant weight at norm ``R`` and momentum ``m`` the
    effective learning rate is lr / (R^2 (1 - m)) (van Laarhoven 2017, arXiv 1706.05350), so that is what is kept.

    Returns:
        ``lr`` and ``fc_norm`` (a multiple of the head's norm at initialisation). None for other methods, for AdamW, for
        ``weight_norm: init``, and when a value falls outside its range.
    """
    optimizer, norm = training.optimizer, training.weight_norm
    if search.method != Method.FIXNORM or optimizer.name != "sgd" or norm == "init":
        return None
    lr = _LR_AT_UNIT_NORM * norm**2 * (1.0 - optimizer.momentum) / (1.0 - _MOMENTUM_OF_LR)
    start = {"lr": lr, "fc_norm": _FC_NORM}
    return start if all(value in search.space[knob] for knob, value in start.items()) else None


def _require(package: str, *, sampler: SamplerName, extra: str) -> None:
    if find_spec(package) is None:
        raise SpecError(
            f"search.sampler is {sampler!s}, which needs the package {package}, and it is not installed",
            f"Install fixnorm-tune[{extra}], or choose another sampler.",
        )
