from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.study import Study
from optuna.trial import create_trial

from fixnorm_core.errors import SpecError
from fixnorm_core.tuning.hints import Hint
from fixnorm_core.tuning.sampler import FixNormSampler

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "fc_norm": FloatDistribution(0.25, 16.0, log=True),
}
THERE = {"lr": 0.2, "fc_norm": 0.5}
ELSEWHERE = {"lr": 0.001, "fc_norm": 8.0}


def test_the_first_point_is_the_hint() -> None:
    assert ask(study_of(Hint(THERE))) == pytest.approx(THERE)


def test_a_start_comes_before_the_hints_and_they_still_count() -> None:
    start = {"lr": 0.01, "fc_norm": 2.0}
    sampler = FixNormSampler(SPACE, seed=0, start=start, hints=[Hint(THERE)])
    assert ask(optuna.create_study(sampler=sampler)) == pytest.approx(start)
    told = [(start, 0.5)]
    assert ask(study_of(Hint(THERE), start=start, told=told)) != ask(study_of(start=start, told=told))


def test_of_several_hints_the_first_is_tried_first_and_all_count() -> None:
    assert ask(study_of(Hint(THERE), Hint(ELSEWHERE))) == pytest.approx(THERE)
    corner = Hint({"lr": 0.0003, "fc_norm": 0.3}, spread={"lr": 0.3, "fc_norm": 0.3})
    told = [(THERE, 0.15)]
    alone, both = ask(study_of(Hint(THERE), told=told)), ask(study_of(Hint(THERE), corner, told=told))
    assert away(both, corner) < 0.5 * away(alone, corner)


def test_a_hint_outside_the_range_begins_at_that_end() -> None:
    assert ask(study_of(Hint({"lr": 3.0, "fc_norm": 40.0}))) == pytest.approx({"lr": 1.0, "fc_norm": 16.0})


def test_the_same_history_and_hints_give_the_same_suggestion_from_a_fresh_object() -> None:
    told = [(THERE, 0.4), (ELSEWHERE, 0.5)]
    first, second = (ask(study_of(Hint(THERE), Hint(ELSEWHERE), told=told)) for _ in range(2))
    assert first == second


def test_a_hint_that_trials_speak_against_is_given_up() -> None:
    told = [(THERE, 0.1), ({"lr": 0.01, "fc_norm": 2.0}, 0.6)]
    suggested = ask(study_of(Hint(THERE, spread={"lr": 0.3, "fc_norm": 0.3}), told=told))
    assert suggested["lr"] < 0.05


@pytest.mark.parametrize(
    ("hint", "rule"),
    [
        (Hint({"lr": 0.1}), r"a hint has \['lr'\]"),
        (Hint(THERE | {"momentum": 0.9}), "momentum"),
        (Hint(THERE | {"lr": -1.0}), r"'lr' as -1.0, which has no place"),
        (Hint(THERE, spread={"lr": 0.0}), "spread of 'lr' as 0.0"),
        (Hint(THERE, spread={"momentum": 1.0}), "spread of 'momentum'"),
    ],
)
def test_a_hint_that_does_not_fit_the_space_is_refused(hint: Hint, rule: str) -> None:
    with pytest.raises(SpecError, match=rule):
        FixNormSampler(SPACE, hints=[hint])


def test_hints_of_a_category_are_tried_as_they_are() -> None:
    space = SPACE | {"norm": CategoricalDistribution(["batch", "group", "layer"])}
    hints = [Hint(THERE | {"norm": "layer"}), Hint(THERE | {"norm": "layer"})]
    study = optuna.create_study(sampler=FixNormSampler(space, seed=0, hints=hints))
    assert study.ask(space).params == pytest.approx(THERE | {"norm": "layer"})


def away(params: dict[str, float], hint: Hint) -> float:
    """How far from a hint, in factors of e."""
    return math.hypot(*(math.log(params[knob] / value) for knob, value in hint.params.items()))


def study_of(
    *hints: Hint, start: dict[str, float] | None = None, told: Sequence[tuple[dict[str, float], float]] = ()
) -> Study:
    sampler = FixNormSampler(SPACE, seed=0, start=start, hints=hints)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for params, value in told:
        study.add_trial(create_trial(params=params, distributions=SPACE, value=value))
    return study


def ask(study: Study) -> dict[str, Any]:
    return study.ask(SPACE).params
