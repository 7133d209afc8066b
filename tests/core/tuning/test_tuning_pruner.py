"""Which trials the curves of their study stop, and which they must not."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.attributes import (
    CLASSES,
    CONFIRM,
    DIVERGED,
    KIND,
    PREDICTED,
    PRUNED_BECAUSE,
    TRAIN_LOSS,
)
from fixnorm_core.tuning.axes import Axes
from fixnorm_core.tuning.history import History
from fixnorm_core.tuning.pruner import CurvePruner
from fixnorm_core.tuning.sampler import FixNormSampler

EPOCHS = 20
SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True)}


def curve(lr: float, *, top: float = 0.9, unit: float = 1.0) -> list[float]:
    """Accuracy under an annealed schedule: small rates climb early and stay below, large ones climb at the end."""
    late = min(max((math.log10(lr) + 4.0) / 4.0, 0.05), 1.0)  # 0 at 1e-4, 1 at 1
    final = top - 0.5 * abs(math.log10(lr) + 1.5) / 2.5
    times = [((epoch + 1) / EPOCHS) ** (0.3 + 2.5 * late) for epoch in range(EPOCHS)]
    shares = [math.sin(math.pi / 2 * time) for time in times]
    return [unit * (0.1 + (final - 0.1) * share) for share in shares]


def study_of(
    *lrs: float, direction: str = "maximize", unit: float = 1.0, pruner: CurvePruner | None = None
) -> optuna.Study:
    study = optuna.create_study(direction=direction, pruner=pruner or CurvePruner())
    for lr in lrs:
        study.add_trial(finished(curve(lr, unit=unit), lr=lr))
    return study


def finished(values: list[float], *, lr: float, **attributes: Any) -> FrozenTrial:
    return create_trial(
        value=values[-1],
        params={"lr": lr},
        distributions=SPACE,
        intermediate_values=dict(enumerate(values, start=1)),
        user_attrs=attributes,
    )


def run(study: optuna.Study, values: list[float], *, lr: float, **attributes: Any) -> int:
    """Trains a trial by its curve; returns the epochs it was given."""
    study.enqueue_trial({"lr": lr})
    trial = study.ask(SPACE)
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    for epoch, value in enumerate(values, start=1):
        trial.report(value, step=epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, values[-1])
    return len(values)


def jumping(values: list[float], *, seed: int) -> list[float]:
    """A curve that falls to half in a third of the epochs, never in two in a row nor in the last."""
    rng, jumped, low = np.random.default_rng(seed), [], False
    for value in values:
        low = not low and bool(rng.random() < 0.5)
        jumped.append(value / 2 if low else value)
    return [*jumped[:-1], values[-1]]


GOOD = (0.003, 0.01, 0.03, 0.1)


def test_a_trial_that_is_far_behind_is_stopped() -> None:
    study = study_of(*GOOD)
    assert run(study, curve(0.005, top=0.5), lr=0.005) < EPOCHS / 2


def test_a_late_bloomer_is_not_stopped_though_it_is_the_lowest_until_its_last_epochs() -> None:
    best = curve(0.03)
    study = study_of(0.0005, 0.002, 0.006, 0.01)
    at = EPOCHS // 2
    others = [trial.intermediate_values[at] for trial in study.trials]
    assert best[at - 1] < min(others)
    assert best[-1] > max(trial.value for trial in study.trials if trial.value is not None)
    assert run(study, best, lr=0.03) == EPOCHS


def test_optunas_median_loses_that_late_bloomer() -> None:
    study = study_of(0.0005, 0.002, 0.006, 0.01)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=EPOCHS // 2)
    assert run(study, curve(0.03), lr=0.03) < EPOCHS


@pytest.mark.parametrize("seed", range(5))
def test_a_winner_that_jumps_is_not_stopped_in_an_epoch_in_which_it_is_low(seed: int) -> None:
    study = study_of()
    for other, lr in enumerate((*GOOD, 0.02)):
        study.add_trial(finished(jumping(curve(lr), seed=100 + other), lr=lr))
    winner = jumping(curve(0.03, top=0.96), seed=seed)
    lows = sum(later < earlier for earlier, later in pairwise(winner))
    assert lows >= 3
    assert run(study, winner, lr=0.03) == EPOCHS


def test_nothing_is_stopped_before_some_trials_have_finished() -> None:
    assert run(study_of(0.01, 0.03), curve(0.01, top=0.5), lr=0.01) == EPOCHS


def test_diverged_trials_are_no_curves_to_judge_by() -> None:
    study = study_of(0.01, 0.03)
    study.add_trial(finished([0.1, 0.1], lr=0.9, **{DIVERGED: True}))
    assert run(study, curve(0.01, top=0.5), lr=0.01) == EPOCHS


def test_a_confirming_run_is_never_stopped() -> None:
    assert run(study_of(*GOOD), curve(0.005, top=0.3), lr=0.005, **{KIND: CONFIRM}) == EPOCHS


def test_a_network_that_does_not_learn_is_stopped_half_way_though_no_other_trial_has_finished() -> None:
    study = study_of(pruner=CurvePruner(n_steps=EPOCHS))
    notes = {CLASSES: 10, TRAIN_LOSS: [2.31] * EPOCHS}
    assert run(study, [0.1] * EPOCHS, lr=0.9, **notes) == EPOCHS // 2
    (trial,) = study.trials
    assert trial.user_attrs[PREDICTED] == 0.1
    assert "does not learn" in trial.user_attrs[PRUNED_BECAUSE]


@pytest.mark.parametrize(("loss", "accuracy"), [(2.25, 0.1), (2.31, 0.4)])
def test_a_loss_below_chance_or_an_accuracy_above_it_is_learning(loss: float, accuracy: float) -> None:
    study = study_of(pruner=CurvePruner(n_steps=EPOCHS))
    notes = {CLASSES: 10, TRAIN_LOSS: [loss] * EPOCHS}
    assert run(study, [accuracy] * EPOCHS, lr=0.9, **notes) == EPOCHS


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_a_decision_does_not_depend_on_the_unit_or_the_direction(unit: float) -> None:
    loser = curve(0.005, top=0.6, unit=unit)
    plain = run(study_of(*GOOD, unit=unit), loser, lr=0.005)
    mirrored = optuna.create_study(direction="minimize", pruner=CurvePruner())
    for lr in GOOD:
        mirrored.add_trial(finished([-value for value in curve(lr, unit=unit)], lr=lr))
    assert run(mirrored, [-value for value in loser], lr=0.005) == plain
    assert plain == run(study_of(*GOOD), curve(0.005, top=0.6), lr=0.005)


def test_a_stopped_trial_says_why_and_where_it_would_have_ended_below_the_best() -> None:
    study = study_of(*GOOD)
    values = curve(0.005, top=0.5)
    run(study, values, lr=0.005)
    stopped = study.trials[-1]
    assert stopped.state is TrialState.PRUNED
    best = max(trial.value for trial in study.trials[:-1] if trial.value is not None)
    assert max(stopped.intermediate_values.values()) < stopped.user_attrs[PREDICTED] < best - 0.1
    assert "the best so far" in stopped.user_attrs[PRUNED_BECAUSE]
    assert f"{len(GOOD)} finished trials" in stopped.user_attrs[PRUNED_BECAUSE]


def test_the_sampler_takes_a_stopped_trial_for_an_observation_at_its_prediction() -> None:
    study = study_of(*GOOD)
    run(study, curve(0.005, top=0.5), lr=0.005)
    history = History.read(study, Axes.of(SPACE))
    assert len(history.pending) == 0
    assert history.observations.values[-1] == study.trials[-1].user_attrs[PREDICTED]


def test_a_trial_that_another_pruner_stopped_says_nothing_to_the_sampler() -> None:
    study = study_of(*GOOD)
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=1)
    run(study, [0.0] * EPOCHS, lr=0.005)
    history = History.read(study, Axes.of(SPACE))
    assert len(history.observations.values) == len(GOOD)
    assert len(history.pending) == 1


def test_asked_again_it_decides_the_same_and_writes_only_when_it_stops() -> None:
    study = study_of(*GOOD)
    study.enqueue_trial({"lr": 0.005})
    trial = study.ask(SPACE)
    for epoch, value in enumerate(curve(0.005, top=0.5)[:10], start=1):
        trial.report(value, step=epoch)
    pruner, frozen = CurvePruner(), study.trials[-1]
    assert pruner.judge(study, frozen) == pruner.judge(study, frozen) is not None
    assert PREDICTED not in study.trials[-1].user_attrs
    assert pruner.prune(study, frozen)
    assert PREDICTED in study.trials[-1].user_attrs


def test_it_works_in_optunas_own_loop_with_the_sampler() -> None:
    def objective(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        values = curve(lr)
        for epoch, value in enumerate(values, start=1):
            trial.report(value, step=epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return values[-1]

    study = optuna.create_study(
        direction="maximize", sampler=FixNormSampler(SPACE, seed=0), pruner=CurvePruner(n_steps=EPOCHS)
    )
    study.optimize(objective, n_trials=12)
    states = [trial.state for trial in study.trials]
    assert TrialState.PRUNED in states
    assert study.best_value > 0.85
    assert np.isfinite([trial.value for trial in study.trials if trial.value is not None]).all()


def test_values_that_are_not_finite_are_passed_over() -> None:
    study = study_of(*GOOD)
    assert run(study, [*[math.nan] * (EPOCHS - 1), 0.5], lr=0.5) == EPOCHS


@pytest.mark.parametrize("wrong", [{"chance": 0.0}, {"chance": 1.0}, {"n_startup_trials": 0}, {"n_steps": 0}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SpecError):
        CurvePruner(**wrong)  # type: ignore[arg-type]
