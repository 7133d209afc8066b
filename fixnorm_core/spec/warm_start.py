"""From what finished jobs have learned to where a new one should look: their best points in its own units."""

from __future__ import annotations

from dataclasses import dataclass

from fixnorm_core.spec.search import Method, SearchSpec, Summary
from fixnorm_core.spec.training import TrainingSpec

__all__ = ["WarmStart", "warm_starts_of"]


@dataclass(frozen=True, slots=True)
class WarmStart:
    """One finished job's best point, as the new job counts.

    Attributes:
        summary: What that job has learned.
        params: Its best point with the learning rate that turns weights as far in the new job's training. It may lie
            outside the new ranges.
        inside: The same, moved to the nearest end of each range that it lies outside of.
    """

    summary: Summary
    params: dict[str, float]
    inside: dict[str, float]

    @property
    def note(self) -> str:
        """In a sentence for a person: where it is from, and what was made of it."""
        before, words = self.summary.params, []
        for knob, value in self.params.items():
            changed = f" ({before[knob]:.4g} there)" if f"{value:.4g}" != f"{before[knob]:.4g}" else ""
            moved = f", moved to {self.inside[knob]:.4g}, the end of its range" if self.inside[knob] != value else ""
            words.append(f"{knob} {value:.4g}{changed}{moved}")
        return f"{self.summary.job} was best at {'; '.join(words)}"


def warm_starts_of(search: SearchSpec, *, training: TrainingSpec) -> tuple[WarmStart, ...]:
    """What ``search.warm_start`` says, in this job's units; jobs that are named by id alone say nothing yet.

    With SGD of momentum ``m``, weights held at ``R`` turn in proportion to ``lr / (R^2 (1 - m))`` (van Laarhoven 2017,
    arXiv 1706.05350), which is kept; with AdamW to ``lr / R``, for its step does not shrink with the gradient. Under
    weight decay ``lr / (1 - m)`` and the decay itself are kept. Batch size, schedule and epochs are not taken into
    account.

    Raises:
        ValueError: If learning rates of that job and of this one do not compare.
    """
    return tuple(_warm_start(one, search, training) for one in search.warm_start if isinstance(one, Summary))


def _warm_start(summary: Summary, search: SearchSpec, training: TrainingSpec) -> WarmStart:
    _check(summary, search, training)
    params = summary.params | {"lr": summary.params["lr"] * _lr_factor(summary, training)}
    inside = {knob: min(max(value, search.space[knob].low), search.space[knob].high) for knob, value in params.items()}
    return WarmStart(summary, params, inside)


def _check(summary: Summary, search: SearchSpec, training: TrainingSpec) -> None:
    there, job = summary.training, f"search.warm_start has {summary.job}"
    if summary.method is not search.method:
        raise ValueError(
            f"{job}, which tuned {', '.join(summary.params)} (method {summary.method}), and this job tunes "
            f"{', '.join(search.space)} ({search.method}): leave it out, or set search.method to {summary.method}"
        )
    if there.optimizer.name != training.optimizer.name:
        raise ValueError(
            f"{job}, which trained with {there.optimizer.name}, and training.optimizer is {training.optimizer.name}; "
            f"their learning rates do not compare: leave it out, or train with {there.optimizer.name}"
        )
    if search.method is Method.FIXNORM and (there.weight_norm == "init") != (training.weight_norm == "init"):
        raise ValueError(
            f"{job}, which held weights at norm {there.weight_norm}, and training.weight_norm is "
            f"{training.weight_norm}; their learning rates do not compare: leave it out, or set weight_norm to "
            f"{there.weight_norm}"
        )


def _lr_factor(summary: Summary, training: TrainingSpec) -> float:
    there, is_sgd = summary.training, training.optimizer.name == "sgd"
    factor = (1.0 - training.optimizer.momentum) / (1.0 - there.optimizer.momentum) if is_sgd else 1.0
    if summary.method is Method.FIXNORM and there.weight_norm != "init" and training.weight_norm != "init":
        factor *= (training.weight_norm / there.weight_norm) ** (2 if is_sgd else 1)
    return factor
