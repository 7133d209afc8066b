"""What a finished job hands on, and what a new job's sampler makes of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, create_trial

from fixnorm_core.spec import JobSpec, Summary
from fixnorm_core.tuning.choice import build_sampler, default_start, search_space
from fixnorm_core.tuning.warm_start import peak_spread, summarize

SPACE: dict[str, BaseDistribution] = search_space(JobSpec().search)
BEST = {"lr": 0.05, "fc_norm": 1.0}


def accuracy(params: dict[str, float]) -> float:
    """One peak, at :data:`BEST`, that falls as fast along either knob."""
    return 0.2 + 0.6 * math.exp(-sum(math.log(params[knob] / BEST[knob]) ** 2 for knob in BEST) / 8)


def trials(count: int) -> list[FrozenTrial]:
    """The best point and others around it, with their accuracies."""
    rng = np.random.default_rng(0)
    points = [BEST]
    points += [{knob: value * math.exp(rng.normal()) for knob, value in BEST.items()} for _ in range(1, count)]
    return [create_trial(params=point, distributions=SPACE, value=accuracy(point)) for point in points]


def learned(spec: JobSpec | None = None, **changes: Any) -> Summary:
    summary = summarize(spec or JobSpec(), trials(8), job="job-a", params=BEST, accuracy=0.8)
    return summary.model_copy(update=changes)


def first_point(spec: JobSpec) -> dict[str, float]:
    sampler = build_sampler(spec.search, training=spec.training, seed=0)
    return optuna.create_study(direction="maximize", sampler=sampler).ask(search_space(spec.search)).params


def warm(summary: Summary, *, training: dict[str, Any] | None = None, **search: Any) -> JobSpec:
    return JobSpec.model_validate({"search": {"warm_start": [summary]} | search, "training": training or {}})


def test_the_more_trials_the_surer_of_the_peak() -> None:
    few, many = (peak_spread(trials(count), SPACE, BEST) for count in (2, 14))
    assert all(many[knob] < few[knob] for knob in BEST)
    assert all(0.05 < many[knob] < 1.5 for knob in BEST)


def test_a_point_that_is_not_the_best_hands_on_a_wider_spread() -> None:
    wrong = BEST | {"lr": 0.001}
    there, elsewhere = (peak_spread(trials(10), SPACE, point) for point in (BEST, wrong))
    assert elsewhere["lr"] > there["lr"] + 2.0
    assert elsewhere["fc_norm"] == pytest.approx(there["fc_norm"], abs=0.3)


def test_the_same_trials_always_say_the_same() -> None:
    assert learned() == learned()


def test_a_summary_counts_the_trials_that_finished() -> None:
    open_one = create_trial(state=optuna.trial.TrialState.RUNNING, params=BEST, distributions=SPACE)
    failed = create_trial(state=optuna.trial.TrialState.FAIL, params=BEST, distributions=SPACE)
    told = [*trials(5), open_one, failed]
    assert summarize(JobSpec(), told, job="job-a", params=BEST, accuracy=0.8).trials == 5


def test_a_job_begins_at_its_parents_best_point_in_its_own_units() -> None:
    adamw = {"optimizer": {"name": "adamw"}}  # no default start is known for it
    parent = learned(JobSpec.model_validate({"training": adamw}))
    spec = warm(parent, training=adamw | {"weight_norm": 2.0})
    assert first_point(spec) == pytest.approx(BEST | {"lr": 2 * BEST["lr"]})


def test_with_a_parent_the_default_start_stays_a_hint() -> None:
    spec = warm(learned(params={"lr": 0.9, "fc_norm": 0.3}))
    default = default_start(spec.search, training=spec.training)
    assert default is not None
    study = optuna.create_study(
        direction="maximize", sampler=build_sampler(spec.search, training=spec.training, seed=0)
    )
    for _ in range(2):
        trial = study.ask(SPACE)
        study.tell(trial, 0.1 if trial.params["lr"] > 0.2 else 0.5)
    assert min(abs(math.log(trial.params["lr"] / default["lr"])) for trial in study.trials) < 1.5


def test_a_start_of_the_jobs_own_comes_first() -> None:
    start = {"lr": 0.5, "fc_norm": 2.0}
    assert first_point(warm(learned(), start=start)) == pytest.approx(start)


def test_cmaes_takes_the_parents_best_point_for_its_first_mean() -> None:
    spec = warm(learned(), sampler="cmaes")
    with pytest.warns(FutureWarning, match="x0"):  # Optuna 5 means to drop it in 6
        sampler = build_sampler(spec.search, training=spec.training, seed=0)
    assert sampler._x0 == BEST  # type: ignore[attr-defined]
