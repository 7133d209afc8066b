from __future__ import annotations

import math

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.tuning.attributes import DIVERGED
from fixnorm_core.tuning.recommend import Recommendation, recommend, to_confirm

LR: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-4, 1.0, log=True)}


def test_nothing_is_recommended_while_no_trial_counts() -> None:
    failed = create_trial(state=TrialState.FAIL, params={"lr": 0.1}, distributions=LR)
    assert recommend([], validation_examples=100) is None
    assert recommend([failed, run(0, 0.1, 0.9, diverged=True)], validation_examples=100) is None


def test_without_repeats_the_highest_accuracy_is_recommended_with_its_binomial_error() -> None:
    best = recommend([run(0, 0.1, 0.7), run(1, 0.2, 0.8), run(2, 0.3, 0.75)], validation_examples=400)
    assert best == Recommendation(
        params={"lr": 0.2},
        mean=0.8,
        standard_error=pytest.approx(0.02),
        source="validation images",
        runs=1,
        trials=(1,),
        best_run=1,
    )


def test_repeats_give_a_mean_with_a_standard_error_over_seeds_and_the_best_run() -> None:
    best = recommend([run(2, 0.1, 0.82), run(0, 0.1, 0.80), run(5, 0.1, 0.84)], validation_examples=400)
    assert best is not None
    assert (best.mean, best.standard_error) == pytest.approx((0.82, 0.02 / math.sqrt(3)))
    assert (best.source, best.runs, best.trials, best.best_run) == ("seeds", 3, (0, 2, 5), 5)


def test_a_lucky_single_run_does_not_beat_a_repeated_point() -> None:
    repeated = [run(0, 0.1, 0.80), run(1, 0.1, 0.82), run(2, 0.1, 0.81)]
    best = recommend([*repeated, run(3, 0.2, 0.812)], validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.1}


def test_a_clearly_better_single_run_is_confirmed_next_and_recommended_once_it_holds() -> None:
    repeated = [run(0, 0.1, 0.80), run(1, 0.1, 0.82), run(2, 0.1, 0.81)]
    once = [*repeated, run(3, 0.2, 0.85)]
    assert to_confirm(once, validation_examples=10_000) == {"lr": 0.2}
    best = recommend(once, validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.1}
    best = recommend([*once, run(4, 0.2, 0.84)], validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.2}


def test_a_single_run_within_the_noise_of_a_repeated_point_is_not_confirmed_before_it() -> None:
    trials = [run(0, 0.1, 0.80), run(1, 0.1, 0.82), run(2, 0.1, 0.81), run(3, 0.2, 0.812)]
    assert to_confirm(trials, validation_examples=10_000) == {"lr": 0.1}


def test_repeats_that_agree_by_chance_do_not_make_the_noise_smaller_than_that_of_the_images() -> None:
    best = recommend([run(0, 0.1, 0.80), run(1, 0.1, 0.80), run(2, 0.2, 0.805)], validation_examples=100)
    assert best is not None
    assert best.params == {"lr": 0.1}


def test_a_diverged_run_of_a_repeated_point_is_left_out() -> None:
    best = recommend([run(0, 0.1, 0.80), run(1, 0.1, 0.10, diverged=True)], validation_examples=None)
    assert best is not None
    assert best.trials == (0,)
    assert math.isnan(best.standard_error)


def run(number: int, lr: float, accuracy: float, *, diverged: bool = False) -> FrozenTrial:
    trial = create_trial(value=accuracy, params={"lr": lr}, distributions=LR, user_attrs={DIVERGED: diverged})
    trial.number = number
    return trial
