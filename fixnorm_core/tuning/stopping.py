"""When to stop: nothing left to gain that the noise of the seed would not hide."""

from __future__ import annotations

import numpy as np

from fixnorm_core.tuning.belief import Belief, Observations, standardize
from fixnorm_core.tuning.search import candidates

__all__ = ["reason_to_stop"]


def reason_to_stop(observations: Observations, *, rng: np.random.Generator, tolerance: float = 0.0) -> str | None:
    """A sentence that says why the search can end, or None.

    The search ends when knowing the whole surface would be expected to gain no more over the incumbent than one
    standard deviation of the seed noise, or than ``tolerance`` where that is larger. Before that, ``3 d + 1`` trials
    must have ended that neither diverged nor were hopeless: a peak has that many coefficients (its height, and for each
    knob its place and how fast either side falls), so fewer trials fit a peak anywhere. In
    benchmarks/sampler_sketch.py fewer stopped at the wrong place.

    Args:
        observations: ``n`` finished trials of ``d`` knobs.
        rng: Draws the prior's shapes and the points that are compared.
        tolerance: A gain that is not worth a trial, in the objective's unit; zero when any is.
    """
    standard = standardize(observations.values, passed_cliff=observations.passed_cliff)
    informative = int(np.sum(~observations.passed_cliff & (standard.values > -1.0)))
    if standard.scale == 0.0 or informative < 3 * observations.points.shape[1] + 1:
        return None
    belief = Belief.learn(observations, rng=rng)
    incumbent = belief.incumbent()
    regret = belief.regret(candidates(incumbent, rng=rng), of=incumbent)
    enough, name = (tolerance, "tolerance") if tolerance > belief.noise else (belief.noise, "seed noise")
    if regret >= enough:
        return None
    return (
        f"No point is expected to gain more than the {name} ({enough:.2g} in the objective's unit): "
        f"the expected gain over the best point is {regret:.2g} after {len(observations.values)} trials."
    )
