"""Every limit of a job through HTTP, on the simulator and a clock that goes on by a minute with every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving
from waiting import wait_for

from fixnorm_core.tuning.attributes import CONFIRM
from service.composition import build
from service.schemas import JobState, JobView, TrialState
from service.settings import Settings
from worker.contracts import Resources, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

JOBS = "/api/v1/jobs"
EPOCHS = Recording.packaged().job.training.epochs
"""Minutes that a trial takes."""


class Minutes(SimulatorBackend):
    """Tells one epoch a poll, which takes a minute; time stands still while nothing runs."""

    time: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    slow: frozenset[int] = frozenset()
    """Trials whose epochs take two minutes."""
    stuck: frozenset[int] = frozenset()
    """Trials that never report."""

    def now(self) -> datetime:
        return self.time

    def poll(self) -> Sequence[Update]:
        if self._replays:
            self.time += timedelta(minutes=1)
        return super().poll()

    def _advance(self, attempt_id: str, replay: Any) -> Update:
        number = int(attempt_id.split(".")[1])
        if number in self.stuck:
            return Update(attempt_id)
        if number in self.slow and self.time.minute % 2:
            return Update(attempt_id)
        return super()._advance(attempt_id, replay)


@contextmanager
def serving_with(settings: Settings, backend: SimulatorBackend | None = None) -> Iterator[tuple[httpx.Client, Minutes]]:
    backend = backend or Minutes(Recording.packaged(), Resources(cpus=8.0, gpus=0.0))
    assert isinstance(backend, Minutes)
    service = build(settings, backend=backend, now=backend.now)
    try:
        with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as client:
            yield client, backend
    finally:
        service.close()


@pytest.fixture
def clocked(settings: Settings) -> Iterator[tuple[httpx.Client, Minutes]]:
    with serving_with(settings) as served:
        yield served


def run(http: httpx.Client, job: dict[str, Any], **budget: Any) -> tuple[JobView, list[dict[str, Any]]]:
    """A job at its end, with its trials; its search is not ended by the sampler, and random, so that it is fast."""
    job_id = submit(http, job, **budget)
    view = wait_for(http, job_id)
    return view, http.get(f"{JOBS}/{job_id}/trials").json()


def submit(http: httpx.Client, job: dict[str, Any], *, sampler: str = "random", **budget: Any) -> str:
    search = job["search"] | {"sampler": sampler, "space": {"lr": [1e-3, 0.05], "fc_norm": [1, 8]}}
    budget = {"max_trials": 60, "confirm_runs": 0, "stop_early": False} | budget
    answer = http.post(JOBS, json=job | {"search": search, "budget": budget})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def minutes(view: JobView) -> float:
    assert view.started_at is not None
    assert view.ended_at is not None
    return (view.ended_at - view.started_at) / timedelta(minutes=1)


def kinds(trials: list[dict[str, Any]]) -> list[str]:
    return [trial["kind"] for trial in trials]


def test_a_job_ends_within_its_time_and_confirms_its_best_point_in_it(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, _ = clocked
    view, trials = run(http, job, max_time=f"{7 * EPOCHS + 6}min", confirm_runs=2)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert minutes(view) <= 7 * EPOCHS + 6
    assert kinds(trials) == ["search"] * 5 + [CONFIRM] * 2
    assert {trial["state"] for trial in trials} == {TrialState.COMPLETE}
    assert view.best is not None
    assert (view.best.confirmed, view.best.runs) == (True, 2)
    assert view.best.test is not None
    reason = f"max_time of {7 * EPOCHS + 6}min leaves no time for another trial and 2 runs to confirm: a trial takes "
    assert view.reason == view.stop_reason == view.best.stop_reason
    assert view.reason.startswith(reason.replace("62min", "1h 2min"))
    report = http.get(f"{JOBS}/{view.id}/report").text
    assert f"| stopped because | {view.reason} |" in report


def test_a_trial_that_still_runs_when_the_time_is_over_is_ended_and_the_best_so_far_is_the_result(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.slow = frozenset({1})
    limit = 2 * EPOCHS + EPOCHS // 2
    view, trials = run(http, job, max_time=f"{limit}min")
    assert view.state is JobState.SUCCEEDED, view.reason
    assert limit <= minutes(view) <= limit + 2
    assert [trial["state"] for trial in trials] == [TrialState.COMPLETE, TrialState.CANCELLED]
    assert trials[1]["reason"] == view.reason == f"max_time of {limit}min is over"
    assert view.best is not None
    assert (view.best.trials, view.best.confirmed) == ((0,), False)
    assert view.best.test is not None
    assert view.progress.running == 0


def test_confirming_runs_that_are_cut_short_are_counted_in_the_reason(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.slow = frozenset({2})
    view, trials = run(http, job, max_trials=3, confirm_runs=2, max_time=f"{3 * EPOCHS + 4}min")
    assert view.state is JobState.SUCCEEDED, view.reason
    assert [trial["state"] for trial in trials] == ["COMPLETE", "COMPLETE", "CANCELLED"]
    assert view.best is not None
    assert view.best.trials == (1,)
    assert view.reason == (
        "max_trials 3 is used up: 1 for the search, 2 for confirming what it found; "
        "max_time left no time for 1 of 2 confirming runs"
    )
    assert view.best.stop_reason == view.reason


def test_a_job_whose_time_is_over_before_a_trial_is_complete_fails_and_says_what_to_change(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, _ = clocked
    view, trials = run(http, job, parallel_trials=4, max_time="3min")
    assert view.state is JobState.FAILED
    assert view.reason == (
        "max_time of 3min is over before a trial was complete: raise budget.max_time or lower training.epochs"
    )
    assert {trial["state"] for trial in trials} == {TrialState.CANCELLED}


@pytest.mark.both_databases
def test_a_servers_absence_counts_and_the_job_has_its_result_soon_after_the_restart(
    settings: Settings, job: dict[str, Any]
) -> None:
    with serving_with(settings) as (http, backend):
        job_id = submit(http, job, parallel_trials=4, max_time="8h", confirm_runs=2)
        while len(http.get(f"{JOBS}/{job_id}/trials").json()) < 6:
            pass
    backend.time += timedelta(hours=8)
    again = Minutes(Recording.packaged(), Resources(cpus=8.0, gpus=0.0))
    again.time = backend.time
    with serving_with(settings, again) as (http, _):
        view = wait_for(http, job_id)
        trials = http.get(f"{JOBS}/{job_id}/trials").json()
    assert view.state is JobState.SUCCEEDED, view.reason
    assert view.ended_at is not None
    assert view.ended_at - backend.time <= timedelta(minutes=2)
    assert view.reason == "max_time of 8h is over; max_time left no time for 2 of 2 confirming runs"
    assert {trial["state"] for trial in trials} == {TrialState.COMPLETE, TrialState.CANCELLED}
    assert view.best is not None
    assert view.best.test is not None


def test_the_search_ends_as_soon_as_a_trial_reaches_the_target_and_the_point_is_confirmed(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.slow = frozenset({1, 2, 3})
    view, trials = run(http, job, parallel_trials=4, confirm_runs=1, target_accuracy=0.3)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert [trial["state"] for trial in trials] == ["COMPLETE", "CANCELLED", "CANCELLED", "CANCELLED", "COMPLETE"]
    reached = f"trial 0 reached target_accuracy 30 %: {100 * trials[0]['validation_accuracy']:.2f} %"
    assert view.reason == trials[1]["reason"] == reached
    assert kinds(trials)[-1] == CONFIRM


def test_a_search_ends_after_so_many_trials_without_progress(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, _ = clocked
    view, trials = run(http, job, tolerance=0.9, max_trials_without_progress=3, confirm_runs=1)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert kinds(trials) == ["search"] * 4 + [CONFIRM]
    assert view.reason == (
        "the last 3 trials have not raised the best accuracy by more than 90 points (max_trials_without_progress)"
    )


def test_a_search_ends_after_so_much_time_without_progress_and_its_running_trials_finish(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.slow = frozenset({1})
    limit = EPOCHS // 2
    view, trials = run(http, job, parallel_trials=2, tolerance=0.9, max_time_without_progress=f"{limit}min")
    assert view.state is JobState.SUCCEEDED, view.reason
    assert len(trials) == 3  # the third was started when the first ended
    assert {trial["state"] for trial in trials} == {TrialState.COMPLETE}
    assert view.reason.endswith(f"for {limit}min (max_time_without_progress)")


def test_the_sampler_is_told_the_tolerance(clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]) -> None:
    http, _ = clocked
    view, _ = run(http, job, sampler="fixnorm", stop_early=True, tolerance=0.5, max_trials=40, parallel_trials=4)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert "more than the tolerance (0.5 " in view.reason


@pytest.mark.parametrize("sampler", ["fixnorm", "random"])
def test_the_best_points_are_confirmed_side_by_side_and_the_result_tells_the_runner_up(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any], sampler: str
) -> None:
    http, _ = clocked
    view, trials = run(http, job, sampler=sampler, max_trials=9, parallel_trials=4, confirm_top_k=2, confirm_runs=2)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert kinds(trials) == ["search"] * 5 + [CONFIRM] * 4
    assert view.reason == "max_trials 9 is used up: 5 for the search, 4 for confirming what it found"
    best = view.best
    assert best is not None
    assert best.runner_up is not None
    assert (best.confirmed, best.runs, best.runner_up.confirmed, best.runner_up.runs) == (True, 2, True, 2)
    assert sorted([*best.trials, *best.runner_up.trials]) == [5, 6, 7, 8]
    assert best.standard_error > 0
    confirmed = {number: trials[number]["validation_accuracy"] for number in best.trials}
    assert best.validation_accuracy == pytest.approx(sum(confirmed.values()) / 2)
    assert best.told_apart is not None
    if sampler == "fixnorm":
        assert best.expected_accuracy is not None
        assert best.runner_up.expected_accuracy is not None
        assert best.expected_accuracy >= best.runner_up.expected_accuracy
    words = "worse by more than the standard error" if best.told_apart else "the two cannot be told apart"
    assert view.best is not None
    assert view.best.report is not None
    assert words in Path(view.best.report).read_text(encoding="utf-8")
    assert words in http.get(f"{JOBS}/{view.id}/report", params={"format": "html"}).text


def test_a_duration_without_a_unit_is_refused_with_the_way_out(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, _ = clocked
    problem = http.post(JOBS, json=job | {"budget": {"max_time": 8}}).json()
    assert problem["code"] == "invalid_request" or problem["errors"]
    assert "budget.max_time: 8 is no duration: write it with a unit, as 45s" in problem["detail"]


def test_a_job_is_over_at_its_deadline_as_it_is_after_its_time(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    deadline = backend.time + timedelta(minutes=5 * EPOCHS + 6)
    view, trials = run(http, job, deadline=deadline.isoformat(), confirm_runs=1)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert view.ended_at is not None
    assert view.ended_at <= deadline
    assert kinds(trials) == ["search"] * 4 + [CONFIRM]
    assert view.reason.startswith(
        f"the deadline {deadline:%Y-%m-%d %H:%M} UTC leaves no time for another trial and 1 run"
    )
    assert view.spec.budget.deadline == deadline


def test_a_deadline_strikes_what_runs_and_what_waits_and_extending_lifts_it(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.stuck = frozenset({1})
    until = (backend.time + timedelta(minutes=3 * EPOCHS)).isoformat()
    all_cpus = job | {"resources": {"cpus_per_trial": 8}}
    first = submit(http, all_cpus | {"share": {"priority": 1}}, deadline=until)
    waits = submit(http, all_cpus, deadline=until)
    view = wait_for(http, first)
    assert (view.state, view.progress.finished) == (JobState.SUCCEEDED, 1)
    assert "the deadline 2026-01-01" in view.reason
    late = wait_for(http, waits)
    assert late.state is JobState.FAILED
    assert "has passed before a trial was complete: give it a later budget.deadline" in late.reason
    backend.stuck = frozenset()
    http.post(f"{JOBS}/{first}/extend", json={"trials": 1}).raise_for_status()
    again = wait_for(http, first)
    assert again.spec.budget.deadline is None
    assert (again.state, again.progress.finished) == (JobState.SUCCEEDED, 61)


def test_a_deadline_in_the_past_or_without_a_zone_is_refused_but_not_one_of_a_job_that_is_sent_again(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    past = job | {"budget": {"max_trials": 3, "deadline": "2025-12-31T23:59Z"}}
    answer = http.post(JOBS, json=past)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "budget.deadline is 2025-12-31 23:59 UTC, and it is 2026-01-01 00:00 UTC already"
    bare = http.post(JOBS, json=job | {"budget": {"max_trials": 3, "deadline": "2026-01-01T09:00"}})
    assert "has no zone" in bare.json()["errors"][0]["rule"]
    soon = job | {"budget": {"max_trials": 3, "deadline": "2026-01-01T01:10+01:00", "stop_early": False}}
    sent = http.post(JOBS, json=soon, headers={"Idempotency-Key": "k"})
    assert sent.status_code == 201
    wait_for(http, sent.json()["id"])
    backend.time += timedelta(hours=2)
    again = http.post(JOBS, json=soon, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"]) == (200, sent.json()["id"])


def test_a_trial_that_hangs_is_ended_as_failed_and_the_others_go_on(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.stuck = frozenset({1})
    view, trials = run(http, job, max_trials=3, max_trial_time=f"{2 * EPOCHS}min", parallel_trials=1)
    assert view.state is JobState.SUCCEEDED, view.reason
    assert [trial["state"] for trial in trials] == ["COMPLETE", "FAILED", "COMPLETE", "COMPLETE"]
    assert trials[1]["reason"].startswith("max_trial_time of ")
    assert 2 * EPOCHS * 60 <= trials[1]["seconds"] < (2 * EPOCHS + 3) * 60
    assert not backend._replays


def test_a_job_all_of_whose_trials_hang_fails_by_the_number_of_failures(
    clocked: tuple[httpx.Client, Minutes], job: dict[str, Any]
) -> None:
    http, backend = clocked
    backend.stuck = frozenset(range(1, 60))
    view, _ = run(http, job, max_trial_time=f"{EPOCHS + 5}min", parallel_trials=2, max_failures=4)
    assert view.state is JobState.FAILED
    assert "trials in a row failed, the last one with: max_trial_time of" in view.reason
    view, _ = run(http, job, max_trial_time=f"{EPOCHS + 5}min", max_failed=1)
    assert view.reason.startswith("1 trial failed in all (max_failed), the last one with: max_trial_time of")
