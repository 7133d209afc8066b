from dataclasses import replace

import pytest
import torch

from fixnorm_core.data.load import load_training_data
from fixnorm_core.data.types import Split
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec

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
