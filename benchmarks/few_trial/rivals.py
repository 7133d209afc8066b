"""The samplers that are compared, each at the settings that a careful user would try for a dozen trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from few_trial.oracle import Oracle
from few_trial.surfaces import Landscape
from fixnorm_core.tuning.sampler import FixNormSampler

__all__ = ["RIVALS", "Entry", "Rival"]


@dataclass(frozen=True)
class Entry:
    """What a sampler is told before its first trial.

    Attributes:
        space: The box.
        seed: Of the sampler.
        start: A first point, if there is a given one.
        surface: The truth, which only the oracle looks at.
    """

    space: Mapping[str, BaseDistribution]
    seed: int
    start: dict[str, float] | None
    surface: Landscape | None


@dataclass(frozen=True)
class Rival:
    """A sampler at one setting.

    Attributes:
        build: Makes it.
        started: Whether its first trial is the trainer's default start, where that lies inside the box.
        decay: Whether it searches (lr, weight_decay) of the same task instead.
        recorded_alone: Whether it needs a recorded surface.
    """

    build: Callable[[Entry], BaseSampler]
    started: bool = False
    decay: bool = False
    recorded_alone: bool = False


def _fixnorm(entry: Entry) -> BaseSampler:
    return FixNormSampler(entry.space, seed=entry.seed, start=entry.start)


def _gp(startup: int) -> Callable[[Entry], BaseSampler]:
    return lambda entry: GPSampler(seed=entry.seed, n_startup_trials=startup)


def _tpe(startup: int, *, multivariate: bool = False) -> Callable[[Entry], BaseSampler]:
    def build(entry: Entry) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=entry.seed, n_startup_trials=startup, multivariate=multivariate)

    return build


def _cmaes(entry: Entry) -> BaseSampler:
    return CmaEsSampler(seed=entry.seed)


def _qmc(entry: Entry) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(seed=entry.seed, scramble=True, warn_asynchronous_seeding=False)


def _random(entry: Entry) -> BaseSampler:
    return RandomSampler(seed=entry.seed)


def _oracle(entry: Entry) -> BaseSampler:
    assert entry.surface is not None
    return Oracle(entry.surface, entry.space, seed=entry.seed)


RIVALS: dict[str, Rival] = {
    "FixNorm": Rival(_fixnorm),
    "GP": Rival(_gp(10)),
    "GP, 4 start-up": Rival(_gp(4)),
    "GP, 2 start-up": Rival(_gp(2)),
    "TPE": Rival(_tpe(10)),
    "TPE, 4 start-up": Rival(_tpe(4)),
    "TPE, multivariate": Rival(_tpe(4, multivariate=True)),
    "CMA-ES": Rival(_cmaes),
    "QMC": Rival(_qmc),
    "random": Rival(_random),
    "FixNorm, default start": Rival(_fixnorm, started=True),
    "GP, default start": Rival(_gp(4), started=True),
    "TPE, default start": Rival(_tpe(4), started=True),
    "CMA-ES, default start": Rival(_cmaes, started=True),
    "GP on weight decay": Rival(_gp(4), decay=True),
    "oracle": Rival(_oracle, recorded_alone=True),
}
