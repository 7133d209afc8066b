"""What is told of a job while its trials go on: reads that others' writes come between."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from byhand import put, server

from fixnorm_core.spec import JobSpec
from service.access.callers import ANYBODY
from service.jobs import repository
from service.jobs.endpoints import list_jobs, list_trials, show_job
from service.runtime import Runtime
from service.schemas import TERMINAL_STATES, JobView, TrialState
from service.settings import Settings

pytestmark = pytest.mark.both_databases


def test_no_best_point_and_no_ended_trial_is_told_without_what_its_attempt_left(
    settings: Settings, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {"max_trials": 4, "parallel_trials": 2, "confirm_runs": 0, "stop_early": False}
    spec = JobSpec.model_validate(job | {"budget": budget})
    with server(settings) as service:
        job_id = put(service, spec)
        # The dispatcher goes on before either of the two reads
        for owner, name in ((Runtime, "trials"), (repository, "attempts_of")):
            monkeypatch.setattr(owner, name, after(service.dispatcher.tick, getattr(owner, name)))
        seen: list[JobView] = []
        while not seen or seen[-1].state not in TERMINAL_STATES:
            seen += [show_job(job_id, service.runtime), *list_jobs(service.runtime, ANYBODY, limit=10).jobs]
            for trial in list_trials(job_id, service.runtime):
                assert trial.attempts > 0 or trial.state == TrialState.RUNNING
    told = [view.best for view in seen if view.best is not None]
    assert len(told) > 2
    assert all(math.isfinite(best.standard_error) for best in told)


def after(step: Callable[[], object], read: Callable[..., Any]) -> Callable[..., Any]:
    is_within = False

    def both(*arguments: Any, **named: Any) -> Any:
        nonlocal is_within
        if not is_within:  # the dispatcher reads too
            is_within = True
            step()
            is_within = False
        return read(*arguments, **named)

    return both
