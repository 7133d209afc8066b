"""The images of each class are told without reading one, and are those that a trial gets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from fixnorm_core.data import counts
from fixnorm_core.data.counts import count_by_class
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.data.splits import Part
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for label, many in (("cat", 40), ("dog", 17), ("owl", 9)):
        for index in range(many):
            path = tmp_path / "pets" / label / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    return tmp_path / "pets"


def read(spec: DataSpec) -> dict[Part, list[int]]:
    """The same from the images themselves."""
    data = load_training_data(spec)
    _, test = load_test_split(spec, image_size=data.image_size)
    parts = {Part.TRAIN: data.train, Part.VALIDATION: data.validation, Part.TEST: test}
    return {part: torch.bincount(split.labels, minlength=len(data.classes)).tolist() for part, split in parts.items()}


@pytest.mark.parametrize("limits", [{}, {"train_limit": 30, "validation_limit": 7, "split_seed": 5}])
def test_digits_and_a_folder_are_counted_as_they_are_split(pets: Path, limits: dict[str, int]) -> None:
    for spec in (DataSpec(name="digits", **limits), DataSpec(name="imagefolder", path=str(pets), **limits)):
        counted = count_by_class(spec)
        assert counted is not None
        assert {part: list(by_class.values()) for part, by_class in counted.items()} == read(spec)
    assert list(counted[Part.TRAIN]) == ["cat", "dog", "owl"]


def test_shipped_splits_of_a_folder_are_counted_as_they_are(pets: Path) -> None:
    (pets / "train").mkdir()
    for label in ("cat", "dog", "owl"):
        (pets / label).rename(pets / "train" / label)
    for label in ("cat", "owl"):
        (pets / "test" / label).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(pets / "test" / label / "x.png")
    counted = count_by_class(DataSpec(name="imagefolder", path=str(pets)))
    assert counted is not None
    assert counted[Part.TEST] == {"cat": 1, "dog": 0, "owl": 1}


@pytest.mark.parametrize(("name", "images"), [("cifar10", 50_000), ("cifar100", 50_000), ("fashion_mnist", 60_000)])
def test_a_set_that_is_not_there_yet_is_counted_too(name: str, images: int) -> None:
    counted = count_by_class(DataSpec(name=name))
    assert counted is not None
    assert sum(counted[Part.TRAIN].values()) + sum(counted[Part.VALIDATION].values()) == images
    assert sum(counted[Part.TEST].values()) == 10_000


def test_what_takes_long_or_has_to_be_read_is_not_counted(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_by_class(DataSpec(name="my_models:stripes")) is None
    monkeypatch.setattr(counts, "MOST_FILES", 66)
    assert count_by_class(DataSpec(name="imagefolder", path=str(pets))) is not None
    monkeypatch.setattr(counts, "MOST_FILES", 65)
    assert count_by_class(DataSpec(name="imagefolder", path=str(pets))) is None


def test_a_limit_below_the_number_of_classes_is_refused_as_in_a_trial(pets: Path) -> None:
    with pytest.raises(DataError, match="train_limit is 2, below the 3 classes"):
        count_by_class(DataSpec(name="imagefolder", path=str(pets), train_limit=2))
