import pytest
import torch

from fixnorm_core.data.batches import Augmentation, training_batches
from fixnorm_core.data.mixing import Mixing, RandAugment
from fixnorm_core.data.types import Split
from fixnorm_core.spec import RandAugmentSpec, TrainingSpec

IMAGES = torch.randint(256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 5


def mixing(*, seed: int = 0, **alphas: float) -> Mixing:
    return Mixing(TrainingSpec(**alphas), classes=5, seed=seed)


def test_nothing_is_mixed_by_default() -> None:
    images, labels = mixing()(IMAGES.float(), LABELS, step=3)
    assert torch.equal(images, IMAGES.float())
    assert labels is LABELS


@pytest.mark.parametrize("alphas", [{"mixup_alpha": 1.0}, {"cutmix_alpha": 1.0}], ids=["mixup", "cutmix"])
def test_mixed_images_come_with_the_shares_of_their_classes(alphas: dict[str, float]) -> None:
    labels = torch.tensor([0, 1])
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])  # the mean pixel is the share of class 1
    changed = 0
    for step in range(10):
        mixed, shares = mixing(**alphas)(images, labels, step=step)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
        torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), shares[:, 1])
        changed += not torch.equal(mixed, images)
    assert changed >= 8


def test_with_both_each_batch_draws_one_of_the_two() -> None:
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    both = mixing(mixup_alpha=1.0, cutmix_alpha=1.0)
    pasted = [
        bool(((mixed == 0) | (mixed == 1)).all())
        for mixed in (both(images, torch.tensor([0, 1]), step=step)[0] for step in range(30))
    ]
    assert 5 < sum(pasted) < 25


def test_mixing_is_a_function_of_seed_and_step() -> None:
    def mixed(seed: int, step: int) -> torch.Tensor:
        return mixing(seed=seed, mixup_alpha=1.0)(IMAGES.float(), LABELS, step=step)[0]

    torch.rand(3)
    assert torch.equal(mixed(0, 1), mixed(0, 1))
    assert not torch.equal(mixed(0, 1), mixed(0, 2))
    assert not torch.equal(mixed(0, 1), mixed(1, 1))


def test_random_operations_are_a_function_of_the_seed_and_leave_the_callers_random_state_alone() -> None:
    change = RandAugment(RandAugmentSpec())
    before = torch.random.get_rng_state()
    assert torch.equal(change(IMAGES, seed=1), change(IMAGES, seed=1))
    assert not torch.equal(change(IMAGES, seed=1), change(IMAGES, seed=2))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_random_operations_keep_type_shape_and_order(channels: int, count: int) -> None:
    images = IMAGES[:count, :channels]
    changed = [RandAugment(RandAugmentSpec(num_ops=1))(images, seed=seed) for seed in range(5)]
    assert all((out.shape, out.dtype) == (images.shape, torch.uint8) for out in changed)
    # One operation in fourteen is the identity: over five seeds, some images come back as they were, in their place
    assert count < 40 or any((out == images).flatten(1).all(dim=1).any() for out in changed)


def test_no_strength_still_means_what_torchvision_makes_of_it_and_strength_changes_more() -> None:
    weak, strong = (RandAugment(RandAugmentSpec(magnitude=magnitude))(IMAGES, seed=0) for magnitude in (1, 25))
    assert (strong.float() - IMAGES).abs().mean() > (weak.float() - IMAGES).abs().mean()


def test_each_batch_and_epoch_is_changed_in_its_own_way() -> None:
    split = Split(IMAGES[:1].repeat(64, 1, 1, 1), torch.zeros(64, dtype=torch.int64))
    augmentation = Augmentation(flip=False, shift=0, randaugment=RandAugment(RandAugmentSpec()))

    def epoch(number: int) -> list[torch.Tensor]:
        batches = training_batches(split, batch_size=32, augmentation=augmentation, seed=0, epoch=number)
        return [images for images, _ in batches]

    first, second, again = epoch(1), epoch(2), epoch(1)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], second[0])
    assert torch.equal(torch.cat(first), torch.cat(again))
