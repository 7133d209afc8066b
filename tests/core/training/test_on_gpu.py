"""The trainer on a GPU: exact where it says so, and fed from images that stay on the device as bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.data.batches import Augmentation, training_batches
from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]


@pytest.fixture(scope="module")
def stripes() -> TrainingData:
    """Noise with a bright row, whose place is the class."""
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(128, (count, 3, 16, 16), generator=random, dtype=torch.uint8)
        labels = torch.arange(count) % 4
        images[torch.arange(count), :, 2 + 4 * labels] = 255
        return Split(images, labels)

    return TrainingData(
        classes=tuple("abcd"),
        channels=3,
        image_size=16,
        train=split(400),
        validation=split(100),
        mean=(0.3,) * 3,
        std=(0.2,) * 3,
        flip=True,
        shift=1,
    )


def timeless(reports: list[EpochReport]) -> list[EpochReport]:
    return [report.model_copy(update={"seconds": 0.0, "images_per_second": 0.0}) for report in reports]


def trained(trial: TrialSpec, folder: Path, data: TrainingData) -> list[EpochReport]:
    trainer = Trainer(trial, folder=folder, data=data)
    reports = timeless(list(trainer))
    assert trainer.result().device.startswith("cuda")
    return reports


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")  # torch.compile advises to turn TF32 on
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # and uses what torch has deprecated
@pytest.mark.parametrize(
    "options",
    [{}, {"precision": "bf16"}, {"precision": "fp16"}, {"precision": "bf16", "compile": True}, {"tf32": True}],
    ids=["fp32", "bf16", "fp16", "compiled", "tf32"],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    options: dict[str, Any], make_trial: MakeTrial, stripes: TrainingData, tmp_path: Path
) -> None:
    trial = make_trial(device="cuda", epochs=4, **options)
    whole = trained(trial, tmp_path / "whole", stripes)
    list(islice(Trainer(trial, folder=tmp_path / "resumed", data=stripes), 2))
    resumed = trained(trial, tmp_path / "resumed", stripes)

    assert resumed == whole
    assert whole[-1].validation_accuracy > 0.5
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "resumed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert {tensor.dtype for tensor in expected.values()} <= {torch.float32, torch.int64}


@pytest.mark.gpu
def test_it_learns_with_any_kernels(make_trial: MakeTrial, stripes: TrainingData, tmp_path: Path) -> None:
    trial = make_trial(device="cuda", deterministic=False, tf32=True)
    assert trained(trial, tmp_path, stripes)[-1].validation_accuracy > 0.5


@pytest.mark.gpu
def test_the_cpu_and_the_gpu_see_the_same_batches_from_bytes_that_stay_on_the_device(stripes: TrainingData) -> None:
    assert isinstance(stripes.train, Split)
    augmentation = Augmentation(flip=True, shift=2)
    before = torch.cuda.memory_allocated()
    on_gpu = stripes.train.to(torch.device("cuda"))
    assert on_gpu.images.numel() <= torch.cuda.memory_allocated() - before < 2 * on_gpu.images.numel()

    ours, theirs = (
        list(training_batches(split, batch_size=64, augmentation=augmentation, seed=3, epoch=2))
        for split in (on_gpu, stripes.train)
    )

    assert len(ours) == len(theirs) == 7
    for (images, labels), (expected, targets) in zip(ours, theirs, strict=True):
        assert images.is_cuda
        assert labels.is_cuda
        assert images.dtype == torch.uint8
        assert torch.equal(images.cpu(), expected)
        assert torch.equal(labels.cpu(), targets)
