"""Random changes of whole batches by torchvision: RandAugment, mixup and CutMix, seeded without touching the caller."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fixnorm_core.data.seeds import derive_seed, seeded
from fixnorm_core.spec import RandAugmentSpec, TrainingSpec

__all__ = ["Mixing", "RandAugment", "transforms"]

_GROUPS = 32


class RandAugment:
    """RandAugment (arXiv 1909.13719) for batches: torchvision's own, on small groups drawn anew for each operation.

    Each image meets the operations with RandAugment's probabilities. Images of one group share theirs, and there are
    32 groups in a batch: image by image, the calls alone would cost more than the training of a small network.
    """

    def __init__(self, spec: RandAugmentSpec) -> None:
        """Takes the number of operations and their strength."""
        self._spec = spec
        self._operations = spec.num_ops
        self._change: Any = transforms().RandAugment(num_ops=1, magnitude=spec.magnitude)

    def __reduce__(self) -> tuple[type[RandAugment], tuple[RandAugmentSpec]]:
        """Travels to other processes as its spec: torchvision's object is a hundred times as large."""
        return RandAugment, (self._spec,)

    def __call__(self, images: Tensor, *, seed: int, places: Tensor | None = None, size: int = 0) -> Tensor:
        """Changes images, on any device; ``seed`` decides how.

        Args:
            images: uint8 (n, channels, side, side).
            seed: Of the batch.
            places: Where they are in it if they are a part of it, (n,); they are changed as they would be in it.
            size: Of the whole batch, where they are a part.
        """
        size = len(images) if places is None else size
        with seeded(seed):
            for _ in range(self._operations):
                changed = torch.empty_like(images)
                order = torch.randperm(size)
                for group in _groups(order.to(images.device)) if places is None else _parts(order, places):
                    if len(group):
                        changed[group] = self._change(images[group])
                    else:
                        self._change(images[:1])  # draws what whoever has the group draws
                images = changed
        return images


class Mixing:
    """Mixup (arXiv 1710.09412) and CutMix (arXiv 1905.04899); with both, every batch draws one of them.

    Both take each image with the one before it in the batch, the first with the last.
    """

    def __init__(self, training: TrainingSpec, *, classes: int, seed: int) -> None:
        """Takes the alphas of ``training``; ``seed`` is the trial's."""
        alphas = {"MixUp": training.mixup_alpha, "CutMix": training.cutmix_alpha}
        chosen = [
            getattr(transforms(), name)(alpha=alpha, num_classes=classes) for name, alpha in alphas.items() if alpha
        ]
        self._change: Any = transforms().RandomChoice(chosen) if chosen else None
        self._seed = seed

    @property
    def mixes(self) -> bool:
        """Whether it does anything."""
        return self._change is not None

    def __call__(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        """Mixes normalized images (n, channels, side, side) with each other.

        Args:
            images: Float.
            labels: int64, shape (n,).
            step: Counted over the whole run; with the seed, decides everything.

        Returns:
            The images, and the shares of the classes (n, classes); both as they came where nothing is mixed.
        """
        if self._change is None:
            return images, labels
        with seeded(derive_seed(self._seed, "mixing", step)):
            mixed, shares = self._change(images, labels)
        return mixed, shares


def _groups(order: Tensor) -> tuple[Tensor, ...]:
    return order.tensor_split(min(_GROUPS, len(order)))


def _parts(order: Tensor, places: Tensor) -> Iterator[Tensor]:
    """What of each group of a batch is among these places of it, as positions in ``places``."""
    position = torch.full((len(order),), -1)
    position[places.cpu()] = torch.arange(len(places))
    for group in _groups(position[order]):
        yield group[group >= 0].to(places.device)


def transforms() -> Any:
    """``torchvision.transforms.v2``."""
    from fixnorm_core.vision import torchvision

    return import_module(f"{torchvision.__name__}.transforms.v2")  # not loaded by torchvision itself
