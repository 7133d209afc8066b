"""Tasks whose images are in an object store: trained as from a disk, and tried again when the store is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import KEY_ID, SECRET, Bucket, image_file, reached, s3_server

from fixnorm_core.data.catalog import check_data
from fixnorm_core.reach import Reach, Roots
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.contracts import (
    NODE_FAILURES,
    RETRIED_FAILURES,
    UNCHARGED_FAILURES,
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Trained,
    TrainTask,
)
from worker.run_task import DataCache, run_task


@pytest.fixture(scope="module")
def digits() -> Iterator[Bucket]:
    """Some of scikit-learn's digits as pictures in a bucket."""
    from sklearn.datasets import load_digits

    shipped = load_digits()
    pixels = np.rint(shipped.images * (255 / 16)).astype(np.uint8)
    with s3_server() as bucket:
        for label in range(3):
            for number, image in enumerate(pixels[shipped.target == label][:30]):
                bucket.put(f"digits/{label}/{number:02d}.png", image_file(image))
        yield bucket


@pytest.fixture
def bucket(digits: Bucket) -> Iterator[Bucket]:
    with reached(digits):
        yield digits


class Losses:
    """Of a trial's epochs."""

    def __init__(self) -> None:
        self.of: list[tuple[float, float]] = []

    def note(self, report: EpochReport) -> None:
        self.of.append((report.train_loss, report.validation_loss))


def trial_of(url: str, reach: Reach) -> TrialSpec:
    data = check_data(DataSpec(name="imagefolder", path=url, image_size=8, flip=False), reach=reach)
    model, training = ModelSpec(options={"width": 4, "blocks": 1}), TrainingSpec(epochs=2)
    return JobSpec(model=model, data=data, training=training).trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)


def test_it_trains_and_is_tested_as_from_a_disk_and_fetches_once(bucket: Bucket, tmp_path: Path) -> None:
    reach = Reach(Roots.at(["s3://images/digits"]), cache=str(tmp_path / "cache"))
    trial = trial_of("s3://images/digits", reach)
    bucket.requests.clear()
    there, again, here = Losses(), Losses(), Losses()
    for name, losses in (("a", there), ("b", again)):  # two slots: neither has anything of the other's in memory
        task = TrainTask(name, trial, str(tmp_path / name), reach)
        assert isinstance(run_task(task, cache=DataCache(), report=losses.note), Trained)
    tested = run_task(EvaluateTask("c", trial, str(tmp_path / "a"), reach), cache=DataCache(), report=there.note)
    assert len(bucket.fetched()) == len(set(bucket.fetched())) == 90

    local = trial_of(str(next((tmp_path / "cache").glob("*/*/"))), Reach())
    task = TrainTask("d", local, str(tmp_path / "d"))
    assert isinstance(run_task(task, cache=DataCache(), report=here.note), Trained)
    assert there.of == again.of == here.of
    assert len(there.of) == 2
    assert isinstance(tested, Evaluated)
    log = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("*/logs/*"))
    assert "fetching 90 files" in log
    assert KEY_ID not in log
    assert SECRET not in log


def test_a_store_that_is_down_is_nobodys_fault_and_the_trial_goes_well_later(bucket: Bucket, tmp_path: Path) -> None:
    reach = Reach(cache=str(tmp_path / "cache"))
    trial = trial_of("s3://images/digits", reach)
    bucket.answers_badly = lambda _: True
    outcome = run_task(TrainTask("a", trial, str(tmp_path / "t"), reach), cache=DataCache(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.BUCKET_DOWN
    assert outcome.kind in RETRIED_FAILURES & UNCHARGED_FAILURES
    assert outcome.kind not in NODE_FAILURES
    assert SECRET not in outcome.message + outcome.details
    bucket.answers_badly = lambda _: False
    again = TrainTask("b", trial, str(tmp_path / "t"), reach)
    assert isinstance(run_task(again, cache=DataCache(), report=lambda _: None), Trained)


@pytest.mark.parametrize("url", ["s3://no-such-bucket/digits", "s3://images/nothing-here"])
def test_what_is_not_there_is_the_jobs_fault(bucket: Bucket, tmp_path: Path, url: str) -> None:
    reach = Reach(cache=str(tmp_path / "cache"))
    task = TrainTask("a", trial_of(url, reach), str(tmp_path / "t"), reach)
    outcome = run_task(task, cache=DataCache(), report=lambda _: None)
    assert isinstance(outcome, Failed)
    assert outcome.kind is FailureKind.FATAL
    assert url in outcome.message
    assert SECRET not in outcome.message + outcome.details
