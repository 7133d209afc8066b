"""What kind a failure is, from what was raised."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorDiedErrorContext, RayError  # type: ignore[attr-defined]
from torch.distributed import AllreduceOptions, HashStore, ProcessGroupGloo  # type: ignore[attr-defined]

from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import JobSpec, ResourceSpec, TrialSpec
from fixnorm_core.training.ranks import ALONE, Ranks
from worker.contracts import Failed, FailureKind, TrainTask
from worker.ray_facts import lost
from worker.run_task import DataCache, run_task


def died(message: str) -> RayError:
    return ActorDiedError(ActorDiedErrorContext(error_message=message, actor_id=b"0" * 16))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("The actor died because its node has died. Node Id: 1f2e", FailureKind.OUTAGE),
        ("The actor is dead because its worker process has died. SIGKILL", FailureKind.RETRYABLE),
    ],
)
def test_a_dead_node_is_told_from_a_dead_process(message: str, kind: FailureKind) -> None:
    assert lost(died(message)).kind is kind


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA error: uncorrectable ECC error encountered", FailureKind.GPU_FAULT),
        ("CUDA error: CUDA-capable device(s) is/are busy or unavailable", FailureKind.GPU_FAULT),
        ("CUDA error: device-side assert triggered", FailureKind.CRASHED),
        ("mat1 and mat2 shapes cannot be multiplied", FailureKind.CRASHED),
    ],
)
def test_a_gpu_that_does_not_work_is_told_from_a_program_that_does_not(
    tmp_path: Path, message: str, kind: FailureKind
) -> None:
    class Broken(DataCache):
        def load(self, *_: object) -> object:  # type: ignore[override]
            raise RuntimeError(message)

    trial = JobSpec().trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
    outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=Broken(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is kind


def test_want_of_gpu_memory_has_its_own_kind(tmp_path: Path) -> None:
    class Full(DataCache):
        def load(self, *_: object) -> object:  # type: ignore[override]
            raise torch.OutOfMemoryError("CUDA out of memory")

    trial = JobSpec().trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
    outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=Full(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.GPU_MEMORY


def wait_for_another(*, hangs: bool) -> None:
    """A sum over two ranks, of which the other one hangs, or is gone."""
    store, there, over = HashStore(), threading.Event(), threading.Event()

    def join(rank: int) -> ProcessGroupGloo:
        return ProcessGroupGloo(store, rank, 2, timedelta(minutes=2))

    def other() -> None:
        group = join(1)
        there.wait()
        if hangs:
            over.wait()
        del group

    thread = threading.Thread(target=other)
    thread.start()
    try:
        group = join(0)
        there.set()
        options = AllreduceOptions()
        options.timeout = timedelta(seconds=0.5 if hangs else 120)
        group.allreduce([torch.ones(3)], options).wait()
    finally:
        there.set()
        over.set()
        thread.join()


@pytest.mark.parametrize(("hangs", "said"), [(True, "Timed out waiting"), (False, "by peer")], ids=["hangs", "gone"])
@pytest.mark.parametrize(("ranks", "kind"), [(2, FailureKind.RETRYABLE), (1, FailureKind.CRASHED)])
def test_a_rank_that_waits_in_vain_for_another_does_not_fail_the_trial_for_good(
    hangs: bool, said: str, ranks: int, kind: FailureKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gloo's own errors. Where one process trains, whatever talks to others is the job's own."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")

    @contextmanager
    def join(_trial: TrialSpec, read: Callable[[], TrainingData]) -> Iterator[tuple[Ranks, TrainingData]]:
        wait_for_another(hangs=hangs)
        yield ALONE, read()

    job = JobSpec(resources=ResourceSpec(ranks_per_trial=ranks))
    trial = job.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
    outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=DataCache(), report=lambda _: None, join=join)
    assert isinstance(outcome, Failed)
    assert said in outcome.message
    assert outcome.kind is kind


def test_what_torch_says_of_a_connection_is_told_from_what_a_program_does_wrong(tmp_path: Path) -> None:
    """NCCL's errors and the meeting's are of one class, and those of mismatched models of another."""

    def kind_of(error: Exception) -> FailureKind:
        @contextmanager
        def join(_trial: TrialSpec, read: Callable[[], TrainingData]) -> Iterator[tuple[Ranks, TrainingData]]:
            raise error
            yield ALONE, read()

        trial = JobSpec(resources=ResourceSpec(ranks_per_trial=2)).trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
        outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=DataCache(), report=lambda _: None, join=join)
        assert isinstance(outcome, Failed)
        return outcome.kind

    with pytest.raises(RuntimeError) as raised:
        HashStore().wait(["nobody"], timedelta(milliseconds=10))
    assert kind_of(raised.value) is FailureKind.RETRYABLE
    assert kind_of(torch.distributed.DistBackendError("NCCL error: remote process exited")) is FailureKind.RETRYABLE
    assert kind_of(RuntimeError("DDP expects same model across all ranks")) is FailureKind.CRASHED
