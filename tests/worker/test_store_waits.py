"""A task that hangs on an object store says so while it does: a real store over HTTP that does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from buckets import Bucket, picture, reached, s3_server
from waiting import wait_until

from fixnorm_core.artifacts import Artifacts
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.waits import wait_of, waiting_for
from worker.contracts import Resources, Trained, TrainTask, Update
from worker.ray_backend import RayBackend
from worker.slot import News, Slot

ONE = Resources(cpus=1.0, gpus=0.0)


class Hung:
    """Requests that are asked for are answered once this is over."""

    def __init__(self, bucket: Bucket, which: Callable[[str], bool]) -> None:
        self._over, self._which = threading.Event(), which
        bucket.before = self._hold

    def _hold(self, asked: str) -> None:
        if self._which(asked):
            self._over.wait(60)

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_server() as server, reached(server):
        server.put_all({f"set/{label}/{n}.png": picture(20 * n) for label in "ab" for n in range(9)})
        yield server


def trial(url: str | None) -> TrialSpec:
    data = DataSpec(name="imagefolder", path=url, image_size=12) if url else DataSpec(train_limit=100)
    model, training = ModelSpec(options={"width": 4, "blocks": 1}), TrainingSpec(epochs=2)
    return JobSpec(model=model, data=data, training=training).trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)


def news_of(slot: Slot) -> News:
    news = slot.poll()
    assert news is not None
    return news


@pytest.mark.parametrize("what", ["reading images", "fetching images", "keeping files"])
def test_a_slot_tells_what_its_task_waits_for_until_it_goes_on(bucket: Bucket, tmp_path: Path, what: str) -> None:
    url, artifacts = f"{bucket.url}/set", None
    hung = Hung(bucket, lambda asked: asked == "GET /images" if what == "reading images" else ".png" in asked)
    if what == "keeping files":
        url, artifacts = "", Artifacts(f"{bucket.url}/kept", "jobs/j/trials/0000", 1, str(tmp_path / "scratch"))
        hung = Hung(bucket, lambda asked: asked.startswith("PUT") and "checkpoint" in asked)
    slot = Slot(ONE, told_after_seconds=0.3)
    task = TrainTask("t.1", trial(url), str(tmp_path / "t"), Reach(cache=str(tmp_path / "cache")), artifacts)
    slot.start(task)
    wait_until(lambda: news_of(slot).waits is not None)
    waits = news_of(slot).waits
    assert waits is not None
    assert waits.url == (artifacts.url if artifacts is not None else url)
    assert 0.3 <= waits.seconds < 60
    hung.end()
    wait_until(lambda: news_of(slot).outcome is not None)
    assert news_of(slot).waits is None
    assert isinstance(news_of(slot).outcome, Trained)


def test_a_short_wait_is_not_told_and_another_threads_is_not_its_own() -> None:
    mine = threading.get_ident()
    with waiting_for("s3://outer"), waiting_for("s3://inner/longer"):
        waits = wait_of(mine)
        assert waits is not None
        assert waits.url == "s3://outer"
        found: list[object] = []
        thread = threading.Thread(target=lambda: found.append(wait_of(threading.get_ident())))
        thread.start()
        thread.join()
        assert found == [None]
    assert wait_of(mine) is wait_of(None) is None


@pytest.mark.ray
def test_a_backend_tells_that_a_trial_waits_once_and_once_that_it_goes_on(bucket: Bucket, tmp_path: Path) -> None:
    hung = Hung(bucket, lambda asked: asked == "GET /images")
    backend = RayBackend(cpus=1)
    try:
        task = TrainTask("t.1", trial(f"{bucket.url}/set"), str(tmp_path), Reach(cache=str(tmp_path / "cache")))
        backend.start(task, ONE)
        told: list[Update] = []

        def poll() -> bool:
            for update in backend.poll():
                backend.acknowledge(update)
                told.append(update)
            return bool(told)

        wait_until(poll, seconds=90)
        time.sleep(5)  # two more polls of the slot
        poll()
        (waits,) = [update.waits for update in told]
        assert waits is not None
        assert waits.url == f"{bucket.url}/set"
        hung.end()
        wait_until(lambda: poll() and told[-1].outcome is not None, seconds=90)
        assert [update.waits is None for update in told[1:]] == [True] * len(told[1:])
        assert isinstance(told[-1].outcome, Trained)
    finally:
        hung.end()
        backend.close()
