"""From a tuned weight-decay run, as a job file gives it, to the first point of the search."""

from __future__ import annotations

from fixnorm_core.method.equilibrium import equivalent_start
from fixnorm_core.spec.search import SearchSpec
from fixnorm_core.spec.training import TrainingSpec

__all__ = ["recipe_start"]


def recipe_start(search: SearchSpec, *, training: TrainingSpec) -> dict[str, float] | None:
    """The first point that ``search.start_from`` stands for, or None without it.

    It is :func:`fixnorm_core.method.equilibrium.equivalent_start`'s. Where the job's momentum ``m`` is another than the
    recipe's, ``lr / (1 - m)`` is kept, as everywhere in this project; that part is not confirmed by simulation.

    Raises:
        ValueError: If the job's training has no equivalent of it, or the point lies outside the search space.
    """
    recipe = search.start_from
    if recipe is None:
        return None
    optimizer, norm = training.optimizer, training.weight_norm
    if optimizer.name != recipe.optimizer:
        raise ValueError(
            f"search.start_from is a run of {recipe.optimizer}, and training.optimizer is {optimizer.name}: train with "
            f"{recipe.optimizer}, or give search.start"
        )
    if norm == "init":
        raise ValueError(
            "search.start_from needs one norm for all weights, and training.weight_norm is init: set it to a number "
            "(1), or give search.start"
        )
    start = equivalent_start(lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum, weight_norm=norm)
    start["lr"] *= (1 - optimizer.momentum) / (1 - recipe.momentum)
    for knob, value in start.items():
        if value not in search.space[knob]:
            low, high = search.space[knob].low, search.space[knob].high
            raise ValueError(
                f"search.start_from leads to {knob} {value:.4g}, outside search.space.{knob} [{low:g}, {high:g}]: "
                "widen that range, or give search.start"
            )
    return start
