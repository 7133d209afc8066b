"""What a run tells of its weights was written beside users' code: a server copies its trial's own files, or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from buckets import Bucket, environment, s3_server
from byhand import put, reason_of, server, state_of
from waiting import wait_until

from fixnorm_core.artifacts import attempt_folder
from fixnorm_core.spec import JobSpec
from service.composition import Service
from service.jobs import repository
from service.jobs.files import trial_name
from service.jobs.folders import best_folder, trial_folder
from service.schemas import TERMINAL_STATES, JobState
from service.settings import Settings
from worker.contracts import Trained, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

URL = "s3://images/team/kept"
Place = Callable[[str, int, int], str]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from s3fs import S3FileSystem

    with s3_server() as bucket:
        for name, value in environment(bucket.endpoint).items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield bucket
        S3FileSystem.clear_instance_cache()


@dataclass
class Telling(SimulatorBackend):
    """The simulator, whose runs tell of weights somewhere."""

    place: Place = lambda *_: ""

    def poll(self) -> list[Update]:
        return [self._telling(update) for update in super().poll()]

    def _telling(self, update: Update) -> Update:
        if not isinstance(update.outcome, Trained):
            return update
        job_id, number, count = update.attempt_id.rsplit(".", 2)
        told = {"weights": self.place(job_id, int(number), int(count))}
        return dataclasses.replace(update, outcome=Trained(update.outcome.result.model_copy(update=told)))


def one_trial(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 1, "confirm_runs": 0, "parallel_trials": 1, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget, "search": job["search"] | {"sampler": "random"}})


def ended(service: Service, job: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A job, and what it has ended with."""
    job_id = put(service, one_trial(job))
    wait_until(lambda: bool(service.dispatcher.tick() or state_of(service, job_id) in TERMINAL_STATES))
    assert state_of(service, job_id) is JobState.SUCCEEDED, reason_of(service, job_id)
    with service.runtime.database.read() as session:
        found = repository.find_job(session, job_id)
    assert found is not None
    assert found.result is not None
    return job_id, found.result


def reports_none(service: Service, job_id: str, result: dict[str, Any]) -> bool:
    return result["weights"] is None and result["weights_url"] is None and "none were kept" in report(service, result)


def report(service: Service, result: dict[str, Any]) -> str:
    place = str(result["report"])
    if place.startswith("s3:"):
        return service.runtime.files.read(place) or ""
    return Path(place).read_text(encoding="utf-8")


def test_a_job_whose_weights_are_gone_from_the_bucket_ends_without_them_and_one_that_is_refused_waits(
    settings: Settings, bucket: Bucket, job: dict[str, Any]
) -> None:
    def gone(job_id: str, number: int, count: int) -> str:
        return f"{URL}/{trial_name(job_id, number)}/{attempt_folder(count)}/weights.safetensors"

    backend = Telling(Recording.packaged(), place=gone)
    with server(settings.model_copy(update={"artifacts": URL}), backend=backend) as service:
        job_id, result = ended(service, job)
        assert reports_none(service, job_id, result)

        bucket.answers_badly, bucket.status = (lambda asked: asked.startswith("PUT")), 403
        job_id = put(service, one_trial(job))
        wait_until(lambda: bool(service.dispatcher.tick() or "may not be written" in reason_of(service, job_id)))
        assert "tried again every 30 seconds" in reason_of(service, job_id)
        assert state_of(service, job_id) not in TERMINAL_STATES


def test_an_address_of_another_jobs_weights_is_not_copied(
    settings: Settings, bucket: Bucket, job: dict[str, Any]
) -> None:
    bucket.put("team/kept/jobs/job-another/trials/0000/attempt-000001/weights.safetensors", b"theirs")
    told = [
        lambda *_: f"{URL}/jobs/job-another/trials/0000/attempt-000001/weights.safetensors",
        lambda job_id, *_: f"{URL}/{trial_name(job_id, 0)}/../../../job-another/trials/0000/x",
        lambda *_: "s3://elsewhere/x",
    ]
    backend = Telling(Recording.packaged())
    with server(settings.model_copy(update={"artifacts": URL}), backend=backend) as service:
        for place in told:
            backend.place = place
            job_id, result = ended(service, job)
            assert reports_none(service, job_id, result)
            assert not any(key.endswith("safetensors") for key in bucket.keys(f"team/kept/jobs/{job_id}/best/"))


def test_a_path_of_what_is_not_the_trials_is_not_copied(
    settings: Settings, tmp_path: Path, job: dict[str, Any]
) -> None:
    secret = tmp_path / "the server's"
    secret.write_text("a secret of the server")

    def a_link(job_id: str, number: int, _: int) -> str:
        path = trial_folder(settings.state_dir, job_id, number) / "weights.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(secret)
        return str(path)

    def a_folder(job_id: str, number: int, _: int) -> str:
        path = trial_folder(settings.state_dir, job_id, number) / "weights.safetensors"
        path.mkdir(parents=True)
        return str(path)

    def in_a_linked_folder(job_id: str, number: int, _: int) -> str:
        path = trial_folder(settings.state_dir, job_id, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to("/proc/self")
        return str(path / "environ")

    def climbing(job_id: str, number: int, _: int) -> str:
        return f"{trial_folder(settings.state_dir, job_id, number)}/../../../../{secret.name}"

    backend = Telling(Recording.packaged())
    with server(settings, backend=backend) as service:
        elsewhere: list[Place] = [lambda *_: str(secret), lambda *_: "/proc/self/environ"]
        for place in (*elsewhere, a_link, a_folder, in_a_linked_folder, climbing):
            backend.place = place
            job_id, result = ended(service, job)
            assert reports_none(service, job_id, result)
            assert not (best_folder(settings.state_dir, job_id) / "weights.safetensors").exists()
