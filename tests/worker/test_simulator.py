"""The simulator keeps the contract of a backend, on curves that were recorded from real training."""

from __future__ import annotations

import pytest

from fixnorm_core.spec import JobSpec, Method, SearchSpec
from worker.contracts import (
    Cancelled,
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Resources,
    Stopped,
    Trained,
    TrainTask,
    Update,
)
from worker.recording import Recording
from worker.simulator import SimulatorBackend

ONE = Resources(1.0, 0.0)


@pytest.fixture(scope="module")
def recording() -> Recording:
    return Recording.packaged()


def task(recording: Recording, attempt_id: str, *, lr: float = 0.01, fc_norm: float = 2.0, seed: int = 0) -> TrainTask:
    return TrainTask(attempt_id, recording.job.trial({"lr": lr, "fc_norm": fc_norm}, seed=seed), "")


def drain(backend: SimulatorBackend) -> list[Update]:
    updates: list[Update] = []
    for _ in range(100):
        updates.extend(backend.poll())
        if updates and updates[-1].outcome is not None:
            return updates
    raise AssertionError("the replay did not end")


def test_a_recorded_point_is_replayed_to_the_digit(recording: Recording) -> None:
    run = recording.runs[len(recording.runs) // 2]
    backend = SimulatorBackend(recording)
    backend.start(TrainTask("a", recording.job.trial(run.params, seed=run.seed), ""), ONE)
    updates = drain(backend)
    told = [report.validation_accuracy for update in updates for report in update.reports]
    assert told == pytest.approx(run.validation_accuracy)
    outcome = updates[-1].outcome
    assert isinstance(outcome, Trained)
    assert outcome.result.validation_accuracy == pytest.approx(run.validation_accuracy[-1])


def test_between_two_recorded_points_the_curve_lies_between_theirs(recording: Recording) -> None:
    lrs, norms = recording.grid["lr"], recording.grid["fc_norm"]
    low = recording.at({"lr": lrs[2], "fc_norm": norms[1]}, seed=0)
    high = recording.at({"lr": lrs[3], "fc_norm": norms[1]}, seed=0)
    middle = recording.at({"lr": (lrs[2] * lrs[3]) ** 0.5, "fc_norm": norms[1]}, seed=0)
    for a, b, between in zip(
        low.validation_accuracy, high.validation_accuracy, middle.validation_accuracy, strict=True
    ):
        assert between == pytest.approx((a + b) / 2)


def test_outside_the_grid_its_border_is_replayed(recording: Recording) -> None:
    beyond = recording.at({"lr": 1e9, "fc_norm": 1e9}, seed=0)
    border = recording.at({knob: values[-1] for knob, values in recording.grid.items()}, seed=0)
    assert beyond.validation_accuracy == border.validation_accuracy


def test_time_decides_how_many_epochs_are_told(recording: Recording) -> None:
    now = 0.0
    backend = SimulatorBackend(recording, epoch_seconds=1.0, clock=lambda: now)
    backend.start(task(recording, "a"), ONE)
    assert backend.poll() == []
    now = 2.5
    (update,) = backend.poll()
    assert [report.epoch for report in update.reports] == [1, 2]


def test_a_cancelled_replay_says_so_once(recording: Recording) -> None:
    backend = SimulatorBackend(recording)
    backend.start(task(recording, "a"), ONE)
    backend.cancel("a")
    backend.cancel("a")
    assert [(update.attempt_id, update.outcome) for update in backend.poll()] == [("a", Cancelled())]
    assert backend.poll() == []


def test_a_release_ends_replays_without_news(recording: Recording) -> None:
    backend = SimulatorBackend(recording)
    backend.start(task(recording, "a"), ONE)
    backend.start(task(recording, "b"), ONE)
    backend.cancel("b")
    backend.release()
    assert backend.poll() == []


def test_what_a_server_leaves_is_adopted_with_the_news_that_it_has_not_acknowledged(recording: Recording) -> None:
    backend = SimulatorBackend(recording)
    backend.start(task(recording, "a"), ONE)
    (stored,) = backend.poll()
    backend.acknowledge(stored)
    (fetched,) = backend.poll()
    assert backend.adopt(2) == {"a": ONE}
    again, more = backend.poll()
    assert again == fetched
    assert [report.epoch for report in more.reports] == [3]
    ended = drain(backend)[-1]
    assert backend.adopt(3) == {"a": ONE}  # it has ended, and nobody has stored how
    assert ended in drain(backend)
    backend.acknowledge(ended)
    assert backend.adopt(4) == {}


def test_the_test_accuracy_is_the_recorded_one(recording: Recording) -> None:
    run = recording.runs[len(recording.runs) // 2]
    backend = SimulatorBackend(recording)
    backend.start(EvaluateTask("a", recording.job.trial(run.params, seed=run.seed), ""), ONE)
    (update,) = backend.poll()
    assert isinstance(update.outcome, Evaluated)
    assert update.outcome.evaluation.accuracy == pytest.approx(run.test_accuracy)


def test_a_job_with_other_knobs_than_the_recorded_ones_fails(recording: Recording) -> None:
    job = JobSpec(search=SearchSpec(method=Method.WEIGHT_DECAY))
    backend = SimulatorBackend(recording)
    backend.start(TrainTask("a", job.trial({"lr": 0.1, "weight_decay": 1e-4}, seed=0), ""), ONE)
    (update,) = backend.poll()
    assert isinstance(update.outcome, Failed)
    assert update.outcome.kind is FailureKind.FATAL
    assert "weight_decay" in update.outcome.message


def test_a_stopped_replay_ends_where_it_is_and_an_unknown_one_is_ignored(recording: Recording) -> None:
    backend = SimulatorBackend(recording)
    backend.start(task(recording, "a"), ONE)
    backend.poll()
    backend.stop("a")
    backend.stop("never-started")
    (update,) = backend.poll()
    assert (update.attempt_id, update.reports, update.outcome) == ("a", (), Stopped())
    assert backend.poll() == []
