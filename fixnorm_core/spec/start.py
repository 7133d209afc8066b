"""From a tuned weight-decay run, as a job file gives it, to the first point of the search."""

from __future__ import annotations

from fixnorm_core.method.equilibrium import equivalent_start
from fixnorm_core.spec.search import SearchSpec
from fixnorm_core.spec.training import TrainingSpec

__all__ = ["equivalent_start_of"]


def equivalent_start_of(search: SearchSpec, *, training: TrainingSpec) -> dict[str, float] | None:
    """The first point that ``search.start_from`` stands for, or None without it.

    It is :func:`fixnorm_core.method.equilibrium.equivalent_start`'s. Where the job's momentum ``m`` is another than the
    run's, ``lr / (1 - m)`` is kept, as everywhere in this project; that part is not confirmed by simulation.

    Raises:
        ValueError: If the job's training has no equivalent of it, or the point lies outside the search space.
    """
    run = search.start_from
    if run is None:
        return None
    optimizer, norm = training.optimizer, training.weight_norm
    if optimizer.name != run.optimizer:
        raise ValueError(
            f"search.start_from is a run of {run.optimizer}, and training.optimizer is {optimizer.name}: train with "
            f"{run.optimizer}, or give search.start"
        )
    if norm == "init":
        raise ValueError(
            "search.start_from needs one norm for all weights, and training.weight_norm is init: set it to a number "
            "(1), or give search.start"
        )
    start = equivalent_start(lr=run.lr, weight_decay=run.weight_decay, momentum=run.momentum, weight_norm=norm)
    start["lr"] *= (1 - optimizer.momentum) / (1 - run.momentum)
    for knob, value in start.items():
        if value not in search.space[knob]:
            low, high = search.space[knob].low, search.space[knob].high
            raise ValueError(
                f"search.start_from leads to {knob} {value:.4g}, outside search.space.{knob} [{low:g}, {high:g}]: "
                "widen that range, or give search.start"
            )
    return start
