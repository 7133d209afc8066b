from __future__ import annotations

import math
import random

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND, SEARCH
from fixnorm_core.tuning.recommend import Recommendation, recommend, to_confirm

LR: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-4, 1.0, log=True)}


def test_nothing_is_recommended_while_no_trial_counts() -> None:
    failed = create_trial(state=TrialState.FAIL, params={"lr": 0.1}, distributions=LR)
    assert recommend([], validation_examples=100) is None
    assert recommend([failed, run(0, 0.1, 0.9, diverged=True)], validation_examples=100) is None
    assert to_confirm([failed], validation_examples=100) is None


def test_before_any_is_confirmed_the_highest_accuracy_is_recommended_with_its_counting_error() -> None:
    best = recommend([run(0, 0.1, 0.7), run(1, 0.2, 0.8), run(2, 0.3, 0.75)], validation_examples=400)
    assert best == Recommendation(
        params={"lr": 0.2},
        mean=0.8,
        standard_error=pytest.approx(0.02, rel=1e-2),
        source="images",
        runs=1,
        trials=(1,),
        confirmed=False,
        best_run=1,
    )


def test_one_confirming_run_is_judged_alone_with_its_counting_error() -> None:
    best = recommend([run(0, 0.1, 0.9), run(1, 0.2, 0.7), run(2, 0.1, 0.8, confirm=True)], validation_examples=400)
    assert best == Recommendation(
        params={"lr": 0.1},
        mean=0.8,
        standard_error=pytest.approx(0.02, rel=1e-2),
        source="images",
        runs=1,
        trials=(2,),
        confirmed=True,
        best_run=0,
    )


def test_two_confirming_runs_are_judged_alone_since_the_run_that_chose_the_point_was_lucky() -> None:
    trials = [run(0, 0.1, 0.90), run(1, 0.2, 0.85), run(2, 0.1, 0.82, confirm=True), run(3, 0.1, 0.84, confirm=True)]
    best = recommend(trials, validation_examples=400)
    assert best is not None
    assert best.mean == pytest.approx(0.83)
    assert (best.trials, best.runs, best.confirmed, best.best_run) == ((2, 3), 2, True, 0)


def test_the_standard_error_is_for_new_seeds_and_for_new_images() -> None:
    trials = [run(0, 0.1, 0.90), run(1, 0.1, 0.82, confirm=True), run(2, 0.1, 0.84, confirm=True)]
    known = recommend(trials, validation_examples=400)
    unknown = recommend(trials, validation_examples=None)
    assert known is not None
    assert unknown is not None
    over_seeds = math.sqrt(0.0002) / math.sqrt(2)
    assert unknown.standard_error == pytest.approx(over_seeds)
    assert known.standard_error == pytest.approx(math.hypot(over_seeds, math.sqrt(0.83 * 0.17 / 400)), rel=1e-2)
    assert known.source == "seeds and images"


def test_equal_runs_and_a_hundred_percent_are_not_taken_for_certain() -> None:
    same = [run(0, 0.1, 1.0), run(1, 0.1, 1.0, confirm=True), run(2, 0.1, 1.0, confirm=True)]
    best = recommend(same, validation_examples=100)
    assert best is not None
    assert 0.005 < best.standard_error < 0.02


@pytest.mark.parametrize("confirm_runs", [1, 2])
def test_on_a_flat_surface_the_mean_is_hardly_above_the_truth(confirm_runs: int) -> None:
    rng = random.Random(0)
    means = []
    for _ in range(400):
        search = [run(number, 0.01 * (number + 1), rng.gauss(0.8, 0.01)) for number in range(8)]
        trials = list(search)
        for number in range(8, 8 + confirm_runs):
            point = to_confirm(trials, validation_examples=100_000)
            assert point is not None
            trials.append(run(number, point["lr"], rng.gauss(0.8, 0.01), confirm=True))
        best = recommend(trials, validation_examples=100_000)
        assert best is not None
        means.append(best.mean)
    assert 0.798 < sum(means) / len(means) < 0.804  # the luckiest of eight runs averages 0.814


def test_a_clearly_better_single_run_is_confirmed_next_and_recommended_once_it_holds() -> None:
    repeated = [run(0, 0.1, 0.80), run(1, 0.1, 0.82, confirm=True), run(2, 0.1, 0.81, confirm=True)]
    once = [*repeated, run(3, 0.2, 0.85)]
    assert to_confirm(once, validation_examples=10_000) == {"lr": 0.2}
    best = recommend(once, validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.1}
    best = recommend([*once, run(4, 0.2, 0.84, confirm=True)], validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.2}


def test_a_single_run_within_the_noise_of_a_confirmed_point_is_not_confirmed_before_it() -> None:
    trials = [run(0, 0.1, 0.80), run(1, 0.1, 0.82, confirm=True), run(2, 0.1, 0.81, confirm=True), run(3, 0.2, 0.812)]
    assert to_confirm(trials, validation_examples=10_000) == {"lr": 0.1}


def test_a_point_that_a_sampler_proposed_twice_is_not_a_confirmed_one() -> None:
    best = recommend([run(0, 0.1, 0.9), run(1, 0.2, 0.5), run(2, 0.2, 0.5)], validation_examples=100)
    assert best is not None
    assert best.params == {"lr": 0.1}


def test_a_point_whose_confirming_run_diverged_is_given_up() -> None:
    trials = [run(0, 0.1, 0.95), run(1, 0.01, 0.94), run(2, 0.1, 0.1, diverged=True, confirm=True)]
    assert to_confirm(trials, validation_examples=100) == {"lr": 0.01}
    best = recommend(trials, validation_examples=100)
    assert best is not None
    assert best.params == {"lr": 0.01}


def run(number: int, lr: float, accuracy: float, *, diverged: bool = False, confirm: bool = False) -> FrozenTrial:
    attributes = {DIVERGED: diverged, KIND: CONFIRM if confirm else SEARCH}
    trial = create_trial(value=accuracy, params={"lr": lr}, distributions=LR, user_attrs=attributes)
    trial.number = number
    return trial
