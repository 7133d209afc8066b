"""A slot trains for real, in this process, on the digits that scikit-learn ships."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from fixnorm_core.reports import EpochReport, TrialResult
from fixnorm_core.spec import DataSpec, JobSpec, TrainingSpec, TrialSpec
from worker.contracts import (
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Outcome,
    Place,
    Resources,
    Stopped,
    Trained,
    TrainTask,
    log_path,
)
from worker.slot import Claimed, News, NotFormed, Slot, SlotTaken, Team

ONE = Resources(cpus=1.0, gpus=0.0)


@pytest.fixture
def trial() -> TrialSpec:
    job = JobSpec(data=DataSpec(train_limit=200), training=TrainingSpec(epochs=2))
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=1)


def test_a_slot_whose_other_ranks_did_not_start_tells_so_as_its_first_attempts_end(
    trial: TrialSpec, tmp_path: Path
) -> None:
    failed = Failed(FailureKind.OUTAGE, "rank 1 of 2, which was starting, was lost", node="far")

    def form_team() -> Team:
        raise NotFormed(failed)

    slot = Slot(ONE, where=lambda: Place("near"), form_team=form_team)
    assert slot.claim(0).place == Place("near")
    slot.start(TrainTask("a", trial, str(tmp_path)))
    assert run_to_end(slot) == ([], failed)


def run_to_end(slot: Slot) -> tuple[list[EpochReport], Outcome]:
    """Stores all news and frees the slot."""
    reports: list[EpochReport] = []
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        news = slot.poll(len(reports))
        assert news is not None
        assert news.skipped == len(reports)
        reports.extend(news.reports)
        if news.outcome is not None:
            slot.free(news.attempt_id)
            return reports, news.outcome
        time.sleep(0.01)
    raise AssertionError("the task did not end")


def end_of(slot: Slot, term: int = 0) -> News:
    """The last news, of which nothing was stored."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        news = slot.poll(0, term)
        assert news is not None
        if news.outcome is not None:
            return news
        time.sleep(0.01)
    raise AssertionError("the task did not end")


def test_a_poll_that_waits_is_answered_by_news_of_its_attempt_alone(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(slot.poll_of, "a", 0, 0, 0, seconds=300)
        third = pool.submit(slot.poll_of, "a", 2, 0, 0, seconds=300)
        slot.start(TrainTask("a", trial, str(tmp_path)))
        assert len(first.result().reports) >= 1  # type: ignore[union-attr]
        assert third.result().outcome is not None  # type: ignore[union-attr]
    assert slot.poll_of("b", 0, 0, 0, seconds=0) is None


def test_a_poll_that_waits_is_refused_when_a_later_server_claims_the_slot() -> None:
    slot = Slot(ONE)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(slot.poll_of, "a", 0, 0, 1, seconds=300)
        while not waiting.running():
            time.sleep(0.001)
        slot.claim(2)
        with pytest.raises(SlotTaken):
            waiting.result()


def test_a_slot_tells_every_epoch_once_and_then_its_result(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial, str(tmp_path)))
    reports, outcome = run_to_end(slot)
    assert [report.epoch for report in reports] == [1, 2]
    assert isinstance(outcome, Trained)
    assert outcome.result.validation_accuracy == reports[-1].validation_accuracy
    assert slot.poll() is None


def test_news_is_told_again_until_it_is_stored_and_the_slot_is_busy_until_then(
    trial: TrialSpec, tmp_path: Path
) -> None:
    slot = Slot(ONE, clock=lambda: 0.0)  # so that its news is the same whenever it is asked
    slot.start(TrainTask("a", trial, str(tmp_path)))
    news = end_of(slot)
    assert [report.epoch for report in news.reports] == [1, 2]
    assert slot.poll() == news  # whoever got it died before it was stored
    rest = slot.poll(1)
    assert rest is not None
    assert (rest.skipped, [report.epoch for report in rest.reports], rest.outcome) == (1, [2], news.outcome)
    assert slot.poll() == rest  # what was stored once does not come again
    with pytest.raises(RuntimeError, match="busy with attempt a"):
        slot.start(TrainTask("b", trial, str(tmp_path)))
    slot.free("another")
    assert slot.claim(0) == Claimed(ONE, "a")
    slot.free("a")
    assert slot.claim(0) == Claimed(ONE, None)


def test_an_attempt_that_has_not_ended_cannot_be_freed(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial, str(tmp_path)))
    slot.free("a")
    assert slot.claim(0) == Claimed(ONE, "a")
    run_to_end(slot)


def test_a_server_with_an_earlier_term_can_do_nothing_to_a_claimed_slot(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE, clock=lambda: 0.0)
    slot.start(TrainTask("a", trial, str(tmp_path)), 1)
    news = end_of(slot, 1)
    assert slot.claim(2) == Claimed(ONE, "a")
    for refused in (
        lambda: slot.claim(1),
        lambda: slot.poll(2, 1),
        lambda: slot.free("a", 1),
        lambda: slot.stop("a", 1),
        lambda: slot.start(TrainTask("b", trial, str(tmp_path)), 1),
    ):
        with pytest.raises(SlotTaken, match="term 2 has this slot"):
            refused()
    assert slot.poll(0, 2) == news


def test_a_slot_ends_itself_when_nobody_has_called_it_for_long() -> None:
    ended = threading.Event()
    now = [0.0]
    slot = Slot(ONE, patience_seconds=0.05, end=ended.set, clock=lambda: now[0])
    now[0] = 0.04
    slot.claim(0)
    now[0] = 0.08
    assert not ended.wait(0.2)
    now[0] = 0.1
    assert ended.wait(10)


def test_a_free_slot_takes_the_next_task_and_evaluates_what_the_first_one_left(
    trial: TrialSpec, tmp_path: Path
) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial, str(tmp_path)))
    run_to_end(slot)
    slot.start(EvaluateTask("b", trial, str(tmp_path)))
    _, outcome = run_to_end(slot)
    assert isinstance(outcome, Evaluated)
    assert outcome.evaluation.split == "test"
    assert outcome.evaluation.examples == 359  # a fifth of the 1,797 digits, class by class


def test_a_slot_that_is_told_to_stop_ends_after_its_epoch_and_is_free_for_the_next_task(
    trial: TrialSpec, tmp_path: Path
) -> None:
    slot = Slot(ONE)
    long = trial.model_copy(update={"training": trial.training.model_copy(update={"epochs": 1000})})
    slot.start(TrainTask("a", long, str(tmp_path / "a")))
    slot.stop("another")
    slot.stop("a")
    reports, outcome = run_to_end(slot)
    assert outcome == Stopped()
    assert [report.epoch for report in reports] == [1]
    assert reports[0].classes == 10
    slot.start(TrainTask("b", trial, str(tmp_path / "b")))
    _, outcome = run_to_end(slot)
    assert isinstance(outcome, Trained)


def test_a_run_that_is_told_to_stop_in_its_last_epoch_has_its_result(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    short = trial.model_copy(update={"training": trial.training.model_copy(update={"epochs": 1})})
    slot.start(TrainTask("a", short, str(tmp_path)))
    slot.stop("a")
    _, outcome = run_to_end(slot)
    assert isinstance(outcome, Trained)


def test_a_busy_slot_refuses_a_second_task(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a", trial, str(tmp_path)))
    with pytest.raises(RuntimeError, match="busy with attempt a"):
        slot.start(TrainTask("b", trial, str(tmp_path)))
    run_to_end(slot)


def test_a_users_mistake_is_a_fatal_failure_in_its_own_words_and_its_log_ends_with_the_traceback(
    trial: TrialSpec, tmp_path: Path
) -> None:
    wrong = trial.model_copy(update={"data": DataSpec(name="imagefolder", path=str(tmp_path / "nowhere"))})
    slot = Slot(ONE)
    slot.start(TrainTask("a", wrong, str(tmp_path)))
    _, outcome = run_to_end(slot)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.FATAL
    assert "nowhere" in outcome.message
    logged = log_path(tmp_path, "a").read_text()
    assert "Traceback (most recent call last)" in logged
    assert logged.endswith(outcome.details)


def test_every_attempt_has_a_log_of_its_own(trial: TrialSpec, tmp_path: Path) -> None:
    slot = Slot(ONE)
    slot.start(TrainTask("a.1", trial, str(tmp_path)))
    run_to_end(slot)
    slot.start(EvaluateTask("a.2", trial, str(tmp_path)))
    run_to_end(slot)
    assert "epoch 2" in log_path(tmp_path, "a.1").read_text()
    evaluated = log_path(tmp_path, "a.2").read_text()
    assert "epoch" not in evaluated
    assert "test accuracy" in evaluated


def test_a_warning_of_python_is_in_the_log(tmp_path: Path, trial: TrialSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    import fixnorm_core.training.trainer as module

    class Warns(module.Trainer):
        def result(self) -> TrialResult:
            warnings.warn("this model is deprecated", stacklevel=1)
            return super().result()

    monkeypatch.setattr(module, "Trainer", Warns)
    slot = Slot(ONE)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        slot.start(TrainTask("a", trial, str(tmp_path)))
        run_to_end(slot)
    assert "this model is deprecated" in log_path(tmp_path, "a").read_text()


def test_a_broken_test_image_is_named_before_anything_is_trained(trial: TrialSpec, tmp_path: Path) -> None:
    for part, count in (("train", 10), ("test", 2)):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / part / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index}.png")
    broken = tmp_path / "images" / "test" / "dog" / "1.png"
    broken.write_bytes(broken.read_bytes()[:40])
    spec = trial.model_copy(update={"data": DataSpec(name="imagefolder", path=str(tmp_path / "images"))})
    slot = Slot(ONE)
    slot.start(TrainTask("a", spec, str(tmp_path / "trial")))
    reports, outcome = run_to_end(slot)
    assert reports == []
    assert isinstance(outcome, Failed)
    assert str(broken) in outcome.message


def test_news_of_an_end_tell_how_long_ago_it_was(trial: TrialSpec, tmp_path: Path) -> None:
    seconds = [100.0]
    slot = Slot(ONE, clock=lambda: seconds[0])
    slot.start(TrainTask("a", trial, str(tmp_path)))
    assert end_of(slot).ended_seconds_ago == 0.0
    seconds[0] += 7200.0  # no server was there
    assert slot.claim(1).attempt_id == "a"
    assert end_of(slot, 1).ended_seconds_ago == 7200.0
    slot.free("a", 1)
    slot.start(TrainTask("b", trial, str(tmp_path / "b")), 1)
    assert end_of(slot, 1).ended_seconds_ago == 0.0
