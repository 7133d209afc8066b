import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fixnorm_core.data import load
from fixnorm_core.data.load import load_test_split, load_training_data, load_validation_split
from fixnorm_core.data.types import Split
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec


def make_folder(root: Path, *, size: tuple[int, int] = (12, 12), count: int = 10, suffix: str = ".png") -> DataSpec:
    random = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(100 * label, 100 * label + 100, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number:02d}{suffix}")
    return DataSpec(name="imagefolder", path=str(root))


def single(folder: Path, image: Image.Image, *, image_size: int | None = None) -> torch.Tensor:
    """The image as it is read when it is the only one of its class in training, beside black ones."""
    for name in ("a", "b"):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True)
            Image.new("RGB", image.size).save(folder / split / name / "0.png")
    suffix = ".tif" if image.mode.startswith("I") or image.mode == "CMYK" else ".png"
    (folder / "train" / "a" / "0.png").unlink()
    image.save(folder / "train" / "a" / f"0{suffix}")
    data = load_training_data(DataSpec(name="imagefolder", path=str(folder), image_size=image_size))
    return data.train.images[0]


def test_digits_are_scaled_to_bytes_and_split_three_ways() -> None:
    data = load_training_data(DataSpec())
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.max() == 255
    _, test = load_test_split(DataSpec(), image_size=8)
    assert len(data.train) + len(data.validation) + len(test) == 1797
    assert data.classes == tuple("0123456789")
    assert (data.flip, data.shift) == (False, 1)


def test_no_test_image_is_among_those_of_training() -> None:
    data = load_training_data(DataSpec())
    _, test = load_test_split(DataSpec(), image_size=8)
    seen = {image.numpy().tobytes() for image in torch.cat([data.train.images, data.validation.images])}
    shared = sum(image.numpy().tobytes() in seen for image in test.images)
    assert shared == 0  # the digits hold no duplicates, so this would show one misplaced image


def test_statistics_are_those_of_the_training_images() -> None:
    data = load_training_data(DataSpec(image_size=16))
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], rel=1e-12)


@pytest.mark.parametrize("shape", [(300, 3, 224, 224), (1000, 1, 28, 28), (1, 3, 7, 7)])
def test_statistics_are_exact_whatever_the_size(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 0] //= 3
    pixels = [channel.double() for channel in images.unbind(dim=1)]  # sums of such integers are exact in float64
    mean = torch.stack([channel.sum() / channel.numel() for channel in pixels])
    square = torch.stack([channel.square().sum() / channel.numel() for channel in pixels])
    found = load._statistics(images)
    assert found == (tuple((mean / 255).tolist()), tuple(((square - mean**2).sqrt() / 255).tolist()))


def test_constant_channel_does_not_divide_by_zero(tmp_path: Path) -> None:
    single(tmp_path, Image.new("RGB", (8, 8)))
    data = load_training_data(DataSpec(name="imagefolder", path=str(tmp_path)))
    assert data.std == pytest.approx([1 / 255] * 3)


def test_folder_is_read_in_order_of_names(tmp_path: Path) -> None:
    spec = make_folder(tmp_path / "photos")
    data = load_training_data(spec)
    assert data.classes == ("cat", "dog")
    assert data.image_size == 12
    assert data.train.labels.tolist() == sorted(data.train.labels.tolist())
    assert all((image.float().mean() > 100) == bool(label) for image, label in zip(*_pair(data.train), strict=True))


def test_reading_again_gives_the_same_bits(tmp_path: Path) -> None:
    spec = make_folder(tmp_path / "photos", suffix=".jpg")
    first, again = load_training_data(spec), load_training_data(spec)
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.validation.images, load_validation_split(spec, image_size=12)[1].images)


def test_files_of_the_test_split_are_never_opened_for_training(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    make_folder(root / "train")
    make_folder(root / "test")
    for path in (root / "test").rglob("*.png"):
        path.write_bytes(b"not an image")
    spec = DataSpec(name="imagefolder", path=str(root))
    assert len(load_training_data(spec).train) == 16
    with pytest.raises(DataError, match="cannot be read as an image"):
        load_test_split(spec, image_size=12)


def test_only_chosen_files_are_decoded(tmp_path: Path) -> None:
    spec = make_folder(tmp_path / "photos").model_copy(update={"train_limit": 4, "validation_limit": 2})
    kept = load_training_data(spec)
    for path in Path(str(spec.path)).rglob("*.png"):
        pixels = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
        if not any(torch.equal(pixels, image) for image in torch.cat([kept.train.images, kept.validation.images])):
            path.write_bytes(b"")
    assert torch.equal(load_training_data(spec).train.images, kept.train.images)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_corrupt_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    spec = make_folder(tmp_path / "photos", suffix=".jpg")
    for broken in (tmp_path / "photos" / "cat").iterdir():  # None: cut in the middle, so that the header is whole
        broken.write_bytes(broken.read_bytes()[:-300] if content is None else content)
    with pytest.raises(DataError, match=r"photos/cat/\d+\.jpg cannot be read as an image"):
        load_training_data(spec)


def test_shipped_splits_are_used(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("valid", 3), ("test", 2)):
        make_folder(tmp_path / "photos" / split, count=count)
    spec = DataSpec(name="imagefolder", path=str(tmp_path / "photos"))
    data = load_training_data(spec)
    assert (len(data.train), len(data.validation)) == (12, 6)
    assert len(load_test_split(spec, image_size=12)[1]) == 4


def test_images_of_many_sizes_are_brought_to_224(tmp_path: Path) -> None:
    spec = make_folder(tmp_path / "photos")
    Image.new("RGB", (40, 20)).save(tmp_path / "photos" / "cat" / "00.png")
    spec = spec.model_copy(update={"test_fraction": 0.01})  # one of each class; the odd one may be it
    assert load_training_data(spec).image_size in (12, 224)
    shutil.rmtree(tmp_path / "photos")
    assert load_training_data(make_folder(tmp_path / "photos", size=(12, 10))).image_size == 224


def test_resizing_keeps_the_centre(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (10, 0, 30, 20))  # the square in the middle
    assert single(tmp_path, image, image_size=10)[:, 1:-1, 1:-1].min() == 255


def test_arrays_are_resized_too() -> None:
    data = load_training_data(DataSpec(image_size=12))
    assert data.train.images.shape[1:] == (1, 12, 12)
    assert load_test_split(DataSpec(image_size=12), image_size=12)[1].images.shape[1:] == (1, 12, 12)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("L", (8, 8), 77), (77, 77, 77)),
        (Image.new("RGBA", (8, 8), (10, 20, 30, 0)), (10, 20, 30)),
        (Image.new("LA", (8, 8), (60, 9)), (60, 60, 60)),
        (Image.new("I;16", (8, 8), 200 * 256 + 5), (200, 200, 200)),
        (Image.new("I", (8, 8), 200 * 256 + 5), (200, 200, 200)),
        (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("1", (8, 8), 1), (255, 255, 255)),
        (Image.new("RGB", (8, 8), (1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE), (1, 2, 3)),
    ],
    ids=["grey", "alpha", "grey and alpha", "16 bits", "32 bits", "cyan ink", "1 bit", "palette"],
)
def test_every_kind_of_pixel_becomes_8_bit_rgb(
    tmp_path: Path, image: Image.Image, expected: tuple[int, int, int]
) -> None:
    assert single(tmp_path, image)[:, 4, 4].tolist() == list(expected)


def test_palette_with_transparency_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), (1, 2, 3)).convert("P", palette=Image.Palette.ADAPTIVE)
    image.info["transparency"] = bytes([0] * 4)
    assert single(tmp_path, image)[:, 4, 4].tolist() == [1, 2, 3]


def test_too_many_bytes_are_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MEMORY_LIMIT", 64 * 1000)
    with pytest.raises(DataError, match=r"1,438 images of 8x8 .*Lower data\.image_size, or set data\.train_limit"):
        load_training_data(DataSpec())


def test_shift_as_large_as_the_image_is_refused() -> None:
    with pytest.raises(DataError, match="shift is 8 pixels on images of 8 pixels"):
        load_training_data(DataSpec(shift=8))


def test_spec_overrides_the_default_augmentation() -> None:
    data = load_training_data(DataSpec(flip=True, shift=0))
    assert (data.flip, data.shift) == (True, 0)


def _pair(split: Split) -> tuple[torch.Tensor, torch.Tensor]:
    return split.images, split.labels
