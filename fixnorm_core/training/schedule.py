"""The learning rate over a run: linear warm-up, then a cosine (arXiv 1608.03983, eq. 5), a line or steps."""

from __future__ import annotations

import math

from fixnorm_core.spec import ScheduleSpec

__all__ = ["learning_rate_factor"]

_COSINE = ScheduleSpec()


def learning_rate_factor(step: int, *, steps: int, warmup_fraction: float, schedule: ScheduleSpec = _COSINE) -> float:
    """The factor on the base learning rate for one optimizer step; a pure function, so a resume needs no state.

    Args:
        step: Counted from 0 over the whole run.
        steps: Optimizer steps of the whole run.
        warmup_fraction: Share of them with a rising rate; at least the last step is not warm-up.
        schedule: What follows.

    Returns:
        In (0, 1]: ``(step + 1) / warmup`` at first. Cosine and line are 1 at their first step and would reach 0 one
        step after the last. Milestones are shares of all ``steps``; one that lies in the warm-up is in force after it.
        All of it raised to ``schedule.power``, by default 1.

    Raises:
        ValueError: If ``step`` is not in [0, steps).
    """
    if not 0 <= step < steps:
        raise ValueError(f"step is {step} of {steps}; it must be in [0, {steps})")
    warmup = min(round(warmup_fraction * steps), steps - 1)
    share = _share(step, steps=steps, warmup=warmup, schedule=schedule)
    return math.pow(share, 1.0 if schedule.power is None else schedule.power)


def _share(step: int, *, steps: int, warmup: int, schedule: ScheduleSpec) -> float:
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name == "step":
        return schedule.factor ** sum(step >= round(milestone * steps) for milestone in schedule.milestones)
    if schedule.name == "linear":
        return 1 - (step - warmup) / (steps - warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
