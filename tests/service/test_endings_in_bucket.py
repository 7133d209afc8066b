"""What a job has ended with stays what it was until another ending is committed, in a bucket and on disk."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from buckets import Bucket, reached, s3_server
from byhand import put, reason_of, server, state_of
from serving import serving
from waiting import wait_until

from fixnorm_core.artifacts import ArtifactStore, Damaged, attempt_folder
from fixnorm_core.data.store import BucketDown
from fixnorm_core.errors import DataError
from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import Service, build
from service.database.rows import JobRow
from service.jobs import repository
from service.jobs.endpoints import fetch_report
from service.jobs.files import JobFiles, trial_name
from service.jobs.folders import trial_folder
from service.jobs.objects import stream_object
from service.jobs.reopening import extend
from service.metrics import store as store_module
from service.problems import NoResultYet
from service.reporting import result as result_module
from service.retention.policy import Policy, What
from service.retention.prune import Pruner
from service.schemas import TERMINAL_STATES, JobState
from service.settings import Settings
from service.studies.storage import open_writing_storage
from worker.contracts import Trained, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

URL = "s3://images/team/kept"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as bucket, reached(bucket):  # the server of all tests has this environment
        yield bucket


@pytest.fixture(autouse=True)
def anew(bucket: Bucket) -> Iterator[None]:
    with reached(bucket):
        yield
    for key in bucket.keys(""):
        bucket.remove(key)


@dataclass
class Leaving(SimulatorBackend):
    """The simulator, whose runs leave weights that are none."""

    state_dir: Path = field(default_factory=Path)
    in_bucket: bool = True

    def poll(self) -> list[Update]:
        return [self._with_weights(update) for update in super().poll()]

    def _with_weights(self, update: Update) -> Update:
        if not isinstance(update.outcome, Trained):
            return update
        job_id, number, count = update.attempt_id.rsplit(".", 2)
        if self.in_bucket:
            name = f"{trial_name(job_id, int(number))}/{attempt_folder(int(count))}/weights.safetensors"
            ArtifactStore(URL).write(name, update.attempt_id.encode())
            place = f"{URL}/{name}"
        else:
            folder = trial_folder(self.state_dir, job_id, int(number))
            folder.mkdir(parents=True, exist_ok=True)
            place = str(folder / "weights.safetensors")
            Path(place).write_text(update.attempt_id)
        result = update.outcome.result.model_copy(update={"weights": place})
        return dataclasses.replace(update, outcome=Trained(result))


@pytest.fixture(params=["in a bucket", "on disk"])
def hands(
    request: pytest.FixtureRequest, settings: Settings, bucket: Bucket
) -> Iterator[tuple[Service, Callable[[], dict[str, bytes]]]]:
    """A server that is moved by hand, and what tells the contents of all that jobs have ended with."""
    is_stored = request.param == "in a bucket"
    backend = Leaving(Recording.packaged(), state_dir=settings.state_dir, in_bucket=is_stored)
    chosen = settings.model_copy(update={"artifacts": URL if is_stored else None})

    def kept() -> dict[str, bytes]:
        if is_stored:
            return {
                f"s3://images/{key}": bucket.content(key) for key in bucket.keys("team/kept/jobs/") if "/best/" in key
            }
        return {str(path): path.read_bytes() for path in settings.state_dir.rglob("best/**/*") if path.is_file()}

    with server(chosen, backend=backend) as service:
        yield service, kept


def spec_of(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 2, "confirm_runs": 0, "parallel_trials": 1, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget, "search": job["search"] | {"sampler": "random"}})


def stored(service: Service, job_id: str) -> JobRow:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return job


def to_end(service: Service, job_id: str) -> JobState:
    wait_until(lambda: bool(service.dispatcher.tick() or state_of(service, job_id) in TERMINAL_STATES))
    return state_of(service, job_id)


def more(service: Service, job_id: str) -> None:
    extend(job_id, 2, database=service.runtime.database, key=None, now=service.runtime.now())
    service.dispatcher.wake()


def pruner(service: Service, policy: Policy) -> Pruner:
    runtime = service.runtime
    opened = partial(open_writing_storage, runtime.settings.url)
    later = timedelta(hours=2)
    return Pruner(
        runtime.database,
        opened,
        runtime.settings.state_dir,
        policy,
        lambda: runtime.now() + later,
        store=runtime.files.store,
    )


def test_a_job_keeps_the_files_it_had_ended_with_until_another_ending_is_committed_and_for_good_if_none_is(
    hands: tuple[Service, Callable[[], dict[str, bytes]]], job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, kept = hands
    job_id = put(service, spec_of(job))
    assert to_end(service, job_id) is JobState.SUCCEEDED
    first, files = stored(service, job_id).result, kept()
    assert first is not None
    assert {Path(name).name for name in files} == {"weights.safetensors", "report.md", "result.json", "job.json"}
    assert {first["weights"], first["report"]} <= set(files)

    real = result_module._write

    def no_report(to: JobFiles, place: str, text: str) -> None:
        if place.endswith("result.json"):
            raise BucketDown("it is down", "wait") if to.store is not None else OSError(errno.ENOSPC, "full", place)
        real(to, place, text)

    monkeypatch.setattr(result_module, "_write", no_report)
    more(service, job_id)
    wait_until(lambda: bool(service.dispatcher.tick() or len(kept()) > len(files)))
    wait_until(lambda: bool(service.dispatcher.tick() or re.search("it is down|disk", reason_of(service, job_id))))
    assert files.items() <= kept().items()
    with service.runtime.database.write.begin() as session:
        repository.request_cancel(session, job_id)
    service.dispatcher.wake()
    assert to_end(service, job_id) is JobState.CANCELLED
    assert stored(service, job_id).result == first
    done = list(pruner(service, Policy()).prune())
    assert {(each.what, each.kept) for each in done} == {(What.SCRATCH, None)}
    assert kept() == files

    monkeypatch.setattr(result_module, "_write", real)
    more(service, job_id)
    assert to_end(service, job_id) is JobState.SUCCEEDED
    last = stored(service, job_id).result
    assert last is not None
    assert files.items() <= kept().items()  # whoever fetches them has an hour
    list(pruner(service, Policy()).prune())
    left = kept()
    assert len(left) == 4
    assert {last["weights"], last["report"]} <= set(left)
    assert not set(left) & set(files)


def test_a_job_that_goes_leaves_what_it_ended_with_last_and_nothing_of_before(
    hands: tuple[Service, Callable[[], dict[str, bytes]]], job: dict[str, Any]
) -> None:
    service, kept = hands
    job_id = put(service, spec_of(job))
    to_end(service, job_id)
    more(service, job_id)
    to_end(service, job_id)
    named = stored(service, job_id).result
    assert named is not None
    assert len(kept()) == 8
    to_end(service, put(service, spec_of(job)))  # the newest job is never pruned
    (told,) = list(pruner(service, Policy(jobs=timedelta(0))).prune())
    assert (told.what, told.kept) == (What.JOB, None)
    left = [name for name in kept() if job_id in name]
    assert len(left) == 4
    assert {named["weights"], named["report"]} <= set(left)


def store_up(http: httpx.Client) -> bool:
    return "fixnorm_tune_store_up 1.0" in http.get("/metrics").text


def test_a_store_that_is_down_is_seen_in_the_metrics_and_a_server_that_waits_for_it_tells_that_it_lives(
    settings: Settings, bucket: Bucket, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_EVERY_SECONDS", 0.1)
    service, goes_on, hung = build(settings.model_copy(update={"artifacts": URL})), threading.Event(), []

    def hang(asked: str) -> None:
        hung.append(asked)
        goes_on.wait(60)

    with serving(service.app) as url, Client(url) as client, httpx.Client(base_url=url, timeout=10) as http:
        job_id = client.wait(client.submit(spec_of(job)).id).id
        assert store_up(http)
        bucket.answers_badly = lambda _: True
        wait_until(lambda: not store_up(http))
        bucket.answers_badly = lambda _: False
        wait_until(lambda: store_up(http))
        bucket.before = hang
        with ThreadPoolExecutor(50) as pool:
            try:
                found = [pool.submit(httpx.get, f"{url}/api/v1/jobs/{job_id}/report", timeout=60) for _ in range(50)]
                wait_until(lambda: len(hung) > 5)
                for path in ("/healthz", "/readyz"):
                    assert http.get(path).status_code == 200
                assert not any(each.done() for each in found)
            finally:
                bucket.before = lambda _: None
                goes_on.set()


def test_a_download_is_of_one_version_or_is_cut_short(bucket: Bucket, tmp_path: Path) -> None:
    name, size = "jobs/job-one/best/weights.safetensors", 20 * 2**20
    bucket.put(f"team/kept/{name}", b"a" * size)

    async def fetch(between: Callable[[], None]) -> bytes:
        answer = stream_object(
            JobFiles(tmp_path, ArtifactStore(URL)), f"{URL}/{name}", job_id="job-one", filename="weights"
        )
        assert answer.headers["content-length"] == str(size)
        found = b""
        async for piece in answer.body_iterator:
            found += cast("bytes", piece)
            between()
        return found

    assert asyncio.run(fetch(lambda: None)) == b"a" * size
    with pytest.raises(DataError, match="was replaced or removed while it was read"):
        asyncio.run(fetch(lambda: bucket.put(f"team/kept/{name}", b"b" * size)))
    with pytest.raises(DataError, match="was replaced or removed while it was read"):
        asyncio.run(fetch(lambda: bucket.remove(f"team/kept/{name}")))


def test_a_download_of_what_is_damaged_is_cut_short(bucket: Bucket, tmp_path: Path) -> None:
    name = "jobs/job-one/best/weights.safetensors"
    (tmp_path / "weights").write_bytes(bytes(20 * 2**20))
    ArtifactStore(URL).put(tmp_path / "weights", name)

    async def fetch() -> int:
        answer = stream_object(
            JobFiles(tmp_path, ArtifactStore(URL)), f"{URL}/{name}", job_id="job-one", filename="weights"
        )
        found = 0
        with pytest.raises(Damaged) if is_damaged else nullcontext():
            async for piece in answer.body_iterator:
                found += len(piece)
        return found

    is_damaged = False
    assert asyncio.run(fetch()) == 20 * 2**20
    bucket.damage(f"team/kept/{name}")
    is_damaged = True
    assert asyncio.run(fetch()) < 20 * 2**20
    (tmp_path / "weights").write_bytes(b"few")  # all is known before the answer begins
    ArtifactStore(URL).put(tmp_path / "weights", name)
    bucket.damage(f"team/kept/{name}")
    with pytest.raises(NoResultYet, match="is damaged"):
        asyncio.run(fetch())


def test_a_server_reads_reports_from_the_bucket_whoever_wrote_them_and_keeps_no_copy(
    settings: Settings, bucket: Bucket, job: dict[str, Any]
) -> None:
    chosen = settings.model_copy(update={"artifacts": URL})
    with server(chosen) as service:
        job_id = put(service, spec_of(job))
        to_end(service, job_id)
        first = bytes(fetch_report(job_id, service.runtime).body)
        assert first.startswith(b"# ")
        more(service, job_id)
        to_end(service, job_id)
        assert bytes(fetch_report(job_id, service.runtime).body) != first
        assert not list(settings.state_dir.rglob("report.md"))


def test_a_result_that_a_store_never_takes_does_not_keep_a_server_from_ending() -> None:
    code = """
import threading
from service.dispatch import endings

endings._PATIENCE_SECONDS = 0.1
begun, results = threading.Event(), endings.Endings()
for job in ("one", "two"):
    assert results.take(job, "what", lambda: begun.set() or threading.Event().wait()) is None
begun.wait()
results.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
