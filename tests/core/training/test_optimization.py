from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import Method, OptimizerSpec, ScheduleSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.fit import Fit
from fixnorm_core.training.optimization import rest_lr_factor, schedule_of

MakeTrial = Callable[..., TrialSpec]


@pytest.mark.parametrize(
    ("training", "factor"),
    [
        (TrainingSpec(), 8.0),
        (TrainingSpec(weight_norm=4.0), 0.5),
        (TrainingSpec(weight_norm="init"), 1.0),
        (TrainingSpec(optimizer=OptimizerSpec(name="adamw")), 1.0),
        (TrainingSpec(rest_lr_factor=3.0), 3.0),
    ],
)
def test_what_is_not_held_has_a_rate_of_its_own(training: TrainingSpec, factor: float) -> None:
    assert rest_lr_factor(training) == factor


@pytest.mark.parametrize(("method", "power"), [(Method.FIXNORM, 0.5), (Method.WEIGHT_DECAY, 1.0)])
def test_the_schedules_power_is_the_methods_unless_it_is_given(
    make_trial: MakeTrial, method: Method, power: float
) -> None:
    assert schedule_of(make_trial(method=method)).power == power
    assert schedule_of(make_trial(method=method, schedule=ScheduleSpec(power=2.0))).power == 2.0


def test_groups_train_at_the_rate_of_the_schedule_times_their_factor(
    make_trial: MakeTrial, small_digits: TrainingData
) -> None:
    fit = Fit(make_trial(), small_digits, device=torch.device("cpu"))
    totals = fit.train_epoch(1)
    held, rest = fit._optimizer.param_groups
    assert {id(weight) for weight in held["params"]} == {
        id(fit.model.get_parameter(name)) for name in fit.roles.scale_invariant
    }
    assert len(held["params"]) + len(rest["params"]) == len(list(fit.model.parameters()))
    assert (held["lr"], rest["lr"]) == (totals.learning_rate, 8 * totals.learning_rate)


def test_one_rate_for_all_and_a_plain_cosine_can_be_asked_for(
    make_trial: MakeTrial, small_digits: TrainingData
) -> None:
    trial = make_trial(rest_lr_factor=1.0, schedule=ScheduleSpec(power=1.0))
    fit = Fit(trial, small_digits, device=torch.device("cpu"))
    fit.train_epoch(1)
    assert len({group["lr"] for group in fit._optimizer.param_groups}) == 1
