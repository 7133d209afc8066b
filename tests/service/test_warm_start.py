"""A finished job seeds another one, through HTTP, on the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving
from sqlalchemy import delete
from waiting import wait_for

from fixnorm_core.spec import JobSpec, Summary
from service.composition import Service, build
from service.database.rows import AttemptRow, JobRow
from service.schemas import JobState, JobView
from service.settings import Settings

JOBS = "/api/v1/jobs"


def submit(http: httpx.Client, job: dict[str, Any], *parents: Any, **search: Any) -> JobView:
    answer = http.post(JOBS, json=job | {"search": job["search"] | {"warm_start": parents} | search})
    assert answer.status_code == 201, answer.text
    return JobView.model_validate(answer.json())


def refusal(http: httpx.Client, job: dict[str, Any], *parents: Any) -> str:
    answer = http.post(JOBS, json=job | {"search": job["search"] | {"warm_start": parents}})
    assert answer.status_code == 422, answer.text
    assert answer.json()["way_out"]
    return f"{answer.json()['detail']}. {answer.json()['way_out']}"


def first_point(http: httpx.Client, job_id: str) -> dict[str, float]:
    params: dict[str, float] = http.get(f"{JOBS}/{job_id}/trials").json()[0]["params"]
    return params


@pytest.fixture
def parent(http: httpx.Client, job: dict[str, Any]) -> JobView:
    """A finished job whose best point is not where a job begins by itself."""
    space = {"lr": [0.05, 0.2], "fc_norm": [4.0, 16.0]}
    view = wait_for(http, submit(http, job, space=space).id)
    assert view.state is JobState.SUCCEEDED, view.reason
    return view


def test_a_job_begins_where_its_parent_was_best_and_says_so(
    http: httpx.Client, job: dict[str, Any], parent: JobView
) -> None:
    assert parent.best is not None
    child = wait_for(http, submit(http, job, parent.id).id)
    assert child.state is JobState.SUCCEEDED, child.reason
    at = ", ".join(f"{knob} {value:.4g}" for knob, value in parent.best.params.items())
    assert child.notes == (f"{parent.id} was best at {at.replace(', ', '; ')}",)
    assert child.best is not None
    assert child.best.report is not None
    assert child.notes[0] in Path(child.best.report).read_text(encoding="utf-8")
    assert first_point(http, child.id) == pytest.approx(parent.best.params)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_optunas_samplers_try_the_parents_best_point_first(
    http: httpx.Client, job: dict[str, Any], parent: JobView, sampler: str
) -> None:
    assert parent.best is not None
    child = wait_for(http, submit(http, job, parent.id, sampler=sampler).id)
    assert first_point(http, child.id) == pytest.approx(parent.best.params)


def test_a_jobs_own_start_comes_before_its_parents(http: httpx.Client, job: dict[str, Any], parent: JobView) -> None:
    start = {"lr": 0.5, "fc_norm": 1.0}
    child = wait_for(http, submit(http, job, parent.id, start=start).id)
    assert first_point(http, child.id) == pytest.approx(start)


def test_a_best_point_outside_the_new_range_is_moved_to_its_end_with_a_note(
    http: httpx.Client, job: dict[str, Any], parent: JobView
) -> None:
    space = {"lr": [0.001, 0.01]}
    child = wait_for(http, submit(http, job, parent.id, space=space, sampler="random").id)
    assert first_point(http, child.id)["lr"] == pytest.approx(0.01)
    assert "moved to 0.01, the end of its range" in child.notes[0]


def test_what_a_job_has_learned_is_served_and_taken_as_it_is(
    http: httpx.Client, job: dict[str, Any], parent: JobView
) -> None:
    learned = http.get(f"{JOBS}/{parent.id}/summary").json()
    summary = Summary.model_validate(learned)
    assert parent.best is not None
    assert (summary.job, summary.params) == (parent.id, parent.best.params)
    assert summary.trials == parent.progress.finished
    assert all(0.01 < spread < 3.0 for spread in summary.spread.values())
    by_summary, by_id = (submit(http, job, each).spec.search.warm_start for each in (learned, parent.id))
    assert by_summary == by_id == (summary,)


def test_a_job_needs_its_parent_no_more_once_it_is_stored(
    settings: Settings, job: dict[str, Any], parent_of_another_server: Summary
) -> None:
    service = build(settings)
    try:
        with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as http:
            parent = wait_for(http, submit(http, job, parent_of_another_server.model_dump(mode="json")).id)
            child = submit(http, job | {"budget": {"max_trials": 3, "confirm_runs": 0}}, parent.id)
            delete_job(service, parent.id)
            assert wait_for(http, child.id).state is JobState.SUCCEEDED
            assert "there is no such job" in refusal(http, job, parent.id)
    finally:
        service.close()


@pytest.fixture
def parent_of_another_server(tmp_path: Path, settings: Settings, job: dict[str, Any]) -> Summary:
    service = build(settings.model_copy(update={"state_dir": tmp_path / "other"}))
    with serving(service.app) as url, httpx.Client(base_url=url, timeout=30) as http:
        view = wait_for(http, submit(http, job).id)
        summary = Summary.model_validate(http.get(f"{JOBS}/{view.id}/summary").json())
    service.close()
    return summary


def delete_job(service: Service, job_id: str) -> None:
    with service.runtime.database.write.begin() as session:
        session.execute(delete(AttemptRow).where(AttemptRow.job_id == job_id))
        session.execute(delete(JobRow).where(JobRow.id == job_id))


def test_an_idempotency_key_finds_the_job_that_was_warm_started(
    http: httpx.Client, job: dict[str, Any], parent: JobView
) -> None:
    sent = job | {"search": job["search"] | {"warm_start": [parent.id]}}
    first, second = (http.post(JOBS, json=sent, headers={"Idempotency-Key": "night-2"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_a_parent_that_does_not_exist_is_refused(http: httpx.Client, job: dict[str, Any]) -> None:
    said = refusal(http, job, "job-nope")
    assert "search.warm_start names 'job-nope', and there is no such job" in said
    assert "fixnorm-tune list" in said


def test_a_file_is_left_to_the_command_line(http: httpx.Client, job: dict[str, Any]) -> None:
    assert "the command line reads a file" in refusal(http, job, "/etc/passwd")


def test_a_parent_that_has_not_ended_or_has_no_result_is_refused(http: httpx.Client, job: dict[str, Any]) -> None:
    long = job | {"budget": {"max_trials": 5000, "confirm_runs": 0, "stop_early": False}}
    running = submit(http, long)
    said = refusal(http, job, running.id)
    assert f"search.warm_start: {running.id} is" in said
    assert "Wait until it has ended, or leave it out" in said
    http.post(f"{JOBS}/{running.id}/cancel")
    wait_for(http, running.id)
    assert f"{running.id} is CANCELLED and has no result to learn from" in refusal(http, job, running.id)
    assert http.get(f"{JOBS}/{running.id}/summary").status_code == 409


def test_a_parent_that_tuned_other_knobs_is_refused(http: httpx.Client, job: dict[str, Any], parent: JobView) -> None:
    spec = JobSpec.model_validate(job | {"search": {"method": "weight_decay"}}).model_dump(mode="json")
    said = refusal(http, spec, parent.id)
    assert f"search.warm_start has {parent.id}, which tuned lr, fc_norm (method fixnorm)" in said
    assert "leave it out, or set search.method to fixnorm" in said


def test_a_refused_job_leaves_nothing(http: httpx.Client, job: dict[str, Any]) -> None:
    refusal(http, job, "job-nope")
    assert http.get(JOBS).json()["jobs"] == []
