"""A full disk: the job is paused and says what to do, nothing is lost, and resuming goes on to the same end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from byhand import attempts, points, put, reason_of, run_to_end, server, state_of, trials
from disks import SmallDisk, mounted
from optuna.trial import TrialState
from safetensors.torch import load_file
from serving import serving
from threads import ThreadBackend
from waiting import wait_for

from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.composition import Service, build
from service.database.rows import AttemptState
from service.jobs import repository
from service.jobs.folders import best_folder, job_folder
from service.jobs.verbs import RESUME, STOP, ask
from service.jobs.views import job_view
from service.opening import CannotStart
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import Failed, FailureKind, Resources, Task, TrainTask, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "disk", size=16 * 2**20) as disk:
        yield disk


@pytest.fixture
def small(settings: Settings, disk: SmallDisk) -> Settings:
    """The files of jobs are on the small disk; the database is not."""
    return settings.model_copy(update={"state_dir": disk.path / "state"})


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "stop_early": False}})


class Full(SimulatorBackend):
    """Finds the disk full while it is told to."""

    full: bool = True

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        if self.full and isinstance(task, TrainTask):
            failed = Failed(FailureKind.DISK_FULL, "no space left on the disk of /runs (0 bytes free)")
            self._news.append(Update(task.attempt_id, outcome=failed))
        else:
            super().start(task, resources, nodes)


class Clock:
    time = datetime(2030, 1, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def tell(service: Service, verb: Any, job_id: str) -> None:
    ask(verb, job_id, database=service.runtime.database, now=service.runtime.now())
    service.dispatcher.wake()


def tick_until(service: Service, job_id: str, state: JobState, *, ticks: int = 20_000) -> None:
    for _ in range(ticks):
        service.dispatcher.tick()
        if state_of(service, job_id) is state:
            return
    raise AssertionError(f"{state_of(service, job_id)}: {reason_of(service, job_id)}")


def test_a_trial_without_room_pauses_its_job_and_goes_on_from_its_checkpoint_to_the_same_weights(
    settings: Settings, small: Settings, disk: SmallDisk, tmp_path: Path
) -> None:
    spec = JobSpec.model_validate(
        {
            "model": ModelSpec(options={"width": 8}),
            "data": DataSpec(train_limit=100),
            "training": TrainingSpec(epochs=4),
            "budget": {"max_trials": 2, "confirm_runs": 1, "stop_early": False},
        }
    )
    undisturbed = settings.model_copy(update={"database_url": None, "state_dir": tmp_path / "undisturbed"})
    with server(undisturbed, backend=ThreadBackend()) as service:
        whole = put(service, spec)
        tick_until(service, whole, JobState.SUCCEEDED)
        expected = points(service, whole)
        weights = load_file(best_folder(undisturbed.state_dir, whole) / "weights.safetensors")

    with server(small, backend=ThreadBackend()) as service:
        job_id = put(service, spec)
        while not any(trial.intermediate_values for trial in trials(service, job_id)):
            service.dispatcher.tick()
        disk.fill()
        tick_until(service, job_id, JobState.PAUSED)
        reason = reason_of(service, job_id)
        folder = job_folder(small.state_dir, job_id)
        assert reason.startswith(f"no space left on the disk of {folder}/trials/")
        assert reason.endswith(f"free some space, then 'fixnorm-tune resume {job_id}' goes on from there")
        for _ in range(3):
            service.dispatcher.tick()
        assert state_of(service, job_id) is JobState.PAUSED
        disk.free()
        tell(service, RESUME, job_id)
        tick_until(service, job_id, JobState.SUCCEEDED)

        assert points(service, job_id) == expected
        rows = [row for row in attempts(service, job_id) if row.failure is not None]
        assert [(row.state, row.failure) for row in rows] == [(AttemptState.FAILED, FailureKind.DISK_FULL)]
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.COMPLETE}
        found = load_file(best_folder(small.state_dir, job_id) / "weights.safetensors")
        assert all(torch.equal(weights[name], found[name]) for name in weights)
        assert not list(small.state_dir.rglob("*.partial"))


@pytest.mark.both_databases
def test_no_number_of_full_disks_is_charged_to_a_trial(settings: Settings, spec: JobSpec) -> None:
    backend = Full(Recording.packaged())
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        for times in range(1, 6):
            tick_until(service, job_id, JobState.PAUSED)
            rows = attempts(service, job_id)
            assert [row.trial_number for row in rows] == [0] * times
            with service.runtime.database.read() as session:
                job = repository.find_job(session, job_id)
            assert job is not None
            assert job_view(job, attempts=rows, best=None).progress.failed == 0
            tell(service, RESUME, job_id)
        tick_until(service, job_id, JobState.PAUSED)
        backend.full = False
        tell(service, RESUME, job_id)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE] * 3


def test_a_restarted_server_leaves_it_paused_and_a_cancelled_one_ends(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=Full(Recording.packaged())) as service:
        job_id = put(service, spec)
        tick_until(service, job_id, JobState.PAUSED)
        reason = reason_of(service, job_id)
    with server(settings) as service:
        for _ in range(3):
            service.dispatcher.tick()
        assert (state_of(service, job_id), reason_of(service, job_id)) == (JobState.PAUSED, reason)
        with service.runtime.database.write.begin() as session:
            repository.request_cancel(session, job_id)
        service.dispatcher.wake()
        tick_until(service, job_id, JobState.CANCELLED)
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.FAIL}


def test_a_stopping_job_waits_for_room_and_then_ends_by_itself(settings: Settings, spec: JobSpec) -> None:
    backend, clock = Full(Recording.packaged()), Clock()
    backend.full = False
    with server(settings.model_copy(update={"retry_seconds": 5}), backend=backend, now=clock) as service:
        job_id = put(service, spec)
        while not any(row.state == AttemptState.COMPLETE for row in attempts(service, job_id)):
            service.dispatcher.tick()
        tell(service, STOP, job_id)
        news = backend._replays.popitem()[0] if backend._replays else None
        assert news is not None
        backend.full = True
        backend._news.append(Update(news, outcome=Failed(FailureKind.DISK_FULL, "no space left on the disk of /runs")))
        for _ in range(3):
            service.dispatcher.tick()
        assert state_of(service, job_id) is JobState.STOPPING
        assert "is tried again at 12:00:05 UTC: no space left on the disk of /runs" in reason_of(service, job_id)
        backend.full = False
        clock.time += timedelta(seconds=5)
        tick_until(service, job_id, JobState.SUCCEEDED)


def test_a_database_without_room_refuses_what_it_cannot_store_and_goes_on_by_itself(
    settings: Settings, disk: SmallDisk, job: dict[str, Any]
) -> None:
    folder = disk.path / "state"
    full = settings.model_copy(update={"database_url": None, "state_dir": folder, "epoch_seconds": 0.1})
    with serving(build(full).app) as url, httpx.Client(base_url=url, timeout=60) as http:
        job_id = http.post("/api/v1/jobs", json=job).json()["id"]
        assert http.get("/readyz").status_code == 200
        while not any(trial["curve"] for trial in http.get(f"/api/v1/jobs/{job_id}/trials").json()):
            pass
        disk.fill()
        refused = http.post("/api/v1/jobs", json=job)
        assert (refused.status_code, refused.json()["code"]) == (507, "disk_full")
        reason = f"no space left on the disk of {folder / 'fixnorm.db'} (0 bytes free)"
        assert refused.json()["detail"] == f"the database cannot be written: {reason}"
        while (ready := http.get("/readyz")).json()["detail"] != f"the database cannot be written: {reason}":
            assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
        assert "fixnorm_tune_state_free_bytes 0.0" in http.get("/metrics").text
        disk.free()
        assert wait_for(http, job_id).state is JobState.SUCCEEDED
        assert http.get("/readyz").status_code == 200
        assert [found["id"] for found in http.get("/api/v1/jobs").json()["jobs"]] == [job_id]  # nothing of the refused
        trials = http.get(f"/api/v1/jobs/{job_id}/trials").json()
        assert [(trial["state"], trial["attempts"]) for trial in trials] == [("COMPLETE", 1)] * len(trials)


def test_a_server_that_starts_on_a_full_disk_says_so_and_starts_when_there_is_room(
    settings: Settings, disk: SmallDisk
) -> None:
    full = settings.model_copy(update={"database_url": None, "state_dir": disk.path / "state"})
    disk.fill()
    with pytest.raises(CannotStart, match=r"no space left on the disk of .*/state/fixnorm.db \(0 bytes free\)"):
        build(full)
    disk.free()
    with server(full) as service:
        disk.fill()
        with pytest.raises(CannotStart, match=r"no space left on the disk of") as raised:
            service.start()
        assert raised.value.way_out == "Free some space there and start again; nothing that was stored is lost"
    with pytest.raises(CannotStart, match=r"no space left on the disk of"), server(full) as service:
        service.start()
    disk.free()
    with server(full) as service:
        service.start()


def test_a_log_of_the_server_without_room_is_no_reason_to_stop(disk: SmallDisk) -> None:
    words = """
import structlog
from service.server_log import configure_log
from service.settings import LogFormat
configure_log(LogFormat.JSON, "info")
for number in range(100):
    structlog.get_logger("service.test").warning("dispatch.failed", number=number, exc_info=OSError("no room"))
print("went on")
"""
    with (disk.path / "server.log").open("w", encoding="utf-8") as log:
        disk.fill()
        done = subprocess.run([sys.executable, "-c", words], stdout=subprocess.PIPE, stderr=log, check=True)
    assert done.stdout == b"went on\n"
    assert (disk.path / "server.log").read_bytes() == b""


def test_a_result_without_room_is_written_after_resuming(
    small: Settings, disk: SmallDisk, spec: JobSpec, tmp_path: Path
) -> None:
    with server(small) as service:
        job_id = put(service, spec)
        disk.fill()
        tick_until(service, job_id, JobState.PAUSED)
        folder = best_folder(small.state_dir, job_id)
        assert reason_of(service, job_id).startswith(
            f"the result cannot be written: no space left on the disk of {folder} (0 bytes free)"
        )
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE] * 3
        tell(service, RESUME, job_id)
        tick_until(service, job_id, JobState.PAUSED)  # still full
        assert not list(folder.glob(".*.partial"))
        disk.free()
        tell(service, RESUME, job_id)
        tick_until(service, job_id, JobState.SUCCEEDED)
        assert (folder / "report.md").read_text(encoding="utf-8")
        assert len(attempts(service, job_id)) == 4  # nothing was trained or evaluated again


def test_the_result_of_a_stopping_job_is_tried_again_by_itself(small: Settings, disk: SmallDisk, spec: JobSpec) -> None:
    clock = Clock()
    with server(small, now=clock) as service:
        job_id = put(service, spec)
        while not any(row.state == AttemptState.COMPLETE for row in attempts(service, job_id)):
            service.dispatcher.tick()
        disk.fill()
        tell(service, STOP, job_id)
        while "the result cannot be written" not in reason_of(service, job_id):
            service.dispatcher.tick()
        disk.free()
        service.dispatcher.tick()
        assert state_of(service, job_id) is JobState.STOPPING
        clock.time += timedelta(seconds=30)
        tick_until(service, job_id, JobState.SUCCEEDED)
        assert (best_folder(small.state_dir, job_id) / "report.md").exists()
