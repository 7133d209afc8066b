"""A plan tells what a job would do, and does nothing; what is submitted afterwards does just that."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from buckets import picture, reached, s3_server
from typer.testing import CliRunner, Result
from waiting import wait_until

from fixnorm_core.jobfile import load_job_file
from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.client import Client, ProblemError
from service.settings import Settings


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Four CPUs, and trials that last as long as the test."""
    return settings.model_copy(update={"epoch_seconds": 600.0, "poll_interval": timedelta(milliseconds=50)})


def changed(job: dict[str, Any], **groups: Any) -> JobSpec:
    return JobSpec.model_validate(job | groups)


def dry_run(http: httpx.Client, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["submit", *arguments, "--dry-run", "--server", str(http.base_url)])


@pytest.mark.parametrize("sampler", ["fixnorm", "gp", "tpe", "random"])
def test_the_first_trials_are_those_of_the_plan(http: httpx.Client, job: dict[str, Any], sampler: str) -> None:
    budget = {"max_trials": 6, "confirm_runs": 2, "parallel_trials": 3, "stop_early": False}
    spec = changed(job, budget=budget, search={"sampler": sampler}, seed=7)
    with Client(str(http.base_url)) as client:
        plan = client.plan(spec)
        assert client.jobs() == []
        job_id = client.submit(spec).id
        wait_until(lambda: client.job(job_id).progress.running == 3)
        assert [trial.params for trial in client.trials(job_id)] == list(plan.first_points)
        assert client.job(job_id).spec == plan.spec
    assert (plan.trials_at_once, plan.epochs, plan.place) == (3, 6 * spec.training.epochs, None)
    assert plan.reason == "there is room: it starts at once"


@pytest.mark.both_databases
def test_a_plan_tells_the_place_in_the_queue_and_why(http: httpx.Client, job: dict[str, Any]) -> None:
    budget = {"max_trials": 6, "confirm_runs": 2, "parallel_trials": 4, "stop_early": False}
    with Client(str(http.base_url)) as client:
        holder = client.submit(changed(job, budget=budget)).id
        wait_until(lambda: client.job(holder).progress.running == 4)
        waiting = client.submit(changed(job, resources={"cpus_per_trial": 4}, share={"priority": 1})).id
        wait_until(lambda: client.job(waiting).place == 1)
        plan = client.plan(changed(job, resources={"cpus_per_trial": 2}))
        assert plan.place == 2
        assert plan.reason.startswith("waiting for room: a trial needs 2 CPUs and 0 GPUs")
        assert plan.trials_at_once == 2  # the whole machine is counted, of which others hold some
        assert {each.id for each in client.jobs()} == {holder, waiting}


def test_what_submitting_would_refuse_a_plan_refuses(http: httpx.Client, job: dict[str, Any]) -> None:
    with Client(str(http.base_url)) as client:
        for groups in (
            {"resources": {"cpus_per_trial": 5}},
            {"data": {"name": "imagefolder", "path": "nowhere"}},
            {"budget": {"deadline": "2020-01-01T00:00:00Z"}},
            {"webhook": "http://127.0.0.1:1/"},
        ):
            spec = changed(job, **groups)
            refusals = []
            for call in (client.plan, client.submit):
                with pytest.raises(ProblemError) as refused:
                    call(spec)
                refusals.append((refused.value.problem.status, refused.value.problem.code))
            assert refusals[0] == refusals[1]


def test_a_dry_run_prints_a_job_file_that_is_the_whole_job(http: httpx.Client, tmp_path: Path) -> None:
    result = dry_run(
        http, "--model", "resnet18", "--dataset", "digits", "--epochs", "30", "--trials", "9", "--seed", "3"
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "# Nothing was submitted. If it were now:"
    assert "# at most 270 epochs in all" in lines
    written = tmp_path / "plan.yaml"
    written.write_text(result.stdout, encoding="utf-8")
    spec = load_job_file(written)
    assert (spec.model.name, spec.data.name, spec.training.epochs, spec.budget.max_trials, spec.seed) == (
        *("resnet18", "digits", 30),
        *(9, 3),
    )
    assert dry_run(http, str(written)).stdout == result.stdout


def test_options_change_a_file_and_set_changes_both(http: httpx.Client, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("name: mine\ntraining: {epochs: 5}\nseed: 1\n", encoding="utf-8")
    result = dry_run(http, str(file), "--epochs", "6", "--name", "other", "--set", "training.epochs=7", "-o", "json")
    assert result.exit_code == 0, result.output
    for said in ('"name": "other"', '"epochs": 7', '"seed": 1'):
        assert said in result.stdout


def test_an_option_that_breaks_a_rule_is_named(http: httpx.Client) -> None:
    result = dry_run(http, "--epochs", "0")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --epochs 0: training.epochs: 0 does not fit")


def test_nothing_given_is_refused_with_what_can_be(http: httpx.Client) -> None:
    result = dry_run(http)
    assert result.exit_code == 2
    assert "--model resnet18 --dataset cifar10 --epochs 30" in result.stderr


def test_a_folder_that_is_here_and_not_at_the_server_is_told_of(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine" / "flowers").mkdir(parents=True)
    file = tmp_path / "mine" / "job.yaml"
    file.write_text("name: mine\ndata: {name: imagefolder, path: flowers}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for arguments, meant in (
        (["--dataset", "imagefolder", "--data", "mine/flowers"], "did you mean --data ./mine/flowers?"),
        (["--dataset", "imagefolder", "--set", "data.path=mine/flowers"], "did you mean --data ./mine/flowers?"),
        ([str(file), "--data", "mine/flowers"], "did you mean --data ./mine/flowers?"),
        ([str(file)], "did you mean data.path: ./flowers?"),
    ):
        result = dry_run(http, *arguments)
        assert result.exit_code == 2
        assert meant in result.stderr
    assert "did you mean" not in dry_run(http, "--dataset", "imagefolder", "--data", "mine/trees").stderr


def test_a_plan_counts_images_and_steps_and_doubts_what_can_hardly_learn(http: httpx.Client, tmp_path: Path) -> None:
    for label, many in (("cat", 20), ("dog", 10)):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(many):
            (tmp_path / "pets" / label / f"{index}.png").write_bytes(picture(index))
    folder = ("--dataset", "imagefolder", "--data", str(tmp_path / "pets"))
    lines = dry_run(http, *folder, "--epochs", "3", "--batch-size", "64").stdout.splitlines()
    assert "# images: 19 train (cat 13, dog 6), 5 validation (cat 3, dog 2), 6 test (cat 4, dog 2)" in lines
    assert "# 1 step an epoch, 3 in a trial" in lines
    assert "# note: training.batch_size 64 is more than the 19 training images: an epoch is 1 step" in lines
    assert any(
        line.startswith("# note: a trial is 3 steps in all, in which hardly anything is learned") for line in lines
    )
    lines = dry_run(http, *folder, "--epochs", "20", "--batch-size", "4").stdout.splitlines()
    assert "# 5 steps an epoch, 100 in a trial" in lines
    assert not any(line.startswith("# note") for line in lines)
    (tmp_path / "pets" / "owl").mkdir()
    (tmp_path / "pets" / "owl" / "0.png").write_bytes(picture(0))
    lines = dry_run(http, *folder).stdout.splitlines()
    for part in ("validation", "test"):
        assert any(line.startswith(f"# note: class owl has no {part} images, so no {part} accuracy") for line in lines)
    lines = dry_run(http, *folder, "--set", "data.train_limit=2").stdout.splitlines()
    assert any(
        line.startswith("# note: its trials would fail: train_limit is 2, below the 3 classes") for line in lines
    )


def test_a_plan_tells_of_images_that_cannot_be_read(http: httpx.Client, tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(5):
            (tmp_path / "pets" / label / f"{index}.png").write_bytes(picture(index))
    cut = tmp_path / "pets" / "dog" / "5.png"
    cut.write_bytes(picture(5)[:-30])
    folder = ("--dataset", "imagefolder", "--data", str(tmp_path / "pets"))
    found = f"# note: of 11 images that were looked at 1 cannot be read, {cut} for one: "
    lines = dry_run(http, *folder).stdout.splitlines()
    assert f"{found}a trial that reads one fails; replace or remove them, or set data.skip_corrupt to true" in lines
    lines = dry_run(http, *folder, "--set", "data.skip_corrupt=true").stdout.splitlines()
    assert f"{found}they would be left out" in lines


def test_a_plan_looks_into_a_bucket_and_submitting_does_not(http: httpx.Client, job: dict[str, Any]) -> None:
    with s3_server() as server, reached(server) as bucket:
        bucket.put_all({f"{part}/{label}/{n}.png": b"x" for part in ("train", "test") for label in "ab" for n in "123"})
        bucket.remove("test/b/1.png")

        def notes(path: str) -> list[str]:
            result = dry_run(http, "--dataset", "imagefolder", "--data", path, "--set", "data.image_size=12")
            assert result.exit_code == 0, result.output
            lines = result.stdout.splitlines()
            return [
                line for line in lines if line.startswith("# images: ") or (line.startswith("# note") and path in line)
            ]

        assert notes(bucket.url) == ["# images: 4 train (2 a class), 2 validation (1 a class), 5 test (a 3, b 2)"]
        (missing,) = notes("s3://nobodys")
        assert missing.startswith("# note: its trials would fail: there is no s3://nobodys")
        bucket.answers_badly = lambda _: True
        (down,) = notes(bucket.url)
        assert down.startswith("# note: its trials would wait: the store of s3://images does not answer")
        bucket.requests.clear()
        with Client(str(http.base_url)) as client:
            client.submit(changed(job, data={"name": "imagefolder", "path": bucket.url}))
        assert bucket.requests == []
        bucket.answers_badly = lambda _: False
        with reached(server), pytest.MonkeyPatch.context() as patched:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patched.delenv(name)
            patched.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
            patched.setenv("AWS_CONFIG_FILE", "/nowhere")
            (blind,) = notes(bucket.url)
        assert "this server has no keys for s3://images, or not the extra s3, and did not look there" in blind
