"""A server whose nodes see no folder of its own: real Ray, a real S3-compatible server, and two state folders."""

from __future__ import annotations

import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from buckets import KEY_ID, SECRET, Bucket, reached, s3_server
from processes import ServerProcess
from pruning import ALL
from pydantic import ValidationError
from safetensors.torch import load_file
from serving import serving

from fixnorm_core.spec import BudgetSpec, CheckpointSpec, DataSpec, JobSpec, ModelSpec, ResourceSpec, TrainingSpec
from service import doctor
from service.client import Client
from service.composition import build
from service.opening import CannotStart
from service.retention.policy import Policy
from service.retention.prune import Pruner
from service.schemas import JobState, JobView, TrialState
from service.settings import BackendName, Settings
from service.studies.storage import open_writing_storage

EPOCHS = 30
URL = "s3://images/team/kept"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as bucket, reached(bucket):  # the server of all tests has this environment
        yield bucket


@pytest.fixture(autouse=True)
def anew(bucket: Bucket) -> Iterator[None]:
    with reached(bucket):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(bucket: Bucket, folder: Path) -> Iterator[ServerProcess]:
    settings = {"artifacts": URL, "scratch": folder / "scratch", "cpus": 2, "retry_seconds": 0.1, "allow_code": True}
    with ServerProcess("server", folder, state_dir=folder / "state", backend="ray", **settings).running() as server:
        yield server


def spec(*, epochs: int = EPOCHS, **more: Any) -> JobSpec:
    return JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=400),
        training=TrainingSpec(epochs=epochs, checkpoints=CheckpointSpec(keep=2)),
        budget=BudgetSpec(max_trials=1, parallel_trials=1, confirm_runs=0, stop_early=False),
        **more,
    )


def until(condition: Callable[[], bool], what: str, *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.05)


def workers(server: ServerProcess, kind: str = "Slot") -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if command and command[0].startswith(f"ray::{kind}"):
            found.append(process)
    return found


def epochs_of(client: Client, job_id: str) -> int:
    return max((len(trial.curve) for trial in client.trials(job_id)), default=0)


@pytest.fixture(scope="module")
def disturbed(server: ServerProcess, bucket: Bucket, folder: Path) -> JobView:
    """A job whose slot was killed, whose newest checkpoint was cut off, and whose store was down for a while."""
    with Client(server.url) as client:
        job_id = client.submit(spec()).id
        until(lambda: epochs_of(client, job_id) >= 3, "it trains")
        for slot in workers(server):
            slot.send_signal(signal.SIGSTOP)
        checkpoints = [key for key in bucket.keys(f"team/kept/jobs/{job_id}/") if "checkpoint" in key]
        assert len(checkpoints) >= 2
        bucket.put(checkpoints[-1], bucket.content(checkpoints[-1])[:1000])
        for slot in workers(server):
            slot.kill()
        until(lambda: client.trials(job_id)[0].attempts == 2, "it is tried again")
        until(lambda: epochs_of(client, job_id) >= 6, "it goes on")
        refused: list[str] = []

        def is_down(asked: str) -> bool:
            refused.append(asked)
            return True

        bucket.answers_badly = is_down
        until(lambda: len(refused) > 10, "it asks a store that is down")
        bucket.answers_badly = lambda _: False
        return client.wait(job_id)


@pytest.mark.ray
def test_it_goes_on_elsewhere_over_a_kill_a_damaged_checkpoint_and_an_outage_as_if_undisturbed(
    server: ServerProcess, disturbed: JobView, bucket: Bucket, folder: Path, tmp_path: Path
) -> None:
    assert disturbed.state is JobState.SUCCEEDED, disturbed.reason
    with Client(server.url) as client:
        (trial,) = client.trials(disturbed.id)
        assert trial.state is TrialState.COMPLETE
        undisturbed = client.wait(client.submit(spec()).id)
        (other,) = client.trials(undisturbed.id)
        assert (trial.curve, trial.validation_accuracy) == (other.curve, other.validation_accuracy)
        found = [client.download_weights(job_id, to=tmp_path / job_id) for job_id in (disturbed.id, undisturbed.id)]
        lost, resumed = ("\n".join(client.logs(disturbed.id, 0, attempt=count)) for count in (1, 2))
        assert "Diagnostics" in client.report(disturbed.id)  # from what the run has left in the bucket
    one, two = map(load_file, found)
    assert all(one[name].equal(two[name]) for name in one)
    assert "epoch 1 of 30" in lost
    assert "UTC the server: this attempt is FAILED" in lost
    assert "not resuming from s3://images/team/kept/jobs/" in resumed
    assert "resuming after epoch" in resumed
    best = f"team/kept/jobs/{disturbed.id}/best/round-000-000001"
    assert bucket.keys(best) == [
        f"{best}/{name}" for name in ("job.json", "report.md", "result.json", "weights.safetensors")
    ]
    assert bucket.content(f"{best}/weights.safetensors") == found[0].read_bytes()
    left = [path for path in (folder / "state" / "jobs").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix in (".pt", ".safetensors", ".log")]
    assert not [path for path in (folder / "scratch").rglob("*") if path.is_file()]
    told = server.log + lost + resumed
    assert SECRET not in told
    assert KEY_ID not in told


@pytest.mark.ray
def test_of_several_ranks_the_first_keeps_their_files_and_all_go_on_from_them(
    server: ServerProcess, bucket: Bucket, folder: Path
) -> None:
    with Client(server.url) as client:
        job = spec(resources=ResourceSpec(cpus_per_trial=2, ranks_per_trial=2))
        job_id = client.submit(job).id
        until(lambda: epochs_of(client, job_id) >= 2, "it trains")
        (companion,) = workers(server, "Companion")
        companion.kill()
        view = client.wait(job_id)
        assert view.state is JobState.SUCCEEDED, view.reason
        assert client.trials(job_id)[0].attempts == 2
        assert "resuming after epoch" in "\n".join(client.logs(job_id, 0, attempt=2))
    below = f"team/kept/jobs/{job_id}/"
    assert {Path(key).name for key in bucket.keys(f"{below}trials/0000/attempt")} == {
        *("result.json", "weights.safetensors")
    }
    assert not [path for path in (folder / "scratch").rglob("*") if path.is_file() and path.suffix != ".lock"]


CODE = "def build(num_classes):\n    raise ZeroDivisionError('ours')\n"


@pytest.mark.ray
def test_a_file_that_came_with_a_job_reaches_its_workers(server: ServerProcess, bucket: Bucket) -> None:
    with Client(server.url) as client:
        sent = spec(epochs=1).model_copy(update={"model": ModelSpec(name="code:build"), "code": CODE})
        view = client.wait(client.submit(sent).id)
        assert view.state is JobState.FAILED
        assert "ZeroDivisionError: ours" in view.reason
    (kept,) = bucket.keys("team/kept/code/")
    assert bucket.content(kept).decode() == CODE


@pytest.fixture
def elsewhere(server: ServerProcess, disturbed: JobView, folder: Path, tmp_path: Path) -> Settings:
    """Another server's, on the same jobs and with a state folder of its own."""
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(folder / "state" / "fixnorm.db")) as here, closing(sqlite3.connect(copy)) as there:
        here.backup(there)
    return Settings(
        state_dir=tmp_path / "state",
        database_url=f"sqlite:///{copy}",
        artifacts=URL,
        allow_code=True,
        backend=BackendName.SIMULATOR,
        cpus=1,
    )


@pytest.mark.ray
def test_another_server_serves_what_it_has_no_file_of_and_says_so_when_the_store_is_down(
    elsewhere: Settings, disturbed: JobView, bucket: Bucket, tmp_path: Path
) -> None:
    service = build(elsewhere)
    with serving(service.app) as url, Client(url) as client, httpx.Client(base_url=f"{url}/api/v1/jobs") as http:
        weights = client.download_weights(disturbed.id, to=tmp_path / "weights")
        assert load_file(weights)
        assert "resuming after epoch" in "\n".join(client.logs(disturbed.id, 0, attempt=2))
        assert "# " in client.report(disturbed.id)
        with_code = [view.id for view in client.jobs() if view.spec.model.name.startswith("code@")]
        assert [client.code(job_id) for job_id in with_code] == [CODE] * len(with_code)
        bucket.answers_badly = lambda _: True
        for path in ("weights", "trials/0/logs"):
            answer = http.get(f"/{disturbed.id}/{path}", timeout=60)
            assert (answer.status_code, answer.json()["code"]) == (503, "bucket_down")
        bucket.answers_badly = lambda _: False
        client.wait(client.submit(spec(epochs=2)).id)  # the newest job is never pruned

        def pruner(policy: Policy) -> Pruner:
            later = service.runtime.now() + timedelta(days=2)
            opened = partial(open_writing_storage, elsewhere.url)
            store = service.runtime.files.store
            return Pruner(service.runtime.database, opened, elsewhere.state_dir, policy, lambda: later, store=store)

        below = f"team/kept/jobs/{disturbed.id}/"
        bucket.put(f"{below}trials/0000/attempt-000001/checkpoint-000009.pt", b"of one that was cut off")
        plan = pruner(Policy(timedelta(1), timedelta(1))).plan()
        done = list(pruner(Policy(timedelta(1), timedelta(1))).prune())
        assert [each for each in done if each.job == disturbed.id] == [
            each for each in plan if each.job == disturbed.id
        ]
        assert {(each.what, each.kept) for each in done if each.job == disturbed.id} == {
            ("checkpoints", None),
            ("logs", None),
        }
        assert {Path(key).name for key in bucket.keys(below)} == {
            *("job.json", "report.md", "result.json", "weights.safetensors")
        }
        bucket.answers_badly = lambda asked: asked.startswith("POST")
        (told,) = [each for each in pruner(replace(ALL, keep_best=True)).prune() if each.job == disturbed.id]
        assert "does not answer as it should" in str(told.kept)
        bucket.answers_badly = lambda _: False
        list(pruner(replace(ALL, keep_best=True)).prune())
        assert bucket.keys(below) == [
            f"{below}best/round-000-000001/{name}"
            for name in ("job.json", "report.md", "result.json", "weights.safetensors")
        ]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://nobodys-bucket/kept", "there is no s3://nobodys-bucket/kept: the store answers NoSuchBucket"),
        ("no credentials", "needs credentials, and there are none in the environment of this process"),
        ("/a/folder", "address '/a/folder' is not s3://BUCKET"),
        ("gs://images", "is not s3://BUCKET"),
    ],
)
def test_a_store_that_will_never_take_anything_is_refused_at_the_start_and_by_doctor(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    if url == "no credentials":
        url = URL
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("FIXNORM_ARTIFACTS", url)
    monkeypatch.setenv("FIXNORM_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises((CannotStart, ValidationError), match=says):
        build(Settings(backend=BackendName.SIMULATOR))
    monkeypatch.setattr(doctor, "CHECKS", {"artifacts": doctor.CHECKS["artifacts"]})
    (found,) = doctor.examine()
    assert found.condition is doctor.Condition.PROBLEM
    assert says in found.says


def test_a_store_that_is_down_keeps_no_server_from_starting(bucket: Bucket, tmp_path: Path) -> None:
    bucket.answers_badly = lambda _: True
    settings = Settings(state_dir=tmp_path, artifacts=URL, backend=BackendName.SIMULATOR, cpus=1)
    with serving(build(settings).app) as url:
        assert httpx.get(f"{url}/readyz").json()["status"] == "ok"
        assert httpx.get(f"{url}/api/v1/jobs").json()["jobs"] == []
