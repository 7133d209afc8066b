"""What a job has found, as the REST API answers it and as it is stored; part of :mod:`service.schemas`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from fixnorm_core.reports import Evaluation

__all__ = ["BestView", "CandidateView"]


class CandidateView(BaseModel):
    """A point that was tried, and what is known of its accuracy.

    Attributes:
        params: The knobs.
        validation_accuracy: Mean over ``runs`` training runs at this point: the confirming ones, if there is one.
        standard_error: Of that mean: over seeds and validation images when a point was repeated, else of the one
            run over validation images alone. ``standard_error_source`` says which. How much seeds matter is estimated
            from all repeated points together, of a point that was run once from the others alone.
        runs: Training runs that the mean is over.
        trials: Their numbers.
        confirmed: Whether they are confirming runs; if not, the point was chosen for this mean, which is therefore too
            high on average. None in results that were stored before this was told.
        expected_accuracy: What the sampler expects here from all trials, free of the seed's luck; what points are
            ranked by. None when the sampler has no such belief.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    params: dict[str, float]
    validation_accuracy: float
    standard_error: float
    standard_error_source: Literal["seeds and images", "images"]
    runs: int
    trials: tuple[int, ...]
    confirmed: bool | None = None
    expected_accuracy: float | None = None

    @property
    def basis(self) -> str:
        """What the accuracy and its standard error come from, in words."""
        runs = "1 run" if self.runs == 1 else f"{self.runs} runs"
        if self.confirmed is False:
            runs += ", unconfirmed: the point was chosen for this number, so it is too high on average"
        source = f"standard error over {self.standard_error_source}"
        if self.runs == 1 and self.standard_error_source == "seeds and images":
            source += ", of seeds as at other points, which were run again"
        if self.validation_accuracy == 1.0:
            source += ", which with so many images does not take 100 % for certain"
        return f"{runs}; {source}"


class BestView(CandidateView):
    """The recommended point.

    Attributes:
        weights_trial: The run whose weights are kept.
        weights_accuracy: That run's own validation accuracy: the highest of the point's runs, above their mean by
            selection. None in results that were stored before this was told.
        run_accuracies: The validation accuracies of all runs of the point, the one that chose it included, by number.
        disagree: Whether these lie further apart than seeds usually put runs of one point.
        weights: Path of those weights on the server.
        weights_url: Where to fetch them; None until the job has ended.
        test: Measured once, on data that no trial has seen; None until the job has ended.
        report: Path of the report on the server; None until the job has ended.
        stop_reason: Why the search ended; None while it runs.
        epochs_saved: Epochs that trials did not train because they were stopped early (``search.pruner``).
        runner_up: The next best point, of the confirmed ones if there are several; None if there is no other.
        told_apart: Whether it is worse by more than the standard error of the difference; None without one, or while no
            repeated run tells how much the seed matters.
        largest_class_share: The validation accuracy of always naming the largest class; None where that is not known.
    """

    weights_trial: int
    weights_accuracy: float | None = None
    run_accuracies: tuple[float, ...] = ()
    disagree: bool = False
    weights: str | None = None
    weights_url: str | None = None
    test: Evaluation | None = None
    report: str | None = None
    stop_reason: str | None = None
    epochs_saved: int = 0
    runner_up: CandidateView | None = None
    told_apart: bool | None = None
    largest_class_share: float | None = None

    @property
    def basis(self) -> str:
        """As of any point; and whether it is no better than no network at all."""
        share = self.largest_class_share
        if share is None or self.validation_accuracy > share:
            return super().basis
        return f"{super().basis}; no better than always naming the largest class, {100 * share:.2f} %"

    @property
    def disagreement(self) -> str | None:
        """That runs of this very point came out far apart, and what to do about it; None if they did not."""
        if not self.disagree:
            return None
        runs = ", ".join(f"{100 * accuracy:.2f} %" for accuracy in self.run_accuracies)
        return (
            f"{runs} with nothing but the seed changed: training is unsteady here, and another run may end anywhere in "
            "between; more confirming runs (budget.confirm_runs) tell how often, a lower lr "
            "(search.space.lr) or a longer warm-up (training.warmup_fraction) usually makes it steadier"
        )

    @property
    def tested_on(self) -> str | None:
        """What the test accuracy is of, in words; None without one."""
        if self.test is None:
            return None
        own = self.weights_accuracy
        validated = f", whose validation accuracy is {100 * own:.2f} %" if own is not None else ""
        return f"{self.test.examples} images; the weights of trial {self.weights_trial}{validated}"

    @property
    def rivalry(self) -> str | None:
        """How the runner-up compares, in words; None if there is none."""
        other = self.runner_up
        if other is None:
            return None
        point = ", ".join(f"{knob} {value:.4g}" for knob, value in other.params.items())
        runs = ("1 run" if other.runs == 1 else f"{other.runs} runs") + ("" if other.confirmed else ", unconfirmed")
        accuracy = f"{100 * other.validation_accuracy:.2f} % ± {100 * other.standard_error:.2f} % ({runs}) at {point}"
        if (more := self._doubts(other)) is not None:
            return f"{accuracy}; {more}"
        if self.told_apart is None:
            return f"{accuracy}; how much of the difference is the seed's luck is not known without repeated runs"
        if self.told_apart:
            return f"{accuracy}; worse by more than the standard error"
        return f"{accuracy}; the two cannot be told apart, the difference is within the standard error"

    def _doubts(self, other: CandidateView) -> str | None:
        """That the sampler expects more of a point without a confirming run than of this one, if it does."""
        mine, others = self.expected_accuracy, other.expected_accuracy
        if not self.confirmed or other.confirmed or mine is None or others is None or others <= mine:
            return None
        return (
            f"the sampler now expects more of it, {100 * others:.2f} % against {100 * mine:.2f} %, though no run has "
            "confirmed it; more trials (extend) would tell"
        )
