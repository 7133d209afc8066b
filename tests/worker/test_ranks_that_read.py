"""Ranks read their images before they join: one that fetches for long keeps the others waiting and costs no attempt."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import Bucket, environment, image_file, s3_server

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.fetch import fetched
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, ResourceSpec, TrainingSpec, TrialSpec
from worker.contracts import Failed, FailureKind, Outcome, Trained, TrainTask, log_path
from worker.meeting import Meeting, Seat, join
from worker.run_task import DataCache, run_task

EXCHANGE = timedelta(seconds=10)
"""As long as a rank waits for another in an exchange, which is half an hour otherwise."""


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from s3fs import S3FileSystem

    with s3_server() as bucket:
        for name, value in environment(bucket.endpoint).items():
            monkeypatch.setenv(name, value)
        for label in range(2):
            for number in range(20):
                pixels = np.full((8, 8), 100 * label + number, dtype=np.uint8)
                bucket.put(f"greys/{label}/{number:02d}.png", image_file(pixels))
        S3FileSystem.clear_instance_cache()
        yield bucket
        S3FileSystem.clear_instance_cache()


def train(rank: int, task: TrainTask, meeting: Meeting, told: Connection) -> None:
    """One rank, in a process of its own."""
    from fixnorm_core.training import ranks
    from worker import meeting as where_they_meet

    ranks._TIMEOUT = EXCHANGE
    where_they_meet._TOLD_AFTER = 1.2 * EXCHANGE
    joining = join(meeting, Seat(), rank=rank, count=2)
    told.send(run_task(task, cache=DataCache(), report=lambda _: None, join=joining, rank=rank))


@contextmanager
def two_ranks(tasks: list[TrainTask], folder: Path) -> Iterator[list[Connection]]:
    """Both of them; what comes of each is told at its end."""
    context, ends, processes = multiprocessing.get_context("spawn"), [], []
    try:
        for rank, task in enumerate(tasks):
            end, told = context.Pipe(duplex=False)
            process = context.Process(target=train, args=(rank, task, Meeting(path=str(folder / "meeting")), told))
            process.start()
            told.close()
            ends.append(end)
            processes.append(process)
        yield ends
    finally:
        for process in processes:
            process.kill()
            process.join()
        for end in ends:
            end.close()


def outcome(end: Connection) -> Outcome:
    assert end.poll(240)
    found: Outcome = end.recv()
    return found


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def trial_of(url: str) -> TrialSpec:
    data = check_data(DataSpec(name="imagefolder", path=url, image_size=8, flip=False), reach=Reach())
    parts: dict[str, Any] = {"model": ModelSpec(options={"width": 4, "blocks": 1}), "training": TrainingSpec(epochs=1)}
    resources = ResourceSpec(cpus_per_trial=2, ranks_per_trial=2)
    return JobSpec(data=data, resources=resources, **parts).trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)


def tasks_of(caches: list[Path], folder: Path) -> list[TrainTask]:
    """As two ranks on nodes with a cache each have them."""
    trial = trial_of("s3://images/greys")
    return [TrainTask("a", trial, str(folder / "trial"), Reach(cache=str(cache))) for cache in caches]


def test_one_that_fetches_longer_than_an_exchange_may_take_is_waited_for_and_that_is_told(
    bucket: Bucket, tmp_path: Path
) -> None:
    caches = [tmp_path / "has it", tmp_path / "has nothing"]
    tasks = tasks_of(caches, tmp_path)
    fetched(tasks[0].trial.data, tasks[0].reach)
    log, is_told = log_path(tasks[0].folder, "a"), threading.Event()

    def wait_until_it_is_told(asked: str) -> None:
        if asked.endswith(".png"):
            is_told.wait(240)

    bucket.before = wait_until_it_is_told
    with two_ranks(tasks, tmp_path) as ends:
        until(lambda: log.exists() and "waiting for rank 1 to read its data" in log.read_text())
        assert not wait(ends, 0)
        is_told.set()
        outcomes = [outcome(end) for end in ends]
    assert [type(each) for each in outcomes] == [Trained, Trained], outcomes


def test_one_that_cannot_read_says_so_at_once_and_the_others_do_not_fail_of_it(bucket: Bucket, tmp_path: Path) -> None:
    caches = [tmp_path / "has it", tmp_path / "is a file"]
    caches[1].touch()
    tasks = tasks_of(caches, tmp_path)
    with two_ranks(tasks, tmp_path) as ends:
        failed = outcome(ends[1])
        assert isinstance(failed, Failed)
        assert failed.kind is FailureKind.FATAL
        assert "FIXNORM_DATA_CACHE" in failed.message
        assert not ends[0].poll(1.5 * EXCHANGE.total_seconds())  # whoever runs the ranks ends it, and has the reason
