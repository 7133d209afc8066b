"""The samplers that are compared, each at the settings that a careful user would try for a dozen trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

from fixnorm_core.tuning.sampler import FixNormSampler

__all__ = ["RIVALS", "Rival"]

Space = Mapping[str, BaseDistribution]
Start = dict[str, float] | None


@dataclass(frozen=True)
class Rival:
    """A sampler at one setting.

    Attributes:
        build: From a search space, a seed and the first point, if there is a given one.
        started: Whether its first trial is the trainer's default start, where that lies inside the box.
        decay: Whether it searches (lr, weight_decay) of the same task instead.
        omniscient: Whether it is the oracle, which is built from the surface itself.
    """

    build: Callable[[Space, int, Start], BaseSampler]
    started: bool = False
    decay: bool = False
    omniscient: bool = False


def _fixnorm(space: Space, seed: int, start: Start) -> BaseSampler:
    return FixNormSampler(space, seed=seed, start=start)


def _gp(startup: int) -> Callable[[Space, int, Start], BaseSampler]:
    return lambda _space, seed, _start: GPSampler(seed=seed, n_startup_trials=startup)


def _tpe(startup: int, *, multivariate: bool = False) -> Callable[[Space, int, Start], BaseSampler]:
    def build(_space: Space, seed: int, _start: Start) -> BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=seed, n_startup_trials=startup, multivariate=multivariate)

    return build


def _cmaes(_space: Space, seed: int, _start: Start) -> BaseSampler:
    return CmaEsSampler(seed=seed)


def _qmc(_space: Space, seed: int, _start: Start) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return QMCSampler(seed=seed, scramble=True, warn_asynchronous_seeding=False)


def _random(_space: Space, seed: int, _start: Start) -> BaseSampler:
    return RandomSampler(seed=seed)


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
    "oracle": Rival(_random, omniscient=True),
}
