"""A trial whose ranks are on two nodes of a real cluster: the same run as on one, lost with either, and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from cluster import RayHead, joined_head
from safetensors.torch import load_file

from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, ResourceSpec, TrainingSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME
from worker.backend_process import BackendProcess
from worker.contracts import Failed, FailureKind, Resources, Trained, TrainTask, Update, log_path
from worker.ray_backend import RayBackend

pytestmark = pytest.mark.ray

OVER_TWO = ResourceSpec(cpus_per_trial=2, ranks_per_trial=2, nodes_per_trial=2)
ON_ONE = ResourceSpec(cpus_per_trial=2, ranks_per_trial=2)


@pytest.fixture
def head() -> Iterator[RayHead]:
    with joined_head(cpus=2, auth_mode="token") as head:
        yield head


def join(address: str) -> RayBackend:
    return RayBackend(address, namespace="several nodes")


def task(attempt_id: str, folder: Path, *, resources: ResourceSpec, epochs: int) -> TrainTask:
    job = JobSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(train_limit=200),
        training=TrainingSpec(epochs=epochs),
        resources=resources,
    )
    return TrainTask(attempt_id, job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=0), str(folder))


def news_until(backend: BackendProcess, condition: Callable[[list[Update]], bool]) -> list[Update]:
    updates: list[Update] = []
    deadline = time.monotonic() + 300
    while not condition(updates):
        assert time.monotonic() < deadline, updates
        for update in backend.poll():
            updates.append(update)
            backend.acknowledge(update)
        time.sleep(0.02)
    return updates


def has_ended(updates: list[Update]) -> bool:
    return bool(updates) and updates[-1].outcome is not None


def nodes_of(backend: BackendProcess, count: int) -> list[str]:
    """Their names, once there are so many: the head's first."""
    deadline = time.monotonic() + 120
    while len(nodes := backend.nodes()) != count:
        assert time.monotonic() < deadline, nodes
        time.sleep(0.1)
    return [node.name for node in sorted(nodes, key=lambda node: node.total.cpus, reverse=True)]


def test_ranks_on_two_nodes_train_what_those_of_one_do_and_go_on_after_the_loss_of_a_node(
    head: RayHead, tmp_path: Path
) -> None:
    other = head.join("other", cpus=1)
    make = partial(join, head.environment["RAY_ADDRESS"])
    backend = BackendProcess(make, "the cluster", call_seconds=60, start_seconds=120)
    try:
        names = nodes_of(backend, 2)
        two, one = Resources.of(OVER_TWO), Resources.of(ON_ONE)

        backend.start(task("apart", tmp_path / "apart", resources=OVER_TWO, epochs=3), two, names)
        assert [part.node for part in backend.places()["apart"].parts] == names
        apart = news_until(backend, has_ended)
        assert isinstance(apart[-1].outcome, Trained), apart[-1].outcome
        assert apart[-1].place is not None
        assert [part.node for part in apart[-1].place.parts] == names
        assert "on rank 1" not in log_path(tmp_path / "apart", "apart").read_text()  # nothing to complain of

        # Warm; then lost with the node that has the other rank
        backend.start(task("losing", tmp_path / "losing", resources=OVER_TWO, epochs=20), two, names)
        news_until(backend, lambda updates: sum(len(update.reports) for update in updates) > 1)
        other.kill()
        outcome = news_until(backend, has_ended)[-1].outcome
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.node) == (FailureKind.OUTAGE, "other")
        assert outcome.message.startswith("rank 1 of 2 was lost")

        # With one node left it is not started, and that is an outage too
        names = nodes_of(backend, 1)
        backend.start(task("alone", tmp_path / "losing", resources=OVER_TWO, epochs=20), two, [*names, "other"])
        outcome = news_until(backend, has_ended)[-1].outcome
        assert isinstance(outcome, Failed)
        assert (outcome.kind, outcome.message) == (
            FailureKind.OUTAGE,
            "it needs 2 nodes, and of those that it was to run on 1 are left",
        )

        # On one node the same run, bit for bit, also of what two nodes have begun
        backend.start(task("begun", tmp_path / "losing", resources=ON_ONE, epochs=20), one, names)
        begun = news_until(backend, has_ended)
        assert isinstance(begun[-1].outcome, Trained), begun[-1].outcome
        assert "resuming after epoch" in log_path(tmp_path / "losing", "begun").read_text()
        backend.start(task("together", tmp_path / "together", resources=ON_ONE, epochs=3), one, names)
        news_until(backend, has_ended)
        expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("together", "apart"))
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)
    finally:
        backend.close()
