"""From a job's search section to an Optuna sampler."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from fixnorm_core.errors import SpecError
from fixnorm_core.extras import install_command
from fixnorm_core.spec import (
    Method,
    PrunerName,
    SamplerName,
    SearchSpec,
    TrainingSpec,
    equivalent_start_of,
    warm_starts_of,
)
from fixnorm_core.tuning.hints import Hint
from fixnorm_core.tuning.pruner import CurvePruner
from fixnorm_core.tuning.sampler import FixNormSampler
from fixnorm_core.tuning.screening import N_SCREENED, ScreeningPruner

__all__ = ["build_pruner", "build_sampler", "default_start", "first_point", "search_space"]

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

    FixNormSampler takes :func:`first_point` for a hint, all of ``search.warm_start`` and the default start too; CMA-ES
    takes it as its first mean; Optuna's others have no place for it.

    Args:
        search: Names the sampler and the knobs.
        training: What ``start_from``, ``warm_start``, or a default first point when the search gives none, is derived
            from; None starts at the centre.
        seed: Seeds the sampler.

    Raises:
        SpecError: The sampler needs a package that is not installed.
    """
    match search.sampler:
        case SamplerName.FIXNORM:
            start, hints = _start_and_hints(search, training)
            n_screened = N_SCREENED if training is not None and _screens(search, training) else 0
            return FixNormSampler(search_space(search), seed=seed, start=start, hints=hints, n_screened=n_screened)
        case SamplerName.TPE:
            return TPESampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
        case SamplerName.GP:
            _require("torch", sampler=search.sampler, extra="training")
            return GPSampler(seed=seed, n_startup_trials=_STARTUP_TRIALS)
        case SamplerName.CMAES:
            _require("cmaes", sampler=search.sampler, extra="server")
            return CmaEsSampler(seed=seed, x0=first_point(search, training=training))
        case SamplerName.QMC:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # a job that names it has chosen it
                return QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False)
        case SamplerName.RANDOM:
            return RandomSampler(seed=seed)


def first_point(search: SearchSpec, *, training: TrainingSpec | None) -> dict[str, float] | None:
    """The first point that the job names: its start, or what it derives one from; None if it names none.

    Of several warm starts it is the first one's best point, moved into the ranges.
    """
    if search.start is not None or training is None:
        return search.start
    warm = warm_starts_of(search, training=training)
    return equivalent_start_of(search, training=training) or (warm[0].inside if warm else None)


def build_pruner(search: SearchSpec, *, training: TrainingSpec) -> BasePruner:
    """The pruner that a job asks for."""
    match search.pruner:
        case PrunerName.NONE:
            return NopPruner()
        case PrunerName.CURVE:
            return CurvePruner(n_steps=training.epochs)
        case PrunerName.SCREENING:
            return ScreeningPruner(n_steps=training.epochs) if _screens(search, training) else NopPruner()


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


def _screens(search: SearchSpec, training: TrainingSpec) -> bool:
    """Whether short runs come first: not where a first point is known, which is near the best already."""
    known = first_point(search, training=training) or default_start(search, training=training)
    return search.pruner is PrunerName.SCREENING and training.epochs > 1 and known is None


def _start_and_hints(
    search: SearchSpec, training: TrainingSpec | None
) -> tuple[dict[str, float] | None, tuple[Hint, ...]]:
    """FixNormSampler's; with warm starts the default start is one more hint, lest they mislead."""
    if training is None:
        return search.start, ()
    given = search.start or equivalent_start_of(search, training=training)
    default = default_start(search, training=training)
    parents = tuple(
        Hint.elsewhere(each.params, each.summary.spread) for each in warm_starts_of(search, training=training)
    )
    if given is not None or not parents:
        return given or default, parents
    return None, (*parents, *(() if default is None else (Hint(default),)))


def _require(package: str, *, sampler: SamplerName, extra: str) -> None:
    if find_spec(package) is None:
        raise SpecError(
            f"search.sampler is {sampler!s}, which needs the package {package}, and it is not installed",
            f"Choose another sampler, or install its package: {install_command(extra)}",
        )
