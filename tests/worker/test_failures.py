"""What kind a failure is, from what was raised."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ray.exceptions import ActorDiedError, ActorDiedErrorContext, RayError  # type: ignore[attr-defined]

from fixnorm_core.spec import JobSpec
from worker.contracts import Failed, FailureKind, TrainTask
from worker.ray_backend import _lost
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
    assert _lost(died(message)).kind is kind


def test_want_of_gpu_memory_has_its_own_kind(tmp_path: Path) -> None:
    class Full(DataCache):
        def load(self, *_: object) -> object:  # type: ignore[override]
            raise torch.OutOfMemoryError("CUDA out of memory")

    trial = JobSpec().trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
    outcome = run_task(TrainTask("a", trial, str(tmp_path)), cache=Full(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.GPU_MEMORY
