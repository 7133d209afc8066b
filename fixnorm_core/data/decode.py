"""From image files and arrays to uint8 pixels, many of them in threads (Pillow releases the interpreter lock).

Whatever a file holds (grey, palette, alpha, 16 bits) becomes 8-bit RGB; alpha is dropped. EXIF orientation is not
applied, as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fixnorm_core.data.mixing import transforms
from fixnorm_core.data.seeds import seeded
from fixnorm_core.errors import DataError
from fixnorm_core.reach import ANYWHERE, OutsideRoots, Roots

__all__ = [
    "array_images",
    "check_files",
    "corrupt_files",
    "decode_centre",
    "decode_crop",
    "decode_files",
    "shared_side",
]

MAX_NATIVE_SIDE = 256
"""Images that all have one square size are kept at it up to this; larger ones would not fit in memory by accident."""

DEFAULT_SIDE = 224
"""Pixels a side where images have no common size: what the torchvision models were designed for."""

_CHUNK = 32

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def shared_side(paths: Sequence[Path], *, roots: Roots = ANYWHERE) -> int:
    """The side to use when none is asked for: that of the images if they are square and alike, else 224.

    Raises:
        DataError: If a file cannot be read as an image.
    """
    first = _read(paths[0], lambda image: image.size, roots)
    if first[0] != first[1] or first[0] > MAX_NATIVE_SIDE:
        return DEFAULT_SIDE
    sizes = _in_threads(lambda path: _read(path, lambda image: image.size, roots), paths)
    return first[0] if all(size == first for size in sizes) else DEFAULT_SIDE


def decode_files(paths: Sequence[Path], *, side: int, channels: int = 3, roots: Roots = ANYWHERE) -> Tensor:
    """Decodes image files to uint8 of shape (n, channels, side, side).

    Args:
        paths: The files.
        side: Pixels a side.
        channels: 3 (red, green, blue) or 1 (grey, by ITU-R 601-2 luma; what is grey already keeps its values).
        roots: Where the files must be.

    Raises:
        DataError: If a file cannot be read as an image; the message names it.
    """
    out = np.empty((len(paths), channels, side, side), dtype=np.uint8)

    def decode(index: int) -> None:
        if channels == 1:
            out[index] = _read(paths[index], lambda image: _fit(_to_rgb(image).convert("L"), side), roots)
        else:
            out[index] = decode_centre(paths[index], side=side, roots=roots).transpose(2, 0, 1)

    for _ in _in_threads(decode, range(len(paths))):
        pass
    return torch.from_numpy(out)


def decode_centre(path: Path, *, side: int, roots: Roots = ANYWHERE) -> NDArray[np.uint8]:
    """One image as it is evaluated: the shorter side resized, the centre cropped; uint8 (side, side, 3).

    Raises:
        DataError: If the file cannot be read as an image; the message names it.
    """
    return _read(path, lambda image: _fit(_to_rgb(image), side), roots)


def decode_crop(path: Path, *, side: int, min_area: float, seed: int, roots: Roots = ANYWHERE) -> NDArray[np.uint8]:
    """One image as it is trained on with random resized crops (arXiv 1409.4842, section 6).

    Which rectangle is torchvision's ``RandomResizedCrop``'s choice. A JPEG is decoded at a half, a quarter or an eighth
    of its size where the rectangle stays as large as the result, since decoding is most of the work.

    Args:
        path: The file.
        side: Pixels a side.
        min_area: Share of the picture that the rectangle keeps at least.
        seed: Decides which rectangle.
        roots: Where the file must be.

    Returns:
        uint8 (side, side, 3).

    Raises:
        DataError: If the file cannot be read as an image; the message names it.
    """

    def crop(image: Image.Image) -> NDArray[np.uint8]:
        with seeded(seed):
            cut = _random_crop(side, min_area).make_params([image])
        box = (cut["left"], cut["top"], cut["left"] + cut["width"], cut["top"] + cut["height"])
        shrink = min(cut["height"], cut["width"]) / side
        width, height = image.size
        if shrink >= 2 and (drafted := image.draft(None, (int(width / shrink), int(height / shrink)))):
            _, (_, _, drafted_width, _) = drafted
            box = tuple(edge * drafted_width / width for edge in box)
        image = _to_rgb(image).resize((side, side), Image.Resampling.BILINEAR, box=box)
        return np.asarray(image, dtype=np.uint8)

    return _read(path, crop, roots)


def check_files(paths: Sequence[Path], *, roots: Roots = ANYWHERE) -> None:
    """Decodes image files and keeps nothing of them.

    Raises:
        DataError: If a file cannot be read as an image; the message names it.
    """
    for _ in _in_threads(lambda path: _check(path, roots), paths):
        pass


def corrupt_files(paths: Sequence[Path], *, roots: Roots = ANYWHERE) -> list[int]:
    """Decodes image files and tells which of them, by place, hold no image or a damaged one.

    Raises:
        DataError: If the system does not deliver a file at all (no permission, a disk or network error): that says
            nothing about the image, and on another day would leave out others.
    """

    def is_corrupt(path: Path) -> bool:
        try:
            _check(path, roots)
        except OutsideRoots:
            raise
        except DataError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno is not None:
                raise
            return True
        return False

    return [place for place, corrupt in enumerate(_in_threads(is_corrupt, paths)) if corrupt]


def array_images(images: NDArray[np.uint8], *, side: int) -> Tensor:
    """Brings uint8 images of shape (n, h, w) or (n, h, w, 3) to a tensor of shape (n, 1 or 3, side, side)."""
    if images.shape[1:3] != (side, side):
        images = np.stack([_fit(Image.fromarray(image), side) for image in images])
    if images.ndim == 3:
        images = images[..., None]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _read(path: Path, use: Callable[[Image.Image], _Value], roots: Roots) -> _Value:
    try:
        with path.open("rb") as file:
            roots.check_open(file, path)
            with Image.open(file) as image:
                return use(image)
    except (MemoryError, OutsideRoots):
        raise
    except Exception as error:  # Pillow's decoders raise whatever a broken file drives them into
        raise DataError(
            f"{path} cannot be read as an image ({error})",
            "Replace or remove the file and run `fixnorm-tune retry JOB --failed`, or set data.skip_corrupt to true "
            "and submit again",
        ) from error


def _check(path: Path, roots: Roots) -> None:
    _read(path, lambda image: image.load() and None, roots)


@lru_cache(maxsize=4)
def _random_crop(side: int, min_area: float) -> Any:
    return transforms().RandomResizedCrop(side, scale=(min_area, 1.0))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion would clip at 255
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns when asked for RGB directly
    return image.convert("RGB")


def _fit(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Resizes the shorter side to ``side`` and crops the centre."""
    width, height = image.size
    if (width, height) != (side, side):
        scale = side / min(width, height)
        width, height = max(side, round(width * scale)), max(side, round(height * scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image, dtype=np.uint8)


def _in_threads(work: Callable[[_Item], _Value], items: Sequence[_Item]) -> Iterable[_Value]:
    """``map``, in order, in chunks that outweigh the cost of handing them to a thread; in as many as torch may use."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(16, torch.get_num_threads()), thread_name_prefix="decode") as pool:
        for results in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            yield from results
