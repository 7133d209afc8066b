"""Data sets of one's own: what a factory ``package.module:factory`` returns.

Splits by ``split_seed``, limits, normalization, augmentation and checks are the trainer's, as for any data set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from fixnorm_core.data.seeds import seeded
from fixnorm_core.data.splits import Indices, Part
from fixnorm_core.errors import DataError
from fixnorm_core.own import call_factory
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec

__all__ = ["OwnArrays", "OwnData", "OwnFiles", "make_own"]

OwnArrays = tuple[NDArray[np.uint8], Indices]
"""Images (n, h, w) or (n, h, w, 3), and their labels."""

OwnFiles = tuple[list[Path], Indices]


@dataclass(frozen=True, slots=True)
class OwnData:
    """What a data set's factory returns: ``factory(**options) -> OwnData``, with ``path=`` where ``data.path`` is set.

    Each part is either *images in memory*: a pair of a uint8 tensor (n, 1 or 3, side, side) and labels (n,), or a
    ``TensorDataset`` of the two; or *image files*: a sequence of pairs (path, label), or a data set that has one as
    ``samples``, torchvision's ``ImageFolder`` for example. All parts are of the same kind. Transforms of a data set are
    not used.

    The factory is called anew for each process and each reading, and has to return the same images in the same order;
    torch's generator is seeded by ``data.split_seed`` for it.

    Attributes:
        train: The images to train on. Validation and test images are taken out of them where they are not given.
        validation: Those that trials are compared on.
        test: Those that no trial sees.
        classes: Names, by label; None takes ``train.classes``, or else numbers.
    """

    train: Any
    validation: Any = None
    test: Any = None
    classes: Sequence[str] | None = None


def make_own(spec: DataSpec, *, reach: Reach) -> tuple[tuple[str, ...], dict[Part, OwnArrays] | dict[Part, OwnFiles]]:
    """Calls a data set's factory.

    Returns:
        The classes, and images with labels by part, all in memory or all in files.

    Raises:
        DataError: If the factory may not or cannot be called, or returns something else than :class:`OwnData` says.
    """
    options: dict[str, Any] = dict(spec.options)
    if spec.path is not None:
        options["path"] = Path(spec.path)
    with seeded(spec.split_seed):
        made = call_factory(spec.name, reach=reach, refusal=DataError, options=options)
    if not isinstance(made, OwnData):
        raise _wrong(spec, f"returned {type(made).__name__}")
    given = {Part.TRAIN: made.train, Part.VALIDATION: made.validation, Part.TEST: made.test}
    parts = {part: value for part, value in given.items() if value is not None}
    arrays = {part: pair for part, value in parts.items() if (pair := _arrays(spec, value)) is not None}
    labels: dict[Part, Indices]
    if arrays and len(arrays) == len(parts):
        classes = _classes(spec, made, {part: labels for part, (_, labels) in arrays.items()})
        return classes, arrays
    if arrays or Part.TRAIN not in parts:
        raise _wrong(spec, "gave some parts in memory and others in files, or no training images")
    files = {part: _files(spec, value) for part, value in parts.items()}
    labels = {part: labels for part, (_, labels) in files.items()}
    return _classes(spec, made, labels), files


def _arrays(spec: DataSpec, value: Any) -> OwnArrays | None:
    """A part in memory; None if it is not one."""
    pair = value.tensors if isinstance(value, TensorDataset) else value
    if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], torch.Tensor | np.ndarray)):
        return None
    images, labels = torch.as_tensor(pair[0]), np.asarray(pair[1])
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise _wrong(spec, f"gave images that are {images.dtype} of shape {tuple(images.shape)}")
    if labels.shape != (len(images),):
        raise _wrong(spec, f"gave labels of shape {labels.shape} for {len(images)} images")
    pixels = images.cpu().permute(0, 2, 3, 1).contiguous().numpy()
    return (pixels if pixels.shape[3] == 3 else pixels[..., 0]), _checked(spec, labels)


def _files(spec: DataSpec, value: Any) -> OwnFiles:
    try:
        pairs = [(Path(path), label) for path, label in getattr(value, "samples", value)]
    except (TypeError, ValueError):
        raise _wrong(spec, f"gave a part that is {type(value).__name__}") from None
    if not pairs:
        raise _wrong(spec, "gave a part without images")
    return [path for path, _ in pairs], _checked(spec, np.asarray([label for _, label in pairs]))


def _checked(spec: DataSpec, labels: NDArray[Any]) -> Indices:
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise _wrong(spec, "gave labels that are not whole numbers from 0")
    return labels.astype(np.int64)


def _classes(spec: DataSpec, made: OwnData, labels: dict[Part, Indices]) -> tuple[str, ...]:
    highest = max(int(of.max()) for of in labels.values())
    named = made.classes if made.classes is not None else getattr(made.train, "classes", None)
    classes = tuple(str(name) for name in (named if named is not None else range(highest + 1)))
    if len(classes) < 2 or highest >= len(classes):
        raise _wrong(spec, f"names {len(classes)} classes, and its highest label is {highest}")
    return classes


def _wrong(spec: DataSpec, what: str) -> DataError:
    return DataError(
        f"factory {spec.name!r} {what}",
        "Return fixnorm_core.data.own.OwnData: each part uint8 images (n, 1 or 3, side, side) with labels (n,), or "
        "pairs (file, label); labels from 0, two classes or more",
    )
