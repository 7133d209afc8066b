"""A report of made-up trials, as it would be of a job's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState as OptunaState
from optuna.trial import create_trial
from standin import job, trial

from fixnorm_core.reports import EpochDiagnostics, EpochReport, RoleDiagnostics, RoleNames, TrialOutcome, TrialResult
from service.reporting.page import Reported, render_page
from service.schemas import BestView, JobState, TrialState, TrialView

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "fc_norm": FloatDistribution(0.25, 16.0, log=True),
}
TRIALS = (
    trial(0, params={"lr": 0.01, "fc_norm": 1.0}),
    trial(1, params={"lr": 0.012345, "fc_norm": 2.3}, validation_accuracy=0.95),
    trial(2, TrialState.DIVERGED, params={"lr": 1.0, "fc_norm": 9.0}, curve=(0.1,), validation_accuracy=0.1),
    trial(3, TrialState.FAILED, params={"lr": 0.5, "fc_norm": 9.0}, curve=(), reason="ValueError: no"),
    trial(4, params={"lr": 0.02, "fc_norm": 3.0}, validation_accuracy=0.97, kind="confirm"),
    trial(5, TrialState.RUNNING, params={"lr": 0.03, "fc_norm": 3.0}, curve=(0.3, 0.6)),
    trial(6, params={"lr": 0.004, "fc_norm": 5.0}, validation_accuracy=0.90),
)
DIAGNOSTICS = EpochDiagnostics(
    scale_invariant=RoleDiagnostics(rotation=0.02, effective_learning_rate=0.01, gradient_norm=0.5),
    head=RoleDiagnostics(rotation=0.01, effective_learning_rate=0.004),
    free=RoleDiagnostics(),
    feature_norm=7.5,
)


def epoch(number: int, *, diagnostics: EpochDiagnostics | None = DIAGNOSTICS, bound: float | None = 4.0) -> EpochReport:
    return EpochReport(
        epoch=number,
        epochs=3,
        learning_rate=0.01,
        train_loss=1.0,
        train_accuracy=0.5,
        validation_loss=1.0,
        validation_accuracy=0.5,
        head_norm=2.0 + number,
        head_bound=bound,
        seconds=1.0,
        images_per_second=100.0,
        diagnostics=diagnostics,
        classes=10,
    )


RUN = TrialResult(
    outcome=TrialOutcome.COMPLETE,
    validation_accuracy=0.95,
    validation_loss=0.2,
    validation_examples=287,
    classes=10,
    epochs=3,
    seconds=3.0,
    weights="/state/w.safetensors",
    roles=RoleNames(scale_invariant=("a",), head=("b",), free=()),
    device="cpu",
    versions={"torch": "2.13.0", "python": "3.11.9"},
    cross_boundary_risk=0.0734,
    train_examples=1151,
)


def study_of(
    trials: Sequence[TrialView], space: dict[str, BaseDistribution] = SPACE, *, values: Sequence[float] | None = None
) -> optuna.Study:
    states = {TrialState.FAILED: OptunaState.FAIL, TrialState.RUNNING: OptunaState.RUNNING}
    study = optuna.create_study(direction="maximize")
    for view in trials:
        given = {knob: value for knob, value in view.params.items() if knob in space}
        study.add_trial(
            create_trial(
                state=states.get(view.state, OptunaState.COMPLETE),
                value=view.validation_accuracy if view.state not in states else None,
                params=given,
                distributions={knob: space[knob] for knob in given},
                user_attrs={"fixnorm:diverged": True} if view.state is TrialState.DIVERGED else {},
            )
        )
    return study


def page(
    state: JobState = JobState.SUCCEEDED, trials: Sequence[TrialView] = TRIALS, *, found: BestView | None, **more: Any
) -> str:
    settled: dict[str, Any] = {"study": study_of(trials) if trials else None, "run": None, "history": ()}
    view = {name: more.pop(name) for name in ("name", "spec", "reason", "stop_reason") if name in more}
    versions = {"optuna": "5.0.0", "ray": "2.60.0", "python": "3.11.0"}
    reported = job(state, best=found, **view)
    return render_page(Reported(reported, trials, **(settled | more), server_versions=versions, at=NOW))
