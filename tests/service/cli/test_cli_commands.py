from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from standin import Answer, StandIn, best, job, problem, trial
from typer.testing import Result

from fixnorm_core.spec import JobSpec
from service.cli.words import no_weights
from service.queue.schemas import QueueView
from service.schemas import BestView, CandidateView, FieldProblem, JobPage, JobState, JobView, TrialState, TrialView

CLI = Callable[..., Result]

BEST_BLOCK = """\
Best point of job j1 (digits)
  lr                   0.01235
  fc_norm              2.3
  validation accuracy  98.26 % ± 0.35 % (3 runs; standard error over seeds and images)
  test accuracy        97.50 % (360 images; the weights of trial 1)
  trials used          3 of 3: all 3 trials are used
  weights              /data/jobs/j1/weights.safetensors
  report               /data/jobs/j1/report.md
  dashboard            {url}/dashboard/studies/1
"""


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def finished(**changes: object) -> JobView:
    progress = {"finished": 3, "running": 0, "failed": 0, "max_trials": 3}
    return job(JobState.SUCCEEDED, reason="done", progress=progress, best=best(), **changes)


def write_job(folder: Path, text: str = "name: digits\n") -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def test_submit_prints_the_id_and_how_to_watch(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    result = cli("submit", write_job(tmp_path))
    assert result.exit_code == 0
    assert result.stdout == "job j1 (digits) is submitted\nwatch it: fixnorm-tune watch j1\n"


def test_the_command_to_type_next_reaches_the_same_server(
    server: StandIn, cli: CLI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIXNORM_SERVER")
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    result = cli("submit", write_job(tmp_path), "--server", server.url)
    assert f"fixnorm-tune watch j1 --server {server.url}" in result.stdout


def test_submit_sends_the_name_and_the_key_of_the_command_line(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    server.on("POST", "/api/v1/jobs", job())
    result = cli("submit", write_job(tmp_path), "--name", "other", "--idempotency-key", "k1", "-o", "json")
    (request,) = server.requests
    assert json.loads(request.body)["name"] == "other"
    assert request.headers["idempotency-key"] == "k1"
    assert JobView.model_validate_json(result.stdout) == job()


def test_a_name_that_breaks_a_rule_is_bad_input(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    result = cli("submit", write_job(tmp_path), "--name", "x" * 101)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --name xxx")
    assert server.requests == []


def test_a_job_file_that_breaks_rules_is_bad_input_and_is_not_sent(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    file = write_job(tmp_path, "modle: {}\nseed: -1\n")
    result = cli("submit", file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        f"error: {file}:2: seed: -1 does not fit; it should be greater than or equal to 0",
        f"{file}:1: modle: unknown field 'modle'; did you mean 'model'?",
        f"way out: Correct {file} and submit it again",
    ]
    assert server.requests == []


def test_the_servers_refusal_lists_every_field_and_the_way_out(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    broken = FieldProblem(field="model.name", rule="there is no model 'resnet19'", value="resnet19")
    refusal = problem(
        422, "invalid_spec", "the job breaks 1 rule", way_out="did you mean 'resnet18'?", errors=(broken,)
    )
    server.on("POST", "/api/v1/jobs", refusal)
    result = cli("submit", write_job(tmp_path))
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "error: model.name: there is no model 'resnet19'",
        "way out: did you mean 'resnet18'?",
    ]


def test_list_shows_a_row_for_each_job(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs", JobPage(jobs=(finished(id="j2"), job()), next_cursor=None))
    result = cli("list")
    header, _, second, first = words(result.stdout)
    assert header == ["id", "name", "state", "trials", "best", "submitted", "reason"]
    assert second[:6] == ["j2", "digits", "SUCCEEDED", "3/3", "98.26", "%"]
    assert first[:5] == ["j1", "digits", "RUNNING", "1/3", "-"]
    assert first[-1] == "searching"


def test_list_asks_for_one_state_in_any_case(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs", JobPage(jobs=(), next_cursor=None))
    assert cli("list", "--state", "running", "--limit", "5").exit_code == 0
    (request,) = server.requests
    assert request.query == {"state": ["RUNNING"], "limit": ["5"]}


def test_a_state_that_does_not_exist_is_bad_input(cli: CLI) -> None:
    result = cli("list", "--state", "sleeping")
    assert result.exit_code == 2
    assert "the states are queued, running, paused, stopping, succeeded, failed, cancelled" in result.stderr


def test_show_says_where_a_job_is_and_why(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs/j1", job(best=best()))
    lines = cli("show", "j1").stdout.splitlines()
    assert lines[0] == "Job j1 (digits)"
    assert "  state        RUNNING: searching" in lines
    assert "  trials       1 of 3 finished, 1 running, 0 failed" in lines
    assert "  search       fixnorm by fixnorm: lr in [0.0001, 1], fc_norm in [0.25, 16]" in lines
    assert "  best so far  98.26 % at lr 0.01235, fc_norm 2.3" in lines
    assert f"  dashboard    {server.url}/dashboard/studies/1" in lines


def test_trials_shows_points_curves_and_why_one_failed(server: StandIn, cli: CLI) -> None:
    failed = trial(1, TrialState.FAILED, curve=(0.1,), reason="the images cannot be read", seconds=None)
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(0), failed])
    header, _, first, second, reason = words(cli("trials", "j1").stdout)
    assert header == ["trial", "kind", "lr", "fc_norm", "epoch", "accuracy", "curve", "time", "state"]
    assert first == ["0", "search", "0.01", "1", "3/3", "93.33", "%", "▄▇█", "1.2", "s", "COMPLETE"]
    assert second == ["1", "search", "0.01", "1", "1/3", "10.00", "%", "▁", "-", "FAILED"]
    assert " ".join(reason) == "trial 1 failed: the images cannot be read"


def test_the_columns_are_the_jobs_own_knobs(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(params={"lr": 0.1, "weight_decay": 5e-4})])
    header, _, row = words(cli("trials", "j1").stdout)
    assert header[2:4] == ["lr", "weight_decay"]
    assert row[2:4] == ["0.1", "0.0005"]


def test_best_prints_one_block(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs/j1/best", best())
    server.on("GET", "/api/v1/jobs/j1", finished())
    assert cli("best", "j1").stdout == BEST_BLOCK.format(url=server.url)


def test_best_says_how_many_epochs_were_saved_by_stopping_trials(server: StandIn, cli: CLI) -> None:
    progress = {"finished": 3, "pruned": 1, "running": 0, "failed": 0, "max_trials": 3}
    server.on("GET", "/api/v1/jobs/j1", job(JobState.SUCCEEDED, progress=progress))
    server.on("GET", "/api/v1/jobs/j1/best", best(epochs_saved=7))
    assert "epochs saved         7, 1 trial stopped early" in cli("best", "j1").stdout


@pytest.mark.parametrize(
    ("told_apart", "words"),
    [
        (False, "the two cannot be told apart, the difference is within the standard error"),
        (True, "worse by more than the standard error"),
        (None, "how much of the difference is the seed's luck is not known without repeated runs"),
    ],
)
def test_best_says_whether_the_runner_up_can_be_told_apart(
    server: StandIn, cli: CLI, told_apart: bool | None, words: str
) -> None:
    second = CandidateView(
        params={"lr": 0.02, "fc_norm": 2.0},
        validation_accuracy=0.981,
        standard_error=0.004,
        standard_error_source="seeds and images",
        runs=2,
        trials=(4, 5),
        confirmed=True,
    )
    server.on("GET", "/api/v1/jobs/j1/best", best(runner_up=second, told_apart=told_apart))
    server.on("GET", "/api/v1/jobs/j1", finished())
    assert (
        f"runner-up            98.10 % ± 0.40 % (2 runs) at lr 0.02, fc_norm 2; {words}\n" in cli("best", "j1").stdout
    )


def test_show_tells_the_limits_and_why_the_search_ended(server: StandIn, cli: CLI) -> None:
    budget = {"max_trials": 9, "confirm_top_k": 2, "max_time": "8h", "target_accuracy": 0.95}
    spec = JobSpec.model_validate({"budget": budget | {"max_time_without_progress": "90min"}})
    server.on("GET", "/api/v1/jobs/j1", job(spec=spec, reason="training trial 5", stop_reason="nothing to gain"))
    shown = cli("show", "j1").stdout
    limits = "9 trials, 4 of them to confirm the best 2 points, 8h in all, until 95.00 %, 1h 30min without progress"
    assert f"limits        {limits}\n" in shown
    assert "search ended  nothing to gain\n" in shown


def test_best_of_a_running_job_says_that_it_is_not_final(server: StandIn, cli: CLI) -> None:
    early = best(
        standard_error_source="images",
        runs=1,
        confirmed=False,
        test=None,
        report=None,
        stop_reason=None,
        weights_url=None,
    )
    server.on("GET", "/api/v1/jobs/j1/best", early)
    server.on("GET", "/api/v1/jobs/j1", job())
    lines = cli("best", "j1").stdout.splitlines()
    assert lines[0] == "Best point so far of job j1 (digits)"
    assert "(1 run, unconfirmed: the point was chosen for this number, so it is too high on average; " in lines[3]
    assert lines[3].endswith("standard error over images)")
    assert not any("test accuracy" in line or "report" in line for line in lines)


def test_best_tells_the_kept_runs_own_accuracy_and_runs_that_disagree(server: StandIn, cli: CLI) -> None:
    unsteady = best(weights_accuracy=0.98, run_accuracies=(0.98, 0.77, 0.73), disagree=True)
    server.on("GET", "/api/v1/jobs/j1/best", unsteady)
    server.on("GET", "/api/v1/jobs/j1", finished())
    text = " ".join(cli("best", "j1").stdout.split())
    assert "test accuracy 97.50 % (360 images; the weights of trial 1, whose validation accuracy is 98.00 %)" in text
    assert "runs disagree 98.00 %, 77.00 %, 73.00 % with nothing but the seed changed: training is unsteady" in text
    assert "more confirming runs (budget.confirm_runs) tell how often, a lower lr (search.space.lr)" in text


@pytest.mark.parametrize(
    ("accuracy", "source", "words"),
    [
        (0.8611, "seeds and images", "seeds and images, of seeds as at other points, which were run again"),
        (1.0, "images", "images, which with so many images does not take 100 % for certain"),
    ],
)
def test_what_a_single_runs_error_comes_from_is_told(accuracy: float, source: str, words: str) -> None:
    alone = best(validation_accuracy=accuracy, standard_error=0.2543, standard_error_source=source, runs=1)
    assert alone.basis == f"1 run; standard error over {words}"


def test_an_accuracy_that_naming_one_class_would_have_is_told_as_such() -> None:
    said = best(validation_accuracy=0.6, largest_class_share=0.6).basis
    assert said.endswith("; no better than always naming the largest class, 60.00 %")
    assert "largest class" not in best(validation_accuracy=0.61, largest_class_share=0.6).basis
    assert "largest class" not in best(validation_accuracy=0.6).basis


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (JobState.RUNNING, "the job is RUNNING; they are kept once it has succeeded"),
        (JobState.CANCELLED, "the job is CANCELLED, and one that has succeeded keeps them"),
        (JobState.SUCCEEDED, "the job's trials trained none (a simulator ran them), or they were removed since"),
    ],
)
def test_an_export_without_weights_says_why_by_the_jobs_state(state: JobState, why: str) -> None:
    assert no_weights(job(state)) == why


def test_best_before_any_result_is_not_found(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs/j1/best", problem(409, "no_result_yet", "no trial is complete"))
    result = cli("best", "j1")
    assert result.exit_code == 4
    assert result.stderr == "error: no trial is complete\n"


def test_cancel_says_what_the_job_is_now(server: StandIn, cli: CLI) -> None:
    server.on("POST", "/api/v1/jobs/j1/cancel", job(JobState.CANCELLED, reason="cancelled by a person"))
    result = cli("cancel", "j1")
    assert (result.exit_code, result.stdout) == (0, "job j1 is CANCELLED: cancelled by a person\n")


def test_cancelling_a_job_that_has_ended_says_that_it_had(server: StandIn, cli: CLI) -> None:
    server.on("POST", "/api/v1/jobs/j1/cancel", job(JobState.SUCCEEDED, reason="nothing to gain"))
    result = cli("cancel", "j1")
    assert result.stdout == "job j1 had ended before and stays SUCCEEDED: nothing to gain\n"
    assert result.exit_code == 0  # what was asked for is so


@pytest.mark.parametrize(
    ("verb", "state"),
    [
        ("pause", JobState.PAUSED),
        ("resume", JobState.RUNNING),
        ("stop", JobState.STOPPING),
        ("retry", JobState.RUNNING),
    ],
)
def test_pause_resume_stop_and_retry_say_what_the_job_is_now(
    server: StandIn, cli: CLI, verb: str, state: JobState
) -> None:
    server.on("POST", f"/api/v1/jobs/j1/{verb}", job(state, reason=f"{verb} was asked for"))
    result = cli(verb, "j1")
    assert (result.exit_code, result.stdout) == (0, f"job j1 is {state}: {verb} was asked for\n")
    assert json.loads(cli(verb, "j1", "-o", "json").stdout)["state"] == state


def test_extend_sends_how_many_under_a_key_of_its_own_and_says_what_the_job_is_now(server: StandIn, cli: CLI) -> None:
    server.on("POST", "/api/v1/jobs/j1/extend", job(JobState.RUNNING, reason="extended by 5 trials"))
    result = cli("extend", "j1", "--trials", "5")
    assert (result.exit_code, result.stdout) == (0, "job j1 is RUNNING: extended by 5 trials\n")
    assert json.loads(cli("extend", "j1", "--trials", "5", "-o", "json").stdout)["state"] == "RUNNING"
    first, second = server.requests
    assert json.loads(first.body) == {"trials": 5}
    assert first.headers["idempotency-key"] != second.headers["idempotency-key"]
    assert cli("extend", "j1").exit_code == cli("extend", "j1", "--trials", "0").exit_code == 2


def test_a_verb_that_is_impossible_is_bad_input_with_a_way_out(server: StandIn, cli: CLI) -> None:
    server.on(
        "POST", "/api/v1/jobs/j1/pause", problem(409, "verb_impossible", "j1 is SUCCEEDED", way_out="submit it again")
    )
    result = cli("pause", "j1")
    assert (result.exit_code, result.stderr) == (2, "error: j1 is SUCCEEDED\nway out: submit it again\n")


def test_models_and_datasets_are_listed(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/models", [{"name": "small_resnet", "options": ["width", "norm"]}])
    server.on("GET", "/api/v1/datasets", [{"name": "digits", "about": "handwritten figures"}])
    assert words(cli("models").stdout)[2] == ["small_resnet", "fixnorm", "or", "weight_decay", "width,", "norm"]
    assert words(cli("datasets").stdout)[2] == ["digits", "handwritten", "figures"]


def test_json_output_is_the_servers_view(server: StandIn, cli: CLI) -> None:
    server.on("GET", "/api/v1/jobs", JobPage(jobs=(job(),), next_cursor=None))
    server.on("GET", "/api/v1/jobs/j1", job())
    server.on("GET", "/api/v1/jobs/j1/trials", [trial(0)])
    server.on("GET", "/api/v1/jobs/j1/best", best())
    server.on("POST", "/api/v1/jobs/j1/cancel", job(JobState.CANCELLED))
    server.on("GET", "/api/v1/models", [{"name": "small_resnet", "options": ["width"]}])
    (listed,) = json.loads(cli("list", "-o", "json").stdout)
    assert JobView.model_validate(listed) == job()
    assert JobView.model_validate_json(cli("show", "j1", "-o", "json").stdout) == job()
    (shown,) = json.loads(cli("trials", "j1", "--output", "json").stdout)
    assert TrialView.model_validate(shown) == trial(0)
    assert BestView.model_validate_json(cli("best", "j1", "-o", "json").stdout) == best()
    assert json.loads(cli("cancel", "j1", "-o", "json").stdout)["state"] == "CANCELLED"
    assert json.loads(cli("models", "-o", "json").stdout) == [
        {"name": "small_resnet", "options": ["width"], "methods": ["fixnorm", "weight_decay"]}
    ]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(404, "job_not_found", "there is no job j9"), 4),
        (problem(500, "internal", "a bug"), 5),
        (problem(503, "starting", "not ready"), 5),
        (problem(409, "other", "cannot"), 2),
        (Answer(b"<html>", 200, "text/html"), 5),
    ],
)
def test_each_kind_of_failure_has_its_exit_status(server: StandIn, cli: CLI, answer: object, code: int) -> None:
    server.on("GET", "/api/v1/jobs/j9", answer)
    result = cli("show", "j9")
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


def test_a_server_that_is_not_there_has_its_exit_status_and_a_way_out(server: StandIn, cli: CLI) -> None:
    server.stop()
    result = cli("list")
    assert result.exit_code == 3
    rule, way_out = result.stderr.splitlines()
    assert server.url in rule
    assert way_out.startswith("way out: Start one with 'fixnorm-tune serve'")


def test_an_address_that_is_no_url_is_bad_input(cli: CLI) -> None:
    result = cli("list", "--server", "localhost:1")
    assert (result.exit_code, result.stderr.splitlines()[1]) == (2, "way out: Write it like http://127.0.0.1:8780")


def test_the_exit_statuses_are_in_the_help(cli: CLI) -> None:
    text = " ".join(cli("--help").stdout.split())
    assert "0 done, 1 the job failed or was cancelled" in text
    assert "'doctor': something is a problem" in text
    assert "'prune': something could not be removed" in text
    assert "2 bad input, 3 no server answers, 4 not found, 5 the server failed, 6 not allowed" in text


def test_queue_shows_who_waits_and_why_and_who_holds_what(server: StandIn, cli: CLI) -> None:
    def entry(job_id: str, **changes: object) -> dict[str, object]:
        fixed = {"id": job_id, "name": "digits", "state": "QUEUED", "reason": "waiting for room", "user": None}
        none = {"cpus": 0, "gpus": 0}
        rest = {"weight": 1, "priority": 0, "held": none, "needed": none, "waiting_since": None, "place": None}
        return fixed | rest | changes

    found = QueueView.model_validate(
        {
            "capacity": {"cpus": 16, "gpus": 4},
            "held": {"cpus": 6, "gpus": 3.5},
            "jobs": [
                entry("j2", place=1, user="ann", weight=2, priority=5, needed={"cpus": 2, "gpus": 1}),
                entry("j1", state="RUNNING", reason="training trial 0", held={"cpus": 6, "gpus": 3.5}),
            ],
        }
    )
    server.on("GET", "/api/v1/queue", found)
    lines = cli("queue").stdout.splitlines()
    assert lines[0] == "trials hold 3.5 of 4 GPUs and 6 of 16 CPUs; 1 job waits for room"
    told = [" ".join(line.split()) for line in lines]
    assert told[1] == "place id name state user weight priority holds a trial needs waits since reason"
    assert told[3] == "1 j2 digits QUEUED ann 2 5 0 GPU, 0 CPU 1 GPU, 2 CPU - waiting for room"
    assert told[4] == "- j1 digits RUNNING - 1 0 3.5 GPU, 6 CPU 0 GPU, 0 CPU - training trial 0"
    assert QueueView.model_validate_json(cli("queue", "-o", "json").stdout) == found


def test_an_empty_queue_is_one_line(server: StandIn, cli: CLI) -> None:
    nothing = {"capacity": {"cpus": 4, "gpus": 0}, "held": {"cpus": 0, "gpus": 0}, "jobs": []}
    server.on("GET", "/api/v1/queue", QueueView.model_validate(nothing))
    assert cli("queue").stdout == "trials hold 0 of 4 CPUs; no jobs wait for room\n"


def test_update_sends_what_is_given_alone_and_tells_what_holds_now(server: StandIn, cli: CLI) -> None:
    spec = JobSpec.model_validate({"share": {"weight": 2, "max_cpus": 3}})
    server.on("PATCH", "/api/v1/jobs/j1", job(spec=spec))
    result = cli("update", "j1", "--weight", 2, "--max-gpus", "none", "--max-cpus", 3)
    assert result.stdout == "job j1: weight 2, priority 0, max_cpus 3, parallel_trials 1\n"
    (sent,) = server.sent("PATCH", "/api/v1/jobs/j1")
    assert json.loads(sent.body)["share"] == {"weight": 2, "max_gpus": None, "max_cpus": 3}


@pytest.mark.parametrize(("given", "named"), [((), "nothing is to change"), (("--weight", -1), "share.weight is -1")])
def test_update_refuses_what_is_no_change_before_it_asks_a_server(
    server: StandIn, cli: CLI, given: tuple[object, ...], named: str
) -> None:
    result = cli("update", "j1", *given)
    assert result.exit_code == 2
    assert named in result.stderr
    assert not server.requests
