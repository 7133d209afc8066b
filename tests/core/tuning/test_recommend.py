from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND, SEARCH
from fixnorm_core.tuning.recommend import Recommendation, point_of, recommend, to_confirm

LR: dict[str, BaseDistribution] = {"lr": FloatDistribution(1e-4, 1.0, log=True)}


def test_nothing_is_recommended_while_no_trial_counts() -> None:
    failed = create_trial(state=TrialState.FAIL, params={"lr": 0.1}, distributions=LR)
    assert recommend([], validation_examples=100) is None
    assert recommend([failed, run(0, 0.1, 0.9, diverged=True)], validation_examples=100) is None
    assert to_confirm([failed], validation_examples=100) == []


def test_before_any_is_confirmed_the_highest_accuracy_is_recommended_with_its_counting_error() -> None:
    best = recommend([run(0, 0.1, 0.7), run(1, 0.2, 0.8), run(2, 0.3, 0.75)], validation_examples=400)
    assert best is not None
    assert replace(best, runner_up=None) == Recommendation(
        params={"lr": 0.2},
        mean=0.8,
        standard_error=pytest.approx(0.02, rel=1e-2),
        source="images",
        runs=1,
        trials=(1,),
        confirmed=False,
        best_run=1,
        accuracies=(0.8,),
    )


def test_one_confirming_run_is_judged_alone_with_its_counting_error() -> None:
    best = recommend([run(0, 0.1, 0.9), run(1, 0.2, 0.7), run(2, 0.1, 0.8, confirm=True)], validation_examples=400)
    assert best is not None
    assert replace(best, runner_up=None) == Recommendation(
        params={"lr": 0.1},
        mean=0.8,
        standard_error=pytest.approx(0.02, rel=1e-2),
        source="images",
        runs=1,
        trials=(2,),
        confirmed=True,
        best_run=0,
        accuracies=(0.9, 0.8),
        disagree=True,
    )


@pytest.mark.parametrize(
    ("accuracies", "images", "disagree"),
    [
        ((0.98, 0.77, 0.73), 1000, True),
        ((0.98, 0.96, 0.955), 1000, False),
        ((0.70, 0.66, 0.64), 1000, True),
        ((0.70, 0.66, 0.64), 300, False),  # 0.027 is the error of counting on so few
        ((0.98, 0.90), None, True),
        ((0.98,), 1000, False),
    ],
)
def test_runs_that_lie_further_apart_than_seeds_and_counting_put_them_disagree(
    accuracies: tuple[float, ...], images: int | None, disagree: bool
) -> None:
    trials = [run(0, 0.2, 0.5), *(run(1 + n, 0.1, value, confirm=n > 0) for n, value in enumerate(accuracies))]
    best = recommend(trials, validation_examples=images)
    assert best is not None
    assert (best.accuracies, best.disagree) == (accuracies, disagree)
    assert best.accuracies[best.best_run - 1] == max(accuracies)


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
            [point] = to_confirm(trials, validation_examples=100_000)
            trials.append(run(number, point["lr"], rng.gauss(0.8, 0.01), confirm=True))
        best = recommend(trials, validation_examples=100_000)
        assert best is not None
        means.append(best.mean)
    assert 0.798 < sum(means) / len(means) < 0.804  # the luckiest of eight runs averages 0.814


def test_the_best_points_are_confirmed_and_a_confirmed_one_is_not_given_up_for_a_lucky_run() -> None:
    search = [run(0, 0.1, 0.80), run(1, 0.2, 0.85), run(2, 0.3, 0.84), run(3, 0.4, 0.5)]
    assert to_confirm(search, validation_examples=10_000, top_k=2) == [{"lr": 0.2}, {"lr": 0.3}]
    begun = [*search, run(4, 0.2, 0.81, confirm=True), running(5, 0.3)]
    assert to_confirm(begun, validation_examples=10_000, top_k=1) == [{"lr": 0.3}]
    assert to_confirm(begun, validation_examples=10_000, top_k=2) == [{"lr": 0.3}, {"lr": 0.2}]
    assert to_confirm(begun, validation_examples=10_000, top_k=9) == [{"lr": lr} for lr in (0.3, 0.2, 0.1, 0.4)]


def test_a_point_that_was_not_confirmed_is_never_recommended_over_one_that_was() -> None:
    trials = [run(0, 0.1, 0.80), run(1, 0.1, 0.82, confirm=True), run(2, 0.1, 0.81, confirm=True), run(3, 0.2, 0.85)]
    best = recommend(trials, validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.1}
    best = recommend([*trials, run(4, 0.2, 0.84, confirm=True)], validation_examples=10_000)
    assert best is not None
    assert best.params == {"lr": 0.2}


def test_what_the_sampler_expects_decides_and_the_luckiest_run_does_not() -> None:
    trials = [run(0, 0.1, 0.90), run(1, 0.2, 0.85), run(2, 0.3, 0.84)]
    expected = {point_of({"lr": lr}): accuracy for lr, accuracy in ((0.1, 0.82), (0.2, 0.84), (0.3, 0.83))}
    best = recommend(trials, validation_examples=400, expected=expected)
    assert best is not None
    assert (best.params, best.mean, best.expected) == ({"lr": 0.2}, 0.85, 0.84)
    assert to_confirm(trials, validation_examples=400, top_k=2, expected=expected) == [{"lr": 0.2}, {"lr": 0.3}]
    del expected[point_of({"lr": 0.3})]  # a belief that is older than the last run
    best = recommend(trials, validation_examples=400, expected=expected)
    assert best is not None
    assert best.params == {"lr": 0.1}


@pytest.mark.parametrize(("other", "told_apart"), [(0.80, False), (0.70, True)])
def test_the_runner_up_is_told_apart_only_beyond_the_standard_error_of_the_difference(
    other: float, told_apart: bool
) -> None:
    trials = [run(0, 0.1, 0.84), run(1, 0.2, other + 0.02)]
    trials += [run(2 + i, 0.1, 0.82 + 0.01 * i, confirm=True) for i in range(2)]
    trials += [run(4 + i, 0.2, other + 0.01 * i, confirm=True) for i in range(2)]
    best = recommend(trials, validation_examples=400)
    assert best is not None
    assert best.runner_up is not None
    assert (best.runner_up.params, best.runner_up.trials) == ({"lr": 0.2}, (4, 5))
    assert best.told_apart is told_apart


def test_single_runs_do_not_tell_points_apart() -> None:
    best = recommend([run(0, 0.1, 0.9), run(1, 0.2, 0.2)], validation_examples=400)
    assert best is not None
    assert best.runner_up is not None
    assert best.told_apart is None


def test_the_noise_of_the_seed_is_pooled_over_all_confirmed_points() -> None:
    trials = [run(0, 0.1, 0.9), run(1, 0.2, 0.9)]
    trials += [run(2, 0.1, 0.85, confirm=True), run(3, 0.1, 0.85, confirm=True)]
    trials += [run(4, 0.2, 0.78, confirm=True), run(5, 0.2, 0.82, confirm=True)]
    best = recommend(trials, validation_examples=None)
    assert best is not None
    assert best.params == {"lr": 0.1}
    assert best.standard_error == pytest.approx(math.sqrt(0.0008 / 2) / math.sqrt(2))


def test_a_point_that_a_sampler_proposed_twice_is_not_a_confirmed_one() -> None:
    best = recommend([run(0, 0.1, 0.9), run(1, 0.2, 0.5), run(2, 0.2, 0.5)], validation_examples=100)
    assert best is not None
    assert best.params == {"lr": 0.1}


def test_a_point_whose_confirming_run_diverged_is_given_up() -> None:
    trials = [run(0, 0.1, 0.95), run(1, 0.01, 0.94), run(2, 0.1, 0.1, diverged=True, confirm=True)]
    assert to_confirm(trials, validation_examples=100) == [{"lr": 0.01}]
    best = recommend(trials, validation_examples=100)
    assert best is not None
    assert best.params == {"lr": 0.01}


def run(number: int, lr: float, accuracy: float, *, diverged: bool = False, confirm: bool = False) -> FrozenTrial:
    attributes = {DIVERGED: diverged, KIND: CONFIRM if confirm else SEARCH}
    trial = create_trial(value=accuracy, params={"lr": lr}, distributions=LR, user_attrs=attributes)
    trial.number = number
    return trial


def running(number: int, lr: float) -> FrozenTrial:
    trial = create_trial(state=TrialState.RUNNING, params={"lr": lr}, distributions=LR, user_attrs={KIND: CONFIRM})
    trial.number = number
    return trial
