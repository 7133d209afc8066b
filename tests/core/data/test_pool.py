"""Processes that read images come when they are needed and end with whoever needed them."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch
from pictures import make_pictures, readers, readers_once

from fixnorm_core.data.augment import Augmentation
from fixnorm_core.data.batches import training_batches
from fixnorm_core.data.pool import ReaderLost, WorkerPool
from fixnorm_core.data.streaming import StreamedSplit
from fixnorm_core.data.types import Batches

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more processes than this machine has CPUs


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> StreamedSplit:
    paths = sorted(make_pictures(tmp_path_factory.mktemp("pool") / "pictures").rglob("*.jpg"))
    return StreamedSplit(paths, torch.arange(len(paths)), 16)


def batches_of(split: StreamedSplit, pool: WorkerPool) -> Batches:
    read = split.to(torch.device("cpu"), pool=pool)
    return training_batches(read, batch_size=2, augmentation=Augmentation(flip=True, shift=1), seed=0, epoch=1)


def test_workers_stay_between_passes_and_end_with_the_pool(split: StreamedSplit) -> None:
    with WorkerPool(2) as pool:
        assert readers() == []
        assert len(list(batches_of(split, pool))) == 12
        first = {process.pid for process in readers_once(2)}
        list(split.to(torch.device("cpu"), pool=pool).in_order(batch_size=5))
        assert {process.pid for process in readers()} == first
    assert readers() == []


def test_workers_end_when_a_pass_is_dropped_in_its_middle(split: StreamedSplit) -> None:
    with WorkerPool(2) as pool:
        with closing(batches_of(split, pool)) as batches:
            next(batches)
            readers_once(2)
        assert readers() == []
        assert len(list(batches_of(split, pool))) == 12  # and start again when they are needed


def test_workers_end_when_everything_is_forgotten(split: StreamedSplit) -> None:
    batches = batches_of(split, WorkerPool(2))
    next(batches)
    readers_once(2)
    del batches
    gc.collect()
    assert readers() == []


def test_a_killed_worker_is_an_error_and_not_a_wait(split: StreamedSplit) -> None:
    with WorkerPool(1) as pool, closing(batches_of(split, pool)) as batches:
        next(batches)
        (worker,) = readers_once(1)
        worker.kill()
        with pytest.raises(ReaderLost, match="exited unexpectedly"):
            list(batches)


def test_one_pass_at_a_time(split: StreamedSplit) -> None:
    with WorkerPool(1) as pool, closing(batches_of(split, pool)) as batches:
        next(batches)
        with pytest.raises(RuntimeError, match="in the middle of a pass"):
            next(batches_of(split, pool))


IDLE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started without it
from pathlib import Path
import torch
from fixnorm_core.data.augment import Augmentation
from fixnorm_core.data.batches import training_batches
from fixnorm_core.data.pool import ReaderLost, WorkerPool
from fixnorm_core.data.streaming import StreamedSplit

print('imported', flush=True)
paths = sorted(Path(sys.argv[1]).rglob("*.jpg"))
pool = WorkerPool(2)
split = StreamedSplit(paths, torch.arange(len(paths)), 16, pool)
batches = training_batches(split, batch_size=2, augmentation=Augmentation(True, 0), seed=0, epoch=1)
next(batches)
print("in the middle", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_of_a_process_killed_in_the_middle_of_an_epoch(
    split: StreamedSplit, tmp_path: Path, how: signal.Signals
) -> None:
    script = tmp_path / "idle.py"
    script.write_text(IDLE, encoding="utf-8")  # has no guard: workers do not run it again
    command = [sys.executable, "-W", "ignore", str(script), str(split.paths[0].parents[1])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["imported\n", "in the middle\n"]
        readers_once(2, parent=process.pid)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= 3  # with the fork server
        process.send_signal(how)
    assert process.returncode != 0
    deadline = time.monotonic() + 20
    while (left := [child for child in family if _lives(child)]) and time.monotonic() < deadline:
        psutil.wait_procs(left, timeout=0.2)
    assert left == []


def _lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
