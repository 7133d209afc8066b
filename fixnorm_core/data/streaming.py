"""Images that stay in their files and are read batch by batch, for sets that do not fit in memory.

Which image meets which random change is decided where the training runs, exactly as for images in memory
(:mod:`fixnorm_core.data.augment`); a request carries the decisions to whichever process reads it. So the pixels are
those of images in memory on a CPU, bit for bit, whatever the number of processes. On a GPU, RandAugment changes images
in memory on the device and these on the CPU, whose kernels may round otherwise. Random crops take the file, so they
exist here alone; each is drawn from a seed of its own, of run, epoch and image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fixnorm_core.data.augment import Augmentation, BatchDraws, EpochDraws, augment
from fixnorm_core.data.decode import decode_centre, decode_crop, decode_files
from fixnorm_core.data.pool import WorkerPool
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.shares import WHOLE, Share
from fixnorm_core.data.types import Batches
from fixnorm_core.reach import ANYWHERE, Roots

__all__ = ["StreamedSplit"]


@dataclass(frozen=True, slots=True)
class StreamedSplit:
    """Labelled images in files; always RGB.

    Attributes:
        paths: The files.
        labels: int64, shape (n,).
        side: Pixels a side.
        pool: Reads them.
        roots: Where they must be.
    """

    paths: Sequence[Path]
    labels: Tensor
    side: int
    pool: WorkerPool = field(default_factory=lambda: WorkerPool(0))
    roots: Roots = ANYWHERE

    @property
    def dtype(self) -> torch.dtype:
        """Decoded images are bytes."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self.paths)

    def to(self, device: torch.device, *, pool: WorkerPool | None = None) -> StreamedSplit:
        """The same files, read by ``pool`` and delivered to ``device``."""
        return replace(self, labels=self.labels.to(device), pool=self.pool if pool is None else pool)

    def numbered(self, indices: Tensor) -> StreamedSplit:
        """Some of them, with their places as labels."""
        places = torch.arange(len(indices), device=self.labels.device)
        return replace(self, paths=[self.paths[index] for index in indices.tolist()], labels=places)

    def take(self, indices: Tensor) -> Tensor:
        """Some of them, read in threads of this process: few, and needed before there are workers.

        Raises:
            DataError: If one cannot be read.
        """
        pixels = decode_files([self.paths[index] for index in indices.tolist()], side=self.side, roots=self.roots)
        return pixels.to(self.labels.device)

    def in_order(self, *, batch_size: int, share: Share = WHOLE) -> Batches:
        """All of them, or every so many a batch.

        Raises:
            DataError: If one cannot be read.
        """
        starts = range(0, len(self), batch_size)[share.rank :: share.count]
        requests = (
            _Centres(self._names(range(at, min(at + batch_size, len(self)))), self.side, self.roots) for at in starts
        )
        return self._delivered(requests, torch.split(self.labels, batch_size)[share.rank :: share.count])

    def augmented(self, draws: EpochDraws, augmentation: Augmentation) -> Batches:
        """All of them, changed where they are read.

        Raises:
            DataError: If one cannot be read.
        """
        requests = (
            _Changed(self._names(draw.index.tolist()), self.side, self.roots, _PackedDraws.of(draw), augmentation)
            for draw in draws.batches()
        )
        indices = [draw.index for draw in draws.batches()]
        labels = self.labels[torch.cat(indices).to(self.labels.device)]
        return self._delivered(requests, torch.split(labels, [len(index) for index in indices]))

    def _names(self, indices: Sequence[int]) -> tuple[str, ...]:
        return tuple(str(self.paths[index]) for index in indices)

    def _delivered(self, requests: Iterator[_Centres | _Changed], labels: Sequence[Tensor]) -> Batches:
        with closing(self.pool.read(requests)) as batches:
            for images, targets in zip(batches, labels, strict=True):
                yield images.to(targets.device, non_blocking=True), targets


@dataclass(frozen=True, slots=True)
class _Centres:
    """A batch as it is evaluated."""

    paths: tuple[str, ...]
    side: int
    roots: Roots

    def read(self) -> Tensor:
        out = _empty(len(self.paths), self.side)
        for place, path in enumerate(self.paths):
            out[place] = decode_centre(Path(path), side=self.side, roots=self.roots).transpose(2, 0, 1)
        return torch.from_numpy(out)


@dataclass(frozen=True, slots=True)
class _PackedDraws:
    """The draws of a batch as arrays: torch would send each tensor through shared memory."""

    index: NDArray[np.int64]
    flip: NDArray[np.int64]
    shift: NDArray[np.int64]
    seed: int
    epoch: int
    step: int
    places: NDArray[np.int64] | None
    size: int

    @classmethod
    def of(cls, draws: BatchDraws) -> _PackedDraws:
        arrays = (draws.index.numpy(), draws.flip.numpy(), draws.shift.numpy())
        places = None if draws.places is None else draws.places.numpy()
        return cls(*arrays, seed=draws.seed, epoch=draws.epoch, step=draws.step, places=places, size=draws.size)

    def unpacked(self) -> BatchDraws:
        index, flip, shift = (torch.from_numpy(array.copy()) for array in (self.index, self.flip, self.shift))
        places = None if self.places is None else torch.from_numpy(self.places.copy())
        return BatchDraws(
            index, flip, shift, seed=self.seed, epoch=self.epoch, step=self.step, places=places, size=self.size
        )


@dataclass(frozen=True, slots=True)
class _Changed:
    """A batch as it is trained on."""

    paths: tuple[str, ...]
    side: int
    roots: Roots
    draws: _PackedDraws
    augmentation: Augmentation

    def read(self) -> Tensor:
        if (least := self.augmentation.crop_min_area) is None:
            images = _Centres(self.paths, self.side, self.roots).read()
        else:
            out = _empty(len(self.paths), self.side)
            for place, (path, index) in enumerate(zip(self.paths, self.draws.index.tolist(), strict=True)):
                seed = derive_seed(self.draws.seed, f"crop of image {index}", self.draws.epoch)
                crop = decode_crop(Path(path), side=self.side, min_area=least, seed=seed, roots=self.roots)
                out[place] = crop.transpose(2, 0, 1)
            images = torch.from_numpy(out)
        return augment(images, self.draws.unpacked(), self.augmentation)


def _empty(count: int, side: int) -> NDArray[np.uint8]:
    return np.empty((count, 3, side, side), dtype=np.uint8)
