"""When to stop: nothing left to gain that the noise of the seed would not hide."""

from __future__ import annotations

import numpy as np

from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.belief import Belief
from fixnorm_core.tuning.search import candidates

__all__ = ["reason_to_stop"]

_DRAWS = 256
# The best of a single place is not told from luck.
_MIN_TRIALS = 3


def reason_to_stop(belief: Belief, axes: Axes, *, rng: np.random.Generator, tolerance: float = 0.0) -> str | None:
    """A sentence that says why the search can end, or None.

    The search ends when knowing the whole surface would be expected to gain no more over the best point than one
    standard deviation of the seed noise, or than ``tolerance`` where that is larger.

    Args:
        belief: What the finished trials say.
        axes: The ``d`` searched parameters.
        rng: Draws surfaces and the points that are compared.
        tolerance: A gain that is not worth a trial, in the objective's unit; zero when any is.
    """
    known = ~belief.observations.passed_cliff
    tried, values = belief.observations.points[known], belief.observations.values[known]
    if len(tried) < _MIN_TRIALS or np.ptp(values) == 0.0:
        return None
    points = np.vstack([candidates(axes, tried, rng=rng), tried])
    draws = belief.draw(points, _DRAWS, rng=rng)
    regret = float(draws.regrets.mean(axis=0)[-len(tried) :].min())
    enough, name = (tolerance, "tolerance") if tolerance > belief.noise else (belief.noise, "seed noise")
    if regret >= enough:
        return None
    return (
        f"No point is expected to gain more than the {name} ({enough:.2g} in the objective's unit): "
        f"the expected gain over the best point is {regret:.2g} after {len(belief.observations.values)} trials."
    )
