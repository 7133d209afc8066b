"""One study of one sampler on one surface, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import optuna
from optuna.distributions import FloatDistribution
from optuna.study import Study

from few_trial.rivals import RIVALS, Entry
from few_trial.surfaces import Box, Landscape, Point
from fixnorm_core.tuning.sampler import FixNormSampler

__all__ = ["START", "Course", "Surface", "run"]

START: Point = {"lr": 0.016, "fc_norm": 4.0}
"""The trainer's default start (fixnorm_core.tuning.choice) for SGD with momentum 0.9."""


class Surface(Protocol):
    """True accuracy over knobs, and the noise of a run."""

    @property
    def name(self) -> str: ...
    @property
    def knobs(self) -> tuple[str, str]: ...
    @property
    def noise(self) -> float: ...
    @property
    def epsilon(self) -> float: ...
    def truth(self, points: list[Point]) -> npt.NDArray[np.float64]: ...
    def best(self, box: Box) -> float: ...
    def crop(self, rng: np.random.Generator) -> Box: ...


@dataclass(frozen=True)
class Course:
    """A study, trial by trial.

    Attributes:
        rival: Who searched.
        surface: Where.
        seed: Of the sampler, the noise and the crop.
        slots: How many trials ran at once.
        epsilon: What counts as near-optimal, in points.
        first: What the first trial truly lacked of the best in the box, in points.
        regrets: What the recommended trial lacked after each trial. Recommended is the highest observed value so far;
            for FixNormSampler the highest expected value of the points tried.
        stopped: After how many trials the sampler's own stop came; None if it did not, or has none.
    """

    rival: str
    surface: str
    seed: int
    slots: int
    epsilon: float
    first: float
    regrets: list[float]
    stopped: int | None

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What tells courses apart."""
        return self.rival, self.surface, self.seed, self.slots

    @property
    def trials(self) -> int:
        """Trials until the recommended one is truly near-optimal; one more than there were if it never was."""
        return next((n for n, regret in enumerate(self.regrets, 1) if regret <= self.epsilon), len(self.regrets) + 1)


def run(name: str, surface: Surface, *, seed: int, trials: int, slots: int = 1) -> Course:
    """Runs a study in rounds of ``slots`` trials that end together; crop and noise depend on the seed alone."""
    rival = RIVALS[name]
    box = surface.crop(np.random.default_rng((seed, 1)))
    space = {knob: FloatDistribution(box.low[knob], box.high[knob], log=True) for knob in surface.knobs}
    start = _start(box, surface) if rival.started else None
    entry = Entry(space, seed, start, surface if isinstance(surface, Landscape) else None)
    study = optuna.create_study(direction="maximize", sampler=rival.build(entry))
    if start:
        study.enqueue_trial(start)
    noise = surface.noise * np.random.default_rng((seed, 2)).standard_normal(trials)
    tried: list[float] = []
    recommended: list[float] = []
    stopped: int | None = None
    while len(tried) < trials:
        asked = [study.ask(dict(space)) for _ in range(min(slots, trials - len(tried)))]
        for trial, value in zip(asked, surface.truth([trial.params for trial in asked]), strict=True):
            study.tell(trial, float(value + noise[len(tried)]))
            tried.append(float(value))
        recommended += [tried[_recommended(study)]] * len(asked)
        if stopped is None and isinstance(study.sampler, FixNormSampler) and study.sampler.stop_reason(study):
            stopped = len(tried)
    best = surface.best(box)
    return Course(
        rival=name,
        surface=surface.name,
        seed=seed,
        slots=slots,
        epsilon=round(100 * surface.epsilon, 2),
        first=round(100 * (best - tried[0]), 2),
        regrets=[round(100 * (best - value), 2) for value in recommended],
        stopped=stopped,
    )


def _start(box: Box, surface: Surface) -> Point | None:
    """The default start, moved to the border of the box where it lies outside."""
    if START.keys() != set(surface.knobs):
        return None
    return {knob: min(max(value, box.low[knob]), box.high[knob]) for knob, value in START.items()}


def _recommended(study: Study) -> int:
    if isinstance(study.sampler, FixNormSampler):
        return int(np.argmax(study.sampler.expected(study, [trial.params for trial in study.trials])))
    return study.best_trial.number
