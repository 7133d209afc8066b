"""The log of each attempt, as users read it: at once, or as it grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import serving
from typer.testing import CliRunner
from waiting import wait_until

from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.client import Client, following
from service.composition import Service, build
from service.jobs.folders import trial_folder
from service.settings import BackendName, Settings
from worker.contracts import Resources, log_path
from worker.recording import Recording
from worker.simulator import SimulatorBackend


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    """Its trials take a minute, so that what is logged is what a test writes."""
    built = build(settings.model_copy(update={"epoch_seconds": 60.0}))
    yield built
    built.close()


@pytest.fixture
def attempt(http: httpx.Client, job: dict[str, Any], settings: Settings) -> tuple[str, Path]:
    """A job whose trial 0 has begun, and the log of that attempt."""
    one_at_a_time = job | {"budget": {"max_trials": 3, "confirm_runs": 0}}
    job_id = http.post("/api/v1/jobs", json=one_at_a_time).json()["id"]
    deadline = time.monotonic() + 30
    while not http.get(f"/api/v1/jobs/{job_id}").json()["progress"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    path = log_path(trial_folder(settings.state_dir, job_id, 0), f"{job_id}.0.1")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("epoch 1 of 8: größer\n", encoding="utf-8")
    return job_id, path


def test_a_log_is_text_of_the_last_attempt_and_can_be_read_on_from_an_offset(
    http: httpx.Client, attempt: tuple[str, Path]
) -> None:
    job_id, path = attempt
    answer = http.get(f"/api/v1/jobs/{job_id}/trials/0/logs")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["X-Fixnorm-Attempt"] == "1"
    assert answer.text == path.read_text(encoding="utf-8")
    later = http.get(f"/api/v1/jobs/{job_id}/trials/0/logs", params={"offset": 8, "attempt": 1})
    assert later.text == "of 8: größer\n"


def test_following_goes_on_until_the_attempt_has_ended_and_tells_why_it_did(
    http: httpx.Client, attempt: tuple[str, Path]
) -> None:
    job_id, path = attempt
    pieces: list[str] = []
    begun = threading.Event()

    def follow() -> None:
        with Client(str(http.base_url)) as client:
            for piece in client.logs(job_id, 0, follow=True):
                pieces.append(piece)
                begun.set()

    reader = threading.Thread(target=follow)
    reader.start()
    assert begun.wait(30)
    with path.open("a") as file:
        file.write("epoch 2 of 8\n")
    http.post(f"/api/v1/jobs/{job_id}/cancel")
    reader.join(30)
    assert not reader.is_alive()
    lines = "".join(pieces).splitlines()
    assert lines[:2] == ["epoch 1 of 8: größer", "epoch 2 of 8"]
    assert lines[2].endswith("the server: this attempt is CANCELLED: the job was cancelled")
    assert len(lines) == 3


def test_a_reader_that_follows_over_a_restart_of_the_server_and_a_retry_misses_nothing(
    settings: Settings, job: dict[str, Any]
) -> None:
    slow = settings.model_copy(update={"epoch_seconds": 60.0})
    pieces: list[str] = []
    with serving(build(slow).app) as url, httpx.Client(base_url=url, timeout=30) as first:
        job_id = first.post("/api/v1/jobs", json=job).json()["id"]
        while not first.get(f"/api/v1/jobs/{job_id}").json()["progress"]["running"]:
            time.sleep(0.01)
        first_log, second_log = (
            log_path(trial_folder(settings.state_dir, job_id, 0), f"{job_id}.0.{count}") for count in (1, 2)
        )
        first_log.parent.mkdir(parents=True, exist_ok=True)
        first_log.write_text("before\n")
        port = httpx.URL(url).port
        client = Client(url, sleep=lambda _: time.sleep(0.1))
        log = client.logs(job_id, 0, follow=True)
        pieces.append(next(log))
    assert port is not None
    with serving(build(slow).app, port=port), client:  # gives attempt 1 up, and begins attempt 2
        for piece in log:
            pieces.append(piece)
            if "--- attempt 2 ---" in piece:
                second_log.write_text("again\n")
            if "again" in piece:
                client.cancel(job_id)
    before, lost, _, second, again, cancelled = "".join(pieces).splitlines()
    assert (before, second, again) == ("before", "--- attempt 2 ---", "again")
    assert "this attempt is LOST" in lost
    assert "this attempt is CANCELLED" in cancelled


def test_a_trial_that_logs_nothing_for_long_is_followed_on(
    http: httpx.Client, attempt: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, path = attempt
    monkeypatch.setattr(following, "_LONGEST_LOG_SILENCE_SECONDS", 1.0)
    silences: list[float] = []

    def on_silence(seconds: float) -> None:
        silences.append(seconds)
        if len(silences) == 2:
            with path.open("a") as file:
                file.write("epoch 2 of 8\n")
            http.post(f"/api/v1/jobs/{job_id}/cancel")

    with Client(str(http.base_url), sleep=on_silence) as client:
        lines = "".join(client.logs(job_id, 0, attempt=1, follow=True)).splitlines()
    assert lines[:2] == ["epoch 1 of 8: größer", "epoch 2 of 8"]
    assert len(lines) == 3
    assert "this attempt is CANCELLED" in lines[2]
    assert len(silences) >= 2


def test_what_is_not_there_is_refused_in_words(http: httpx.Client, attempt: tuple[str, Path]) -> None:
    job_id, path = attempt
    for address, why in (
        ("job-0/trials/0/logs", "there is no job 'job-0'"),
        (f"{job_id}/trials/7/logs", "has started no trial 7"),
        (f"{job_id}/trials/0/logs?attempt=2", "has 1 attempts, and no attempt 2"),
    ):
        answer = http.get(f"/api/v1/jobs/{address}")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        assert why in answer.json()["detail"]
    path.unlink()
    answer = http.get(f"/api/v1/jobs/{job_id}/trials/0/logs")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_result_yet")
    assert "simulator" in answer.json()["way_out"]


def test_the_simulator_is_spoken_of_only_where_a_server_runs_it(settings: Settings, job: dict[str, Any]) -> None:
    """Of a trial that has said nothing, and of weights and a report that are not there yet."""
    slow = SimulatorBackend(
        Recording.packaged(), Resources(cpus=4.0, gpus=0.0), epoch_seconds=60.0
    )  # in a cluster's place
    real = settings.model_copy(update={"backend": BackendName.RAY})
    with serving(build(real, backend=slow).app) as url, httpx.Client(base_url=url, timeout=30) as http:
        job_id = http.post("/api/v1/jobs", json=job).json()["id"]
        wait_until(lambda: http.get(f"/api/v1/jobs/{job_id}").json()["progress"]["running"])

        def refusal(path: str) -> tuple[str, str]:
            problem = http.get(f"/api/v1/jobs/{job_id}/{path}").json()
            assert problem["code"] == "no_result_yet"
            return problem["detail"], problem["way_out"]

        quiet = refusal("trials/0/logs")
        assert quiet[1].endswith(f"'fixnorm-tune logs {job_id} 0 --follow' waits for what it says")
        for what in ("weights", "report"):
            detail, way_out = refusal(what)
            assert detail == f"{job_id} is RUNNING and has no {what}"
            assert way_out.startswith(f"A job keeps its {what} once it has succeeded, not before.")
        http.post(f"/api/v1/jobs/{job_id}/cancel")
        wait_until(lambda: http.get(f"/api/v1/jobs/{job_id}").json()["state"] == "CANCELLED")
        assert refusal("report")[1].startswith("A job keeps its report once it has succeeded. `fixnorm-tune report ")


def test_the_command_prints_the_log_of_the_trial_that_runs(
    http: httpx.Client, attempt: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, _ = attempt
    monkeypatch.setenv("FIXNORM_SERVER", str(http.base_url))
    result = CliRunner().invoke(app, ["logs", job_id], catch_exceptions=False)
    assert (result.exit_code, result.stdout) == (0, "epoch 1 of 8: größer\n")
    refused = CliRunner().invoke(app, ["logs", job_id, "9"], catch_exceptions=False)
    assert refused.exit_code == 4
    assert "has started no trial 9" in refused.stderr


def test_a_log_that_cannot_be_written_does_not_hold_up_the_job(
    http: httpx.Client, attempt: tuple[str, Path], settings: Settings
) -> None:
    job_id, path = attempt
    path.unlink()
    path.mkdir()
    http.post(f"/api/v1/jobs/{job_id}/cancel")
    deadline = time.monotonic() + 30
    while http.get(f"/api/v1/jobs/{job_id}").json()["state"] != "CANCELLED":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_by_default_a_log_is_of_the_training_and_not_of_the_evaluation_after_it(
    settings: Settings, job: dict[str, Any]
) -> None:
    built = build(settings)
    with serving(built.app) as url, Client(url) as client:
        spec = JobSpec.model_validate(job | {"budget": {"max_trials": 1, "confirm_runs": 0}})
        job_id = client.wait(client.submit(spec).id).id
        for count, text in ((1, "trained"), (2, "evaluated")):
            path = log_path(trial_folder(settings.state_dir, job_id, 0), f"{job_id}.0.{count}")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert "".join(client.logs(job_id, 0)) == "trained"
        assert "".join(client.logs(job_id, 0, attempt=2)) == "evaluated"
        assert "".join(client.logs(job_id, 0, follow=True)) == "trained"
