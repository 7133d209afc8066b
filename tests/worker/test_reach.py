"""A worker reads what its server allows, whatever the job says and whatever has changed since it was taken in."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from fixnorm_core.data.catalog import check_data
from fixnorm_core.reach import Reach, Roots
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.contracts import Evaluated, EvaluateTask, Failed, FailureKind, Trained, TrainTask
from worker.run_task import DataCache, run_task


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    for place in ("root", "outside"):
        for grey, name in enumerate(("rose", "tulip")):
            folder = tmp_path / place / "flowers" / name
            folder.mkdir(parents=True)
            for number in range(10):
                Image.new("RGB", (12, 12), (grey * 90 + number,) * 3).save(folder / f"{number}.png")
    return tmp_path / "root" / "flowers"


def trial_of(path: Path, reach: Reach) -> TrialSpec:
    data = check_data(DataSpec(name="imagefolder", path=str(path), image_size=12), root=path.parent, reach=reach)
    model, training = ModelSpec(options={"width": 4, "blocks": 1}), TrainingSpec(epochs=1)
    return JobSpec(model=model, data=data, training=training).trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)


def test_a_link_that_was_put_there_since_the_job_was_taken_in_is_not_followed(flowers: Path, tmp_path: Path) -> None:
    reach = Reach(Roots.at([tmp_path / "root"]))
    trial = trial_of(flowers, reach)
    trained = run_task(TrainTask("a", trial, str(tmp_path / "t"), reach), cache=DataCache(), report=lambda _: None)
    assert isinstance(trained, Trained)

    flowers.rename(tmp_path / "moved")
    flowers.symlink_to(tmp_path / "outside" / "flowers")
    for task in (
        TrainTask("b", trial, str(tmp_path / "u"), reach),
        EvaluateTask("c", trial, str(tmp_path / "t"), reach),
    ):
        outcome = run_task(task, cache=DataCache(), report=lambda _: None)
        assert isinstance(outcome, Failed)
        assert outcome.kind is FailureKind.FATAL  # it would fail alike anywhere
        assert "outside the folders that jobs may read" in outcome.message
    open_to_all = EvaluateTask("d", trial, str(tmp_path / "t"))
    assert isinstance(run_task(open_to_all, cache=DataCache(), report=lambda _: None), Evaluated)


def test_images_kept_from_a_job_that_might_read_more_are_not_given_to_one_that_may_not(
    flowers: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside" / "flowers"
    trial, cache = trial_of(outside, Reach()), DataCache()
    kept = run_task(TrainTask("a", trial, str(tmp_path / "t")), cache=cache, report=lambda _: None)
    assert isinstance(kept, Trained)
    narrow = TrainTask("b", trial, str(tmp_path / "u"), Reach(Roots.at([flowers])))
    assert isinstance(run_task(narrow, cache=cache, report=lambda _: None), Failed)
