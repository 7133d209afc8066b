"""Images that stay in their files give the batches of images in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import make_pictures
from PIL import Image

from fixnorm_core.data import load
from fixnorm_core.data.batches import Augmentation, training_batches
from fixnorm_core.data.load import load_test_split, load_training_data, load_validation_split
from fixnorm_core.data.mixing import RandAugment, transforms
from fixnorm_core.data.pool import WorkerPool
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.streaming import StreamedSplit
from fixnorm_core.data.types import Images, Split
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec, RandAugmentSpec

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # more processes than this machine has CPUs

CPU = torch.device("cpu")
EVERYTHING = Augmentation(flip=True, shift=2, randaugment=RandAugment(RandAugmentSpec()))
CROPS = Augmentation(flip=True, shift=0, crop_min_area=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("streaming") / "pictures")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool(2) as pool:
        yield pool


def spec(folder: Path, **fields: Any) -> DataSpec:
    return DataSpec(**({"name": "imagefolder", "path": str(folder), "image_size": 16} | fields))


def streamed(folder: Path, **fields: Any) -> StreamedSplit:
    split = load_training_data(spec(folder, storage="stream", **fields)).train
    assert isinstance(split, StreamedSplit)
    return split


def epoch_of(split: Images, augmentation: Augmentation, *, epoch: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(training_batches(split, batch_size=6, augmentation=augmentation, seed=3, epoch=epoch))


def same(first: list[tuple[torch.Tensor, torch.Tensor]], second: list[tuple[torch.Tensor, torch.Tensor]]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(flip=True, shift=0), Augmentation(False, 0)])
def test_training_batches_are_those_of_images_in_memory(
    folder: Path, pool: WorkerPool, augmentation: Augmentation
) -> None:
    in_memory = load_training_data(spec(folder)).train
    assert isinstance(in_memory, Split)
    for epoch in (1, 2):
        found = epoch_of(streamed(folder).to(CPU, pool=pool), augmentation, epoch=epoch)
        assert same(found, epoch_of(in_memory, augmentation, epoch=epoch))


def test_evaluation_is_that_of_images_in_memory(folder: Path, pool: WorkerPool) -> None:
    in_memory, files = load_training_data(spec(folder)), load_training_data(spec(folder, storage="stream"))
    assert isinstance(in_memory.validation, Split)
    assert isinstance(files.validation, StreamedSplit)
    found = list(files.validation.to(CPU, pool=pool).in_order(batch_size=3))
    assert same(found, list(in_memory.validation.in_order(batch_size=3)))
    picked = torch.tensor([3, 0, 2])
    assert torch.equal(files.train.take(picked), in_memory.train.take(picked))
    assert (files.mean, files.std) == (in_memory.mean, in_memory.std)


def test_test_and_validation_splits_stream_by_themselves(folder: Path) -> None:
    for opened in (load_test_split, load_validation_split):
        (_, files), (_, in_memory) = (opened(spec(folder, storage=way), image_size=16) for way in ("stream", "memory"))
        assert isinstance(files, StreamedSplit)
        assert same(list(files.in_order(batch_size=4)), list(in_memory.in_order(batch_size=4)))


@pytest.mark.parametrize("augmentation", [EVERYTHING, CROPS])
def test_batches_do_not_depend_on_the_number_of_processes(
    folder: Path, pool: WorkerPool, augmentation: Augmentation
) -> None:
    split = streamed(folder)
    alone = epoch_of(split, augmentation)
    assert same(epoch_of(split.to(CPU, pool=pool), augmentation), alone)
    with WorkerPool(3) as more:
        assert same(epoch_of(split.to(CPU, pool=more), augmentation), alone)
    assert not same(epoch_of(split, augmentation, epoch=2), alone)


def test_random_crops_are_torchvisions(folder: Path) -> None:
    split = streamed(folder)
    alone = Augmentation(flip=False, shift=0, crop_min_area=0.2)
    (images, _), *_ = training_batches(split, batch_size=64, augmentation=alone, seed=5, epoch=2)
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(derive_seed(5, "batches", 2)))
    crop = transforms().RandomResizedCrop(16, scale=(0.2, 1.0))
    for found, index in zip(images, order.tolist(), strict=True):
        torch.manual_seed(derive_seed(5, f"crop of image {index}", 2))
        expected = torch.from_numpy(np.array(crop(Image.open(split.paths[index])))).permute(2, 0, 1)
        # Ours lets the resampling look beyond the rectangle's edge, by a pixel
        torch.testing.assert_close(found[:, 1:-1, 1:-1].float(), expected[:, 1:-1, 1:-1].float(), atol=2.0, rtol=0.0)


def test_a_large_jpeg_is_decoded_small_and_cropped_at_the_same_place(tmp_path: Path) -> None:
    split = streamed(make_pictures(tmp_path / "large", count=6, size=(640, 480)))
    pictures = [np.asarray(Image.open(path)) for path in split.paths]
    for path, pixels in zip(split.paths, pictures, strict=True):
        Image.fromarray(pixels).save(path.with_suffix(".png"))  # which knows no smaller decoding
    pngs = StreamedSplit([path.with_suffix(".png") for path in split.paths], split.labels, split.side)
    for (jpeg, _), (png, _) in zip(epoch_of(split, CROPS), epoch_of(pngs, CROPS), strict=True):
        assert (jpeg.float() - png.float()).abs().mean() < 1.5
        assert not torch.equal(jpeg, png)


def test_reading_leaves_the_random_state_of_the_training_alone(folder: Path, pool: WorkerPool) -> None:
    before = torch.random.get_rng_state()
    epoch_of(streamed(folder).to(CPU, pool=pool), EVERYTHING)
    epoch_of(streamed(folder), CROPS)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_takes_more_than_memory_is_streamed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MEMORY_LIMIT", 16 * 16 * 3)
    assert isinstance(load_training_data(spec(folder)).train, StreamedSplit)
    assert isinstance(load_test_split(spec(folder), image_size=16)[1], StreamedSplit)
    load.check_test_split(spec(folder))
    with pytest.raises(DataError, match=r"above the limit.*data\.storage to auto"):
        load_training_data(spec(folder, storage="memory"))


def test_statistics_of_many_images_are_those_of_an_even_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "STATISTICS_IMAGES", 4)
    data = load_training_data(spec(folder, storage="stream"))
    part = data.train.take(torch.arange(4) * len(data.train) // 4).double() / 255
    assert data.mean == pytest.approx(part.mean(dim=(0, 2, 3)).tolist())
    assert data.std == pytest.approx(part.std(dim=(0, 2, 3), correction=0).tolist())


def test_images_in_memory_refuse_random_crops(folder: Path) -> None:
    with pytest.raises(DataError, match=r"cut out of image files.*data\.storage to stream"):
        epoch_of(load_training_data(spec(folder)).train, CROPS)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_is_named_in_the_error_of_this_process(tmp_path: Path, workers: int) -> None:
    split = streamed(make_pictures(tmp_path / "pictures"))
    split.paths[7].write_bytes(b"no image")
    with (
        WorkerPool(workers) as pool,
        pytest.raises(DataError, match=rf"^{split.paths[7]} cannot be read as an image.*skip_corrupt") as caught,
    ):
        epoch_of(split.to(CPU, pool=pool), EVERYTHING)
    assert "Traceback" not in str(caught.value)
    assert caught.value.way_out


@pytest.mark.gpu
def test_a_gpu_is_given_the_same_batches(folder: Path) -> None:
    with WorkerPool(2, pin=True) as pool:
        on_gpu = epoch_of(streamed(folder).to(torch.device("cuda"), pool=pool), EVERYTHING)
    assert all(tensor.is_cuda for batch in on_gpu for tensor in batch)
    assert same([(x.cpu(), y.cpu()) for x, y in on_gpu], epoch_of(streamed(folder), EVERYTHING))
