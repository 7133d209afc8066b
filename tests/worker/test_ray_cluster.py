"""Slots on a Ray cluster that was there before: they outlive their server, and the next one adopts them."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cluster import RayHead, joined_head

from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec
from worker.backend_process import BackendProcess
from worker.contracts import Backend, Failed, FailureKind, Resources, Trained, TrainTask, Update, log_path
from worker.ray_backend import RayBackend
from worker.ray_cluster import look_for
from worker.slot import Claimed

ONE = Resources(cpus=1.0, gpus=0.0)


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with joined_head(cpus=2, auth_mode="token") as head:
        yield head


def join(address: str, namespace: str, patience_seconds: float) -> Backend:
    return RayBackend(address, namespace=namespace, patience_seconds=patience_seconds, sweep_seconds=0.1)


def join_as_other_build(address: str, namespace: str, patience_seconds: float, *, introduces_itself: bool) -> Backend:
    """As a server whose slots are of another build, to be called in a process of its own."""
    from worker import ray_backend

    class Slot(ray_backend.Slot):
        def introduce(self, term: int) -> dict[str, Any]:
            told = super().introduce(term)
            told["resources"]["amounts of a later build"] = 3
            return told | {"protocol": "another", "version": "0.0.7"}

        def claim(self, term: int) -> Claimed:  # noqa: ARG002
            raise RuntimeError("it would be read wrong")

    if not introduces_itself:
        Slot.introduce = None  # type: ignore[assignment, method-assign]
    ray_backend.Slot = Slot  # type: ignore[misc]
    return join(address, namespace, patience_seconds)


def join_as_later_build(address: str, namespace: str, patience_seconds: float) -> Backend:
    """As a server that was upgraded before the nodes, to be called in a process of its own."""
    from worker import ray_backend

    ray_backend.own_protocol = lambda: "later"
    return join(address, namespace, patience_seconds)


def backend(head: RayHead, namespace: str, *, patience_seconds: float = 3600) -> BackendProcess:
    return started(head, partial(join, namespace=namespace, patience_seconds=patience_seconds))


def started(head: RayHead, joining: Callable[..., Backend]) -> BackendProcess:
    make = partial(joining, head.environment["RAY_ADDRESS"])
    return BackendProcess(make, "the cluster", call_seconds=60, start_seconds=120)


def task(attempt_id: str, folder: Path, *, epochs: int) -> TrainTask:
    job = JobSpec(
        model=ModelSpec(options={"width": 8}), data=DataSpec(train_limit=200), training=TrainingSpec(epochs=epochs)
    )
    return TrainTask(attempt_id, job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=0), str(folder))


def news_until(
    backend: Backend, condition: Callable[[list[Update]], bool], *, acknowledge: bool = True
) -> list[Update]:
    updates: list[Update] = []
    deadline = time.monotonic() + 300
    while not condition(updates):
        assert time.monotonic() < deadline, updates
        for update in backend.poll():
            updates.append(update)
            if acknowledge:
                backend.acknowledge(update)
        time.sleep(0.02)
    return updates


def epochs_of(updates: list[Update]) -> list[int]:
    return [report.epoch for update in updates for report in update.reports]


def has_ended(updates: list[Update]) -> bool:
    return bool(updates) and updates[-1].outcome is not None


@pytest.mark.ray
def test_a_later_server_adopts_what_runs_and_an_earlier_one_that_wakes_up_can_do_nothing_to_it(
    head: RayHead, tmp_path: Path
) -> None:
    first, second, stranger = (backend(head, name) for name in ("ours", "ours", "another deployment's"))
    try:
        assert first.adopt(1) == {}
        first.start(task("a", tmp_path / "a", epochs=60), ONE)
        stored = news_until(first, lambda updates: len(epochs_of(updates)) >= 1)
        fetched = news_until(first, lambda updates: len(epochs_of(updates)) >= 1, acknowledge=False)
        assert stranger.adopt(1) == {}
        slots = head.slots()
        assert second.adopt(2) == {"a": ONE}
        (lost,) = news_until(first, has_ended)[-1:]
        assert isinstance(lost.outcome, Failed)
        assert lost.outcome.kind is FailureKind.OUTAGE
        assert "term 2 has this slot" in lost.outcome.message
        first.start(task("late", tmp_path / "late", epochs=10_000), ONE)  # begun before it was suspended
        first.release()
        first.close()
        rest = news_until(second, has_ended)
        assert isinstance(rest[-1].outcome, Trained)
        assert epochs_of(stored) + epochs_of(rest) == list(range(1, 61))
        assert set(epochs_of(fetched)) <= set(epochs_of(rest))  # it was not known to be stored
        deadline = time.monotonic() + 300
        while head.slots() != slots:  # the late one is swept away, the other is warm
            assert time.monotonic() < deadline, head.slots()
            second.poll()
            time.sleep(0.05)
        second.close()
        while head.slots():
            assert time.monotonic() < deadline, head.slots()
            time.sleep(0.05)
    finally:
        for each in (first, second, stranger):
            each.close()


@pytest.mark.ray
@pytest.mark.parametrize("introduces_itself", [True, False])
def test_a_slot_of_another_build_is_ended_and_its_trial_goes_on_from_its_checkpoint(
    introduces_itself: bool, head: RayHead, tmp_path: Path
) -> None:
    namespace = f"upgraded, {introduces_itself}"
    joining = partial(join_as_other_build, introduces_itself=introduces_itself)
    before = started(head, partial(joining, namespace=namespace, patience_seconds=3600))
    after = backend(head, namespace)
    try:
        before.adopt(1)
        before.start(task("a", tmp_path, epochs=10_000), ONE)
        told = max(epochs_of(news_until(before, lambda updates: len(epochs_of(updates)) >= 2)))
        before.release()
        before.close()
        assert len(head.slots()) == 1
        if introduces_itself:
            assert after.adopt(2) == {"a": ONE}
            (ended,) = news_until(after, has_ended)
            assert isinstance(ended.outcome, Failed)
            assert ended.outcome.kind is FailureKind.OUTAGE  # which is tried again, and charged to nobody
            assert ended.outcome.message.startswith("its worker was of another build (0.0.7)")
        else:  # what it did is not known either; the server takes what it does not find for lost
            assert after.adopt(2) == {}
        deadline = time.monotonic() + 300
        while head.slots():
            assert time.monotonic() < deadline, head.slots()
            time.sleep(0.05)
        after.start(task("b", tmp_path, epochs=10_000), ONE)
        again = epochs_of(news_until(after, lambda updates: len(epochs_of(updates)) > told))
        assert again[: told + 1] == list(range(1, told + 2))
        assert "resuming after epoch" in log_path(tmp_path, "b").read_text()
        after.cancel("b")
    finally:
        for each in (before, after):
            each.close()


@pytest.mark.ray
def test_a_node_with_another_build_than_the_servers_trains_nothing_and_is_named(head: RayHead, tmp_path: Path) -> None:
    server = started(head, partial(join_as_later_build, namespace="too early", patience_seconds=3600))
    try:
        server.adopt(1)
        (node,) = server.nodes()
        server.start(task("a", tmp_path, epochs=10_000), ONE, [node.name])
        (ended,) = news_until(server, has_ended)
        assert isinstance(ended.outcome, Failed)
        assert ended.outcome.kind is FailureKind.OUTAGE  # charged to no trial, and counted against the node
        assert ended.outcome.message.startswith("the software on the node is another build (")
        assert ended.place is not None
        assert ended.place.node == node.name
        assert list(tmp_path.iterdir()) == []
        deadline = time.monotonic() + 300
        while head.slots():
            assert time.monotonic() < deadline, head.slots()
            time.sleep(0.05)
    finally:
        server.close()


@pytest.mark.ray
def test_a_slot_whose_server_never_comes_back_ends_itself(head: RayHead, tmp_path: Path) -> None:
    left = backend(head, "left", patience_seconds=5)
    try:
        left.adopt(1)
        left.start(task("a", tmp_path, epochs=10_000), ONE)
        deadline = time.monotonic() + 300
        while not head.slots():
            assert time.monotonic() < deadline
            left.poll()
            time.sleep(0.05)
    finally:
        left.close()
    while head.slots():
        assert time.monotonic() < deadline, head.slots()
        time.sleep(0.05)


def test_an_address_where_nobody_listens_is_said_to_be_one_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"nobody answers at 127.0.0.1:{port}"):
        look_for(f"127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match="nobody answers"):
        look_for(f"ray://127.0.0.1:{port}")
    with pytest.raises(ConnectionError, match="is not HOST:PORT"):
        look_for("127.0.0.1:many")
    look_for("auto")  # is for Ray to find
