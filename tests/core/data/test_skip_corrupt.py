"""Damaged images are left out only if asked, and then counted and named; nothing else moves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import make_pictures

from fixnorm_core.data.load import check_test_split, load_test_split, load_training_data, load_validation_split
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.trainer import Trainer

WAYS = ["memory", "stream"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 8), ("val", 4), ("test", 4)):
        make_pictures(tmp_path / "pictures" / part, count=count)
    return tmp_path / "pictures"


def spec(folder: Path, **fields: Any) -> DataSpec:
    return DataSpec(**({"name": "imagefolder", "path": str(folder), "image_size": 16, "skip_corrupt": True} | fields))


def damage(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-200])  # the header stays whole
    return str(path)


@pytest.mark.parametrize("storage", WAYS)
def test_others_stay_where_they_are(folder: Path, storage: str) -> None:
    before = load_training_data(spec(folder, storage=storage))
    names = (damage(folder / "train" / "cat" / "003.jpg"), damage(folder / "val" / "dog" / "000.jpg"))
    after = load_training_data(spec(folder, storage=storage))
    assert after.skipped == names
    for part, lost in (("train", 3), ("validation", 4)):
        kept = torch.tensor([index for index in range(len(getattr(before, part))) if index != lost])
        (old, new) = (getattr(data, part) for data in (before, after))
        if storage == "stream":
            assert new.paths == [old.paths[index] for index in kept]
        else:
            assert torch.equal(new.images, old.images[kept])
        assert torch.equal(new.labels, old.labels[kept])
    assert len(load_validation_split(spec(folder, storage=storage), image_size=16)[1]) == 7


@pytest.mark.parametrize("storage", WAYS)
def test_by_default_a_damaged_image_is_an_error_that_names_it_and_the_way_out(folder: Path, storage: str) -> None:
    name = damage(folder / "val" / "dog" / "000.jpg")
    strict = spec(folder, storage=storage, skip_corrupt=False)
    with pytest.raises(DataError, match=rf"{name} cannot be read .*set data\.skip_corrupt to true"):
        list(load_training_data(strict).validation.in_order(batch_size=4))


def test_a_damaged_first_image_does_not_decide_the_size(folder: Path) -> None:
    (folder / "train" / "cat" / "000.jpg").write_bytes(b"")
    assert load_training_data(spec(folder, image_size=None)).image_size == 224


def test_a_file_that_is_not_delivered_is_an_error_all_the_same(folder: Path) -> None:
    missing = folder / "train" / "cat" / "003.jpg"
    missing.unlink()
    missing.symlink_to(folder / "nowhere.jpg")
    with pytest.raises(DataError, match=rf"{missing} cannot be read as an image .*No such file"):
        load_training_data(spec(folder))


def test_a_class_that_loses_all_its_training_images_is_refused(folder: Path) -> None:
    for path in (folder / "train" / "dog").iterdir():
        damage(path)
    with pytest.raises(DataError, match=r"all train images of class 'dog' are damaged"):
        load_training_data(spec(folder))


def test_test_images_are_skipped_and_named_in_the_log(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = damage(folder / "test" / "cat" / "001.jpg")
    with caplog.at_level(logging.WARNING):
        check_test_split(spec(folder))
    assert f"1 damaged test images are skipped: {name}" in caplog.text
    assert len(load_test_split(spec(folder), image_size=16)[1]) == 7
    with pytest.raises(DataError, match=name):
        check_test_split(spec(folder, skip_corrupt=False))


def test_the_result_counts_and_names_them(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [damage(folder / "train" / "cat" / f"{number:03d}.jpg") for number in range(7)]
    trial = TrialSpec(
        model=ModelSpec(options={"width": 4}),
        data=spec(folder, storage="stream", loader_workers=0),
        training=TrainingSpec(epochs=1, batch_size=4, device="cpu"),
        method=Method.FIXNORM,
        params={"lr": 0.008, "fc_norm": 2.0},
        seed=0,
    )
    with caplog.at_level(logging.WARNING):
        trainer = Trainer(trial, folder=tmp_path / "run")
        list(trainer)
    assert trainer.result().skipped_images == 7
    assert trainer.result().skipped_examples == tuple(names[:5])
    assert f"7 damaged training and validation images are skipped: {', '.join(names[:5])}, ..." in caplog.text
