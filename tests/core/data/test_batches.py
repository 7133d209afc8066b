import pytest
import torch

from fixnorm_core.data.batches import Augmentation, Normalization, steps_per_epoch, training_batches
from fixnorm_core.data.types import Split

STILL = Augmentation(flip=False, shift=0)


def numbered(count: int, *, side: int = 4) -> Split:
    labels = torch.arange(count)
    return Split(labels.view(-1, 1, 1, 1).expand(-1, 1, side, side).to(torch.uint8).contiguous(), labels)


def order(*, seed: int = 0, epoch: int = 1, count: int = 100, batch_size: int = 16) -> list[int]:
    batches = training_batches(numbered(count), batch_size=batch_size, augmentation=STILL, seed=seed, epoch=epoch)
    return [int(label) for _, labels in batches for label in labels]


def test_an_epoch_sees_every_image_once_with_its_label() -> None:
    assert sorted(order()) == list(range(100))
    for images, labels in training_batches(numbered(100), batch_size=16, augmentation=STILL, seed=0, epoch=1):
        assert torch.equal(images[:, 0, 0, 0].long(), labels)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert order() == order()
    assert order() != order(epoch=2)
    assert order() != order(seed=1)


@pytest.mark.parametrize(("count", "batch_size"), [(65, 64), (100, 16), (7, 64), (64, 64), (1, 4)])
def test_batches_are_even_and_no_larger_than_asked(count: int, batch_size: int) -> None:
    batches = training_batches(numbered(count), batch_size=batch_size, augmentation=STILL, seed=0, epoch=1)
    sizes = [len(labels) for _, labels in batches]
    assert len(sizes) == steps_per_epoch(count, batch_size=batch_size)
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def moved(augmentation: Augmentation, *, count: int = 400) -> tuple[torch.Tensor, list[torch.Tensor]]:
    picture = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5)
    two_channels = torch.cat([picture, picture + 100], dim=1)
    split = Split(two_channels.repeat(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64))
    batches = training_batches(split, batch_size=50, augmentation=augmentation, seed=0, epoch=1)
    return two_channels[0], [image for images, _ in batches for image in images]


def test_flips_mirror_about_half_of_the_images() -> None:
    picture, images = moved(Augmentation(flip=True, shift=0))
    mirrored = [torch.equal(image, picture.flip(2)) for image in images]
    kept = [torch.equal(image, picture) for image in images]
    assert all(one != other for one, other in zip(mirrored, kept, strict=True))
    assert 150 < sum(mirrored) < 250


def test_shifts_are_every_crop_of_the_reflected_picture() -> None:
    picture, images = moved(Augmentation(flip=False, shift=2))
    padded = torch.nn.functional.pad(picture.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    crops = {padded[:, y : y + 5, x : x + 5].numpy().tobytes() for y in range(5) for x in range(5)}
    assert {image.numpy().tobytes() for image in images} == crops


def test_flips_and_shifts_together_stay_crops_of_picture_or_mirror_image() -> None:
    picture, images = moved(Augmentation(flip=True, shift=1), count=600)
    crops = set()
    for one in (picture, picture.flip(2)):
        padded = torch.nn.functional.pad(one.float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
        crops |= {padded[:, y : y + 5, x : x + 5].numpy().tobytes() for y in range(3) for x in range(3)}
    assert {image.numpy().tobytes() for image in images} == crops


def test_augmentation_does_not_change_the_order() -> None:
    split = numbered(50)
    labels = [
        torch.cat([y for _, y in training_batches(split, batch_size=8, augmentation=augmentation, seed=3, epoch=2)])
        for augmentation in (STILL, Augmentation(flip=True, shift=0))
    ]
    assert torch.equal(*labels)


def test_callers_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    order()
    assert torch.equal(before, torch.random.get_rng_state())


def test_normalised_pixels_have_zero_mean_and_unit_spread() -> None:
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = images.double() / 255
    mean, std = pixels.mean(dim=(0, 2, 3)), pixels.std(dim=(0, 2, 3), correction=0)
    normal = Normalization(mean.tolist(), std.tolist())(images)
    assert normal.dtype == torch.float32
    torch.testing.assert_close(
        normal.double().mean(dim=(0, 2, 3)), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0
    )
    expected = ((pixels - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)).float()
    torch.testing.assert_close(normal, expected)
