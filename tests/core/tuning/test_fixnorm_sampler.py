from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState, create_trial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND
from fixnorm_core.tuning.sampler import FixNormSampler
from fixnorm_core.tuning.units import Unit

Space = dict[str, BaseDistribution]
SPACE: Space = {"lr": FloatDistribution(1e-4, 1.0, log=True), "fc_norm": FloatDistribution(0.25, 16.0, log=True)}
KNOWN = [(0.01, 2.0, 0.80), (0.003, 7.0, 0.74), (0.03, 1.0, 0.70), (0.002, 1.5, 0.76)]


@pytest.mark.parametrize("seed", range(3))
def test_the_first_point_is_near_the_geometric_centre(seed: int) -> None:
    first = next_params(study_of([], seed=seed))
    assert 0.0005 < first["lr"] < 0.05
    assert 0.7 < first["fc_norm"] < 6.0


def test_the_first_point_is_the_given_start() -> None:
    start = {"lr": 0.3, "fc_norm": 0.25}
    study = optuna.create_study(sampler=FixNormSampler(SPACE, seed=0, start=start))
    assert study.ask(SPACE).params == pytest.approx(start)


@pytest.mark.parametrize("start", [{"lr": 0.3}, {"lr": 0.3, "fc_norm": 17.0}, {"lr": 0.3, "fc_norm": 1.0, "wd": 1.0}])
def test_a_start_that_does_not_fit_the_space_is_refused(start: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="start"):
        FixNormSampler(SPACE, start=start)


def test_an_empty_space_is_refused() -> None:
    with pytest.raises(SpecError, match="empty"):
        FixNormSampler({})


def test_the_same_history_gives_the_same_suggestion_from_a_fresh_object() -> None:
    assert next_params(study_of(KNOWN)) == next_params(study_of(KNOWN))


def test_the_same_history_gives_the_same_suggestion_after_a_reload_from_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(
        storage=url, study_name="s", direction="maximize", sampler=FixNormSampler(SPACE, seed=3)
    )
    add(study, KNOWN)
    study._storage.remove_session()
    reloaded = optuna.load_study(storage=url, study_name="s", sampler=FixNormSampler(SPACE, seed=3))
    suggested = next_params(reloaded)
    reloaded._storage.remove_session()
    assert suggested == next_params(study_of(KNOWN, seed=3))


def test_another_seed_gives_another_suggestion() -> None:
    assert next_params(study_of(KNOWN, seed=1)) != next_params(study_of(KNOWN, seed=2))


def test_no_seed_still_gives_suggestions_that_one_object_repeats() -> None:
    sampler = FixNormSampler(SPACE)
    first, second = (study_of(KNOWN, sampler=sampler) for _ in range(2))
    assert next_params(first) == next_params(second)


@pytest.mark.parametrize("known", [[], KNOWN])
def test_parallel_slots_get_points_that_are_far_apart(known: list[tuple[float, float, float]]) -> None:
    study = study_of(known)
    points = [unit(study.ask(SPACE).params) for _ in range(4)]
    assert closest_pair(points) > 0.05


def test_trials_that_were_asked_at_once_and_have_no_values_yet_get_different_points() -> None:
    study = study_of(KNOWN)
    trials = [study.ask() for _ in range(3)]
    points = [unit({"lr": trial.suggest_float("lr", 1e-4, 1.0, log=True), "fc_norm": _fc(trial)}) for trial in trials]
    assert closest_pair(points) > 0.05


@pytest.mark.parametrize("value", [0.1, -math.inf, math.inf])
def test_a_trial_that_diverged_moves_the_learning_rate_down(value: float) -> None:
    study = study_of([(0.5, 2.0, value)], diverged=True)
    assert next_params(study)["lr"] < 0.2


def test_a_failed_trial_that_diverged_moves_the_learning_rate_down() -> None:
    study = study_of([])
    study.add_trial(
        create_trial(
            state=TrialState.FAIL,
            params={"lr": 0.3, "fc_norm": 2.0},
            distributions=SPACE,
            user_attrs={DIVERGED: True},
        )
    )
    assert next_params(study)["lr"] < 0.1


def test_how_deep_a_diverged_trial_fell_does_not_matter() -> None:
    shallow, deep = (study_of(KNOWN) for _ in range(2))
    add(shallow, [(0.5, 2.0, 0.6)], diverged=True)
    add(deep, [(0.5, 2.0, -1e300)], diverged=True)
    assert next_params(shallow) == next_params(deep)


def test_a_failed_trial_is_not_visited_again() -> None:
    study = study_of(KNOWN)
    failed = next_params(study)
    study.tell(study.trials[-1].number, state=TrialState.FAIL)
    assert closest_pair([unit(failed), unit(next_params(study))]) > 0.03


def test_fractions_and_percents_of_right_and_wrong_answers_give_the_same_suggestion() -> None:
    fractions = study_of(KNOWN)
    percents = study_of([(lr, fc, 100 * value) for lr, fc, value in KNOWN])
    errors = study_of([(lr, fc, 100 - 100 * value) for lr, fc, value in KNOWN], direction="minimize")
    suggested = next_params(fractions)
    assert next_params(percents) == pytest.approx(suggested)
    assert next_params(errors) == pytest.approx(suggested)


def test_an_unknown_unit_does_not_matter() -> None:
    losses = study_of([(lr, fc, 500 - 300 * value) for lr, fc, value in KNOWN], direction="minimize")
    others = study_of([(lr, fc, 1e6 + 7 * value) for lr, fc, value in KNOWN])
    tiny = study_of([(lr, fc, 1e-5 * value) for lr, fc, value in KNOWN])
    suggested = next_params(others)
    assert next_params(losses) == pytest.approx(suggested, rel=1e-3)
    assert next_params(tiny) == pytest.approx(suggested, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 1e-3])
def test_a_run_at_chance_among_many_classes_is_still_a_fraction(value: float) -> None:
    unit_of = Unit.of(np.array([value]))
    assert (unit_of.known, unit_of.scale) == (True, 1.0)


def test_what_a_repeat_of_a_point_reached_is_used() -> None:
    low, high = (study_of(KNOWN) for _ in range(2))
    add(low, [(0.01, 2.0, 0.60)], attributes={KIND: CONFIRM})
    add(high, [(0.01, 2.0, 0.84)], attributes={KIND: CONFIRM})
    assert next_params(low) != next_params(high)
    point = [{"lr": 0.01, "fc_norm": 2.0}]
    below, above = (FixNormSampler(SPACE, seed=0).expected(study, point)[0] for study in (low, high))
    assert below < above - 0.05


def test_it_works_with_optimize_in_several_threads() -> None:
    study = study_of([])
    met = threading.Barrier(2)

    def objective(trial: Trial) -> float:
        if trial.number < 2:
            met.wait(timeout=60)
        return accuracy(trial.suggest_float("lr", 1e-4, 1.0, log=True), _fc(trial))

    study.optimize(objective, n_trials=6, n_jobs=2)
    assert closest_pair([unit(trial.params) for trial in study.trials]) > 0.01


def test_parameters_of_every_kind_are_searched_and_not_sampled_at_random() -> None:
    space: Space = SPACE | {
        "batch": IntDistribution(16, 512, log=True),
        "dropout": FloatDistribution(0.0, 0.5, step=0.05),
        "blocks": IntDistribution(1, 5),
        "flip": CategoricalDistribution(["both", "left", "none"]),
        "fixed": CategoricalDistribution([7]),
    }
    found = []
    for make in (lambda: FixNormSampler(space, seed=0), lambda: RandomSampler(seed=0)):
        study = optuna.create_study(direction="maximize", sampler=make())
        for _ in range(25):
            trial = study.ask(space)
            at = trial.params
            truth = accuracy(at["lr"], at["fc_norm"]) - 0.2 * abs(at["dropout"] - 0.15) - 0.02 * abs(at["blocks"] - 2)
            study.tell(trial, truth - 0.01 * abs(math.log2(at["batch"] / 64)) - 0.05 * (at["flip"] != "left"))
        found.append(study.best_value)
        assert {trial.params["fixed"] for trial in study.trials} == {7}
    assert found[0] > 0.76
    assert found[0] > found[1] + 0.02


def test_a_start_is_also_a_hint_that_the_peak_is_near() -> None:
    start = {"lr": 0.1, "fc_norm": 1.0}
    gains = []
    for hint in (start, None):
        sampler = FixNormSampler(SPACE, seed=0, start=hint)
        here, far = sampler.expected(study_of([(0.1, 1.0, 0.3)]), [start, {"lr": 0.004, "fc_norm": 1.0}])
        gains.append(far - here)
    assert gains[0] < gains[1] - 0.02


def test_one_knob_and_three_knobs_are_searched_too() -> None:
    for knobs in (1, 3):
        space: Space = {f"k{k}": FloatDistribution(1e-3, 1e3, log=True) for k in range(knobs)}
        study = optuna.create_study(sampler=FixNormSampler(space, seed=0))
        for _ in range(6 * knobs):
            trial = study.ask(space)
            study.tell(trial, sum(abs(math.log10(value) - 1.3) for value in trial.params.values()))
        assert study.best_value < 0.5 * knobs


def test_constraints_are_refused() -> None:
    study = study_of(KNOWN)
    study.add_trial(create_trial(value=0.5, params={}, distributions={}, system_attrs={"constraints": [1.0]}))
    with pytest.raises(ValueError, match="constraints"):
        study.ask(SPACE)


def test_it_needs_at_most_two_thirds_of_the_trials_of_random_search() -> None:
    ours, random = (
        np.mean([trials_to_near_best(make(seed), seed=seed) for seed in range(20)])
        for make in (lambda seed: FixNormSampler(SPACE, seed=seed), lambda seed: RandomSampler(seed=seed))
    )
    assert ours < 2 / 3 * random


def test_a_suggestion_at_fifty_finished_trials_costs_no_more_than_a_few_of_optunas_gaussian_process() -> None:
    rng = np.random.default_rng(0)
    points = [(10 ** rng.uniform(-4, 0), 4 ** rng.uniform(-1, 2)) for _ in range(50)]
    known = [(lr, fc, accuracy(lr, fc) + 0.008 * rng.standard_normal()) for lr, fc in points]
    seconds = []
    for sampler in (FixNormSampler(SPACE, seed=0), GPSampler(seed=0)):
        study = study_of(known, sampler=sampler)
        next_params(study)
        begin = time.process_time()
        for _ in range(3):
            study.tell(study.ask(SPACE), state=TrialState.FAIL)
        seconds.append(time.process_time() - begin)
    assert seconds[0] < 4 * seconds[1]


def test_importing_the_sampler_imports_no_torch() -> None:
    code = "import sys, fixnorm_core.tuning.sampler; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def accuracy(lr: float, fc_norm: float, *, best_lr: float = 0.008, best_fc: float = 3.0) -> float:
    """Separable in log space, at most 0.8, with a cliff a decade above ``best_lr``."""
    x, y = math.log10(lr / best_lr), math.log10(fc_norm / best_fc)
    return 0.1 if x > 1.0 else max(0.8 - 0.1 * abs(x) ** 1.5 - 0.1 * abs(y) ** 1.5, 0.1)


def trials_to_near_best(sampler: optuna.samplers.BaseSampler, *, seed: int, limit: int = 24) -> int:
    """Trials until the best observed point is truly within 0.8 points of the best, which is anywhere in the box."""
    rng = np.random.default_rng(seed)
    best_lr, best_fc = 10 ** rng.uniform(-3.4, -0.6), 4 ** rng.uniform(-0.6, 1.6)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(limit):
        trial = study.ask(SPACE)
        truth = accuracy(trial.params["lr"], trial.params["fc_norm"], best_lr=best_lr, best_fc=best_fc)
        study.tell(trial, truth + 0.008 * rng.standard_normal())
        leader = study.best_params
        if 0.8 - accuracy(leader["lr"], leader["fc_norm"], best_lr=best_lr, best_fc=best_fc) <= 0.008:
            return number + 1
    return limit + 1


def study_of(
    known: list[tuple[float, float, float]],
    *,
    seed: int = 0,
    direction: str = "maximize",
    diverged: bool = False,
    sampler: BaseSampler | None = None,
) -> Study:
    study = optuna.create_study(direction=direction, sampler=sampler or FixNormSampler(SPACE, seed=seed))
    add(study, known, diverged=diverged)
    return study


def add(
    study: Study,
    known: list[tuple[float, float, float]],
    *,
    diverged: bool = False,
    attributes: dict[str, str] | None = None,
) -> None:
    for lr, fc_norm, value in known:
        study.add_trial(
            create_trial(
                value=value,
                params={"lr": lr, "fc_norm": fc_norm},
                distributions=SPACE,
                user_attrs={DIVERGED: diverged, **(attributes or {})},
            )
        )


def next_params(study: Study) -> dict[str, float]:
    return study.ask(SPACE).params


def unit(params: dict[str, float]) -> np.ndarray:
    return np.array([math.log10(params["lr"]) / 4 + 1, math.log(params["fc_norm"] / 0.25, 64)])


def closest_pair(points: list[np.ndarray]) -> float:
    return min(float(np.linalg.norm(a - b)) for i, a in enumerate(points) for b in points[:i])


def _fc(trial: Trial) -> float:
    return trial.suggest_float("fc_norm", 0.25, 16.0, log=True)
