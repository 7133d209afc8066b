"""Whole jobs through HTTP, on the simulator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import wait_for

from fixnorm_core.recipes import list_recipes
from fixnorm_core.spec import JobSpec
from service.client import Client
from service.schemas import JobState, TrialState

JOBS = "/api/v1/jobs"


def submit(http: httpx.Client, job: dict[str, Any], key: str | None = None) -> str:
    answer = http.post(JOBS, json=job, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.mark.both_databases
def test_the_budget_is_kept_exactly_and_every_trial_is_told(http: httpx.Client, job: dict[str, Any]) -> None:
    job = job | {"budget": job["budget"] | {"stop_early": False}}
    view = wait_for(http, submit(http, job))
    trials = http.get(f"{JOBS}/{view.id}/trials").json()
    assert view.progress.finished == view.progress.max_trials == 6
    assert [trial["number"] for trial in trials] == list(range(6))
    assert {trial["state"] for trial in trials} <= {TrialState.COMPLETE, TrialState.DIVERGED}
    assert [trial["kind"] for trial in trials].count("confirm") == 2
    assert len({trial["seed"] for trial in trials}) == 6
    assert all(len(trial["curve"]) == trial["epochs"] for trial in trials if trial["state"] == "COMPLETE")


@pytest.mark.both_databases
def test_the_best_point_has_a_standard_error_over_its_runs_and_one_test_accuracy(
    http: httpx.Client, job: dict[str, Any]
) -> None:
    view = wait_for(http, submit(http, job))
    best = http.get(f"{JOBS}/{view.id}/best").json()
    trials = {trial["number"]: trial for trial in http.get(f"{JOBS}/{view.id}/trials").json()}
    runs = [trials[number]["validation_accuracy"] for number in best["trials"]]
    kinds = {trials[number]["kind"] for number in best["trials"]}
    assert (best["runs"], best["confirmed"], kinds) == (len(runs), True, {"confirm"})
    assert best["standard_error_source"] == ("seeds and images" if len(runs) > 1 else "images")
    assert best["validation_accuracy"] == pytest.approx(sum(runs) / len(runs))
    assert all(trials[number]["params"] == best["params"] for number in best["trials"])
    assert best["test"]["split"] == "test"
    assert best["stop_reason"]


@pytest.mark.both_databases
def test_the_same_seed_gives_the_same_trials(http: httpx.Client, job: dict[str, Any]) -> None:
    job = job | {"budget": job["budget"] | {"parallel_trials": 1}}
    first, second = (wait_for(http, submit(http, job)).id for _ in range(2))
    points = [[trial["params"] for trial in http.get(f"{JOBS}/{each}/trials").json()] for each in (first, second)]
    assert points[0] == points[1]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc", "random"])
def test_any_of_optunas_samplers_can_take_its_place(http: httpx.Client, job: dict[str, Any], sampler: str) -> None:
    view = wait_for(http, submit(http, job | {"search": job["search"] | {"sampler": sampler}}))
    assert view.state is JobState.SUCCEEDED, view.reason


def test_a_report_is_written_and_served(http: httpx.Client, job: dict[str, Any]) -> None:
    view = wait_for(http, submit(http, job))
    assert view.best is not None
    assert view.best.report is not None
    text = Path(view.best.report).read_text(encoding="utf-8")
    assert http.get(f"{JOBS}/{view.id}/report").text == text
    assert f"best lr | {view.best.params['lr']:.4g}" in text
    assert text.count("| confirm |") == 2


def test_the_simulator_keeps_no_weights_and_says_so(http: httpx.Client, job: dict[str, Any]) -> None:
    view = wait_for(http, submit(http, job))
    answer = http.get(f"{JOBS}/{view.id}/weights")
    assert answer.status_code == 409
    assert "simulator" in answer.json()["way_out"]


@pytest.mark.both_databases
def test_an_idempotency_key_returns_the_same_job(http: httpx.Client, job: dict[str, Any]) -> None:
    first = submit(http, job, key="night-1")
    again = http.post(JOBS, json=job, headers={"Idempotency-Key": "night-1"})
    assert (again.status_code, again.json()["id"]) == (200, first)
    assert len(http.get(JOBS).json()["jobs"]) == 1


@pytest.mark.both_databases
def test_an_idempotency_key_of_another_job_is_refused(http: httpx.Client, job: dict[str, Any]) -> None:
    submit(http, job, key="night-1")
    other = http.post(JOBS, json=job | {"seed": 7}, headers={"Idempotency-Key": "night-1"})
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_key_reused"


@pytest.mark.both_databases
def test_jobs_are_listed_newest_first_in_pages(http: httpx.Client, job: dict[str, Any]) -> None:
    ids = [submit(http, job | {"name": f"job {index}"}) for index in range(5)]
    first = http.get(JOBS, params={"limit": 2}).json()
    rest = http.get(JOBS, params={"limit": 10, "cursor": first["next_cursor"]}).json()
    assert [view["id"] for view in first["jobs"] + rest["jobs"]] == ids[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.both_databases
def test_jobs_are_found_by_their_name_or_id_in_pages(http: httpx.Client, job: dict[str, Any]) -> None:
    names = ["Birds at night", "birds_by_day", "dogs 100%", "birds"]
    ids = dict(zip(names, (submit(http, job | {"name": name}) for name in names), strict=True))

    def found(**query: Any) -> list[str]:
        return [view["name"] for view in http.get(JOBS, params=query).raise_for_status().json()["jobs"]]

    assert found(search="BIRDS") == ["birds", "birds_by_day", "Birds at night"]
    assert found(search="s_b") == ["birds_by_day"]  # no pattern
    assert found(search="%") == ["dogs 100%"]
    assert found(search=ids["birds"][4:]) == ["birds"]
    assert found(search="cats") == []
    assert found(search="birds", state="CANCELLED") == []
    first = http.get(JOBS, params={"search": "birds", "limit": 2}).json()
    assert found(search="birds", cursor=first["next_cursor"]) == ["Birds at night"]
    refused = http.get(JOBS, params={"search": "a\0b"})
    assert (refused.status_code, "search" in refused.text) == (422, True)
    with Client(str(http.base_url)) as client:
        assert [view.name for view in client.jobs(search="day")] == ["birds_by_day"]


@pytest.mark.both_databases
def test_a_cancelled_job_ends_and_leaves_no_trial_running(http: httpx.Client, job: dict[str, Any]) -> None:
    long = job | {"budget": {"max_trials": 500, "confirm_runs": 0, "stop_early": False}}
    job_id = submit(http, long)
    answer = http.post(f"{JOBS}/{job_id}/cancel")
    assert answer.status_code == 200
    view = wait_for(http, job_id)
    assert view.state is JobState.CANCELLED
    trials = http.get(f"{JOBS}/{job_id}/trials").json()
    assert "RUNNING" not in {trial["state"] for trial in trials}
    assert view.progress.running == 0
    assert http.post(f"{JOBS}/{job_id}/cancel").json()["state"] == "CANCELLED"


@pytest.mark.both_databases
def test_a_job_is_stored_as_it_was_sent(http: httpx.Client, job: dict[str, Any]) -> None:
    job_id = submit(http, job)
    assert JobSpec.model_validate(http.get(f"{JOBS}/{job_id}").json()["spec"]) == JobSpec.model_validate(job)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"name": "resnet19"}}, "resnet18"),
        ({"model": {"name": "alexnet"}}, "search.method: weight_decay"),
        ({"data": {"name": "digitz"}}, "digits"),
        ({"data": {"name": "imagefolder", "path": "/no/such/folder"}}, "/no/such/folder"),
        ({"search": {"space": {"lr": [1.0, 0.1]}}}, "search.space.lr: [1, 0.1] is empty"),
        ({"search": {"space": {"fc_norm": [-1.0, 2.0]}}}, "low is -1"),
        ({"resources": {"gpus_per_trial": 8}}, "resources.gpus_per_trial is 8, but the whole cluster has 0 GPUs"),
        ({"resources": {"gpus_per_trial": 1}}, "Set it to 0, or add nodes with GPUs"),
        ({"share": {"max_cpus": 0.5}}, "share.max_cpus is 0.5, but a trial holds 1 CPUs"),
        ({"share": {"user": ""}}, "share.user"),
        ({"budgets": {}}, "unknown field 'budgets'; did you mean 'budget'?"),
    ],
)
def test_bad_input_is_refused_with_value_rule_and_way_out_and_leaves_nothing(
    http: httpx.Client, job: dict[str, Any], change: dict[str, Any], named: str
) -> None:
    answer = http.post(JOBS, json=job | change)
    problem = answer.json()
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert named in f"{problem['detail']} {problem['way_out']}"
    assert problem["way_out"]
    assert http.get(JOBS).json()["jobs"] == []


def test_a_body_that_is_not_json_is_refused(http: httpx.Client) -> None:
    answer = http.post(JOBS, content="{name: ", headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "JSON" in answer.json()["detail"]


@pytest.mark.both_databases
def test_an_unknown_job_is_a_problem_with_a_way_out(http: httpx.Client) -> None:
    answer = http.get(f"{JOBS}/job-nope")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not_found"
    assert "job-nope" in answer.json()["detail"]


def test_a_recipe_that_the_server_lists_is_a_job_that_it_takes(http: httpx.Client) -> None:
    recipes = {recipe["name"]: recipe for recipe in http.get("/api/v1/recipes").json()}
    assert list(recipes) == [recipe.name for recipe in list_recipes()]
    assert "arXiv 2103.15345" in recipes["imagenet-efficientnet-b0"]["aims_at"]
    assert recipes["digits"]["text"].startswith("# For: ")
    answer = http.post(JOBS, json=recipes["digits"]["job"])
    assert (answer.status_code, answer.json()["name"]) == (201, "digits")


def test_models_data_sets_health_and_docs_answer(http: httpx.Client) -> None:
    assert {"small_resnet", "resnet18"} <= {model["name"] for model in http.get("/api/v1/models").json()}
    assert {"digits", "imagefolder", "cifar10"} <= {each["name"] for each in http.get("/api/v1/datasets").json()}
    assert http.get("/healthz").json()["status"] == "ok"
    assert f"{JOBS}/{{job_id}}/best" in http.get("/openapi.json").json()["paths"]
