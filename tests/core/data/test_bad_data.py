from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import make_pictures
from PIL import Image

from fixnorm_core.data.batches import Augmentation, training_batches
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.data.types import Split
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer
from fixnorm_core.training.weights import load_classifier

DIGITS = DataSpec(train_limit=20, validation_limit=10)


@pytest.mark.parametrize("label", [-1, 10])
@pytest.mark.parametrize("part", ["train", "validation"])
def test_label_that_is_no_class_is_refused_before_anything_is_trained(part: str, label: int) -> None:
    data = load_training_data(DIGITS)
    split = getattr(data, part)
    labels = split.labels.clone()
    labels[3] = label
    with pytest.raises(DataError, match=rf"label {label} of a {part[:5]}\w+ image is not in \[0, 10\)"):
        replace(data, **{part: Split(split.images, labels)})


def test_pixels_that_could_be_nan_are_refused() -> None:
    data = load_training_data(DIGITS)
    images = torch.full_like(data.train.images, float("nan"), dtype=torch.float32)
    with pytest.raises(DataError, match=r"training images are torch\.float32; pixels are bytes"):
        replace(data, train=Split(images, data.train.labels))


def test_images_of_all_sizes_and_modes_train_side_by_side(tmp_path: Path) -> None:
    sizes = [(8, 8), (40, 9), (9, 40), (1, 30), (200, 150)]
    modes = {"L": ".png", "RGBA": ".png", "P": ".gif.png", "I;16": ".tif", "CMYK": ".jpg", "RGB": ".webp", "1": ".bmp"}
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number, (mode, suffix) in enumerate(modes.items()):
            for size in sizes:
                Image.new(mode, size).save(tmp_path / label / f"{number}-{size[0]}x{size[1]}{suffix}")
    memory, stream = (
        load_training_data(DataSpec(name="imagefolder", path=str(tmp_path), image_size=12, storage=storage))
        for storage in ("memory", "stream")
    )
    everything = torch.arange(len(memory.train))
    assert memory.train.take(everything).shape[1:] == (3, 12, 12)
    assert torch.equal(stream.train.take(everything), memory.train.take(everything))
    crops = Augmentation(flip=True, shift=0, crop_min_area=0.1)
    cropped = torch.cat(
        [x for x, _ in training_batches(stream.train, batch_size=9, augmentation=crops, seed=0, epoch=1)]
    )
    assert cropped.shape == memory.train.take(everything).shape


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_a_class_that_validation_lacks_is_trained_and_counts_as_one(tmp_path: Path, storage: str) -> None:
    make_pictures(tmp_path / "pictures" / "train", count=6, classes=("cat", "dog", "emu"))
    make_pictures(tmp_path / "pictures" / "val", count=3, classes=("cat", "dog"))
    make_pictures(tmp_path / "pictures" / "test", count=3, classes=("cat", "dog"))
    trainer = Trainer(trial(tmp_path / "pictures", storage=storage), folder=tmp_path / "run")
    (report,) = trainer
    assert trainer.result().classes == 3
    assert trainer.result().validation_examples == 6
    assert not report.diverged
    assert load_classifier(tmp_path / "run" / WEIGHTS_NAME).classes == ("cat", "dog", "emu")


def test_a_class_of_a_single_image_is_trained_and_held_out_nowhere(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", count=10, classes=("cat", "dog"))
    make_pictures(tmp_path / "more", count=1, classes=("emu",))
    (tmp_path / "more" / "emu").rename(tmp_path / "pictures" / "emu")
    spec = trial(tmp_path / "pictures")
    data = load_training_data(spec.data)
    assert (data.train.labels == 2).sum() == 1
    assert (data.validation.labels == 2).sum() == 0
    assert (load_test_split(spec.data, image_size=12)[1].labels == 2).sum() == 0
    (report,) = Trainer(spec, folder=tmp_path / "run", data=data)
    assert not report.diverged


def trial(folder: Path, **data: Any) -> TrialSpec:
    return TrialSpec(
        model=ModelSpec(options={"width": 4}),
        data=DataSpec(name="imagefolder", path=str(folder), image_size=12, loader_workers=0, **data),
        training=TrainingSpec(epochs=1, batch_size=6, device="cpu"),
        method=Method.FIXNORM,
        params={"lr": 0.008, "fc_norm": 2.0},
        seed=0,
    )
