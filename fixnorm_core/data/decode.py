"""From image files and arrays to one uint8 tensor, in threads (Pillow releases the interpreter lock while it decodes).

Whatever a file holds (grey, palette, alpha, 16 bits) becomes 8-bit RGB; alpha is dropped. EXIF orientation is not
applied, as in torchvision.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fixnorm_core.errors import DataError

__all__ = ["array_images", "check_files", "decode_files", "shared_side"]

MAX_NATIVE_SIDE = 256
"""Images that all have one square size are kept at it up to this; larger ones would not fit in memory by accident."""

DEFAULT_SIDE = 224
"""Pixels a side where images have no common size: what the torchvision models were designed for."""

_CHUNK = 32

_Item = TypeVar("_Item")
_Value = TypeVar("_Value")


def shared_side(paths: Sequence[Path]) -> int:
    """The side to use when none is asked for: that of the images if they are square and alike, else 224.

    Raises:
        DataError: If a file cannot be read as an image.
    """
    first = _read(paths[0], lambda image: image.size)
    if first[0] != first[1] or first[0] > MAX_NATIVE_SIDE:
        return DEFAULT_SIDE
    sizes = _in_threads(lambda path: _read(path, lambda image: image.size), paths)
    return first[0] if all(size == first for size in sizes) else DEFAULT_SIDE


def decode_files(paths: Sequence[Path], *, side: int) -> Tensor:
    """Decodes image files to uint8 of shape (n, 3, side, side).

    Raises:
        DataError: If a file cannot be read as an image; the message names it.
    """
    out = np.empty((len(paths), 3, side, side), dtype=np.uint8)

    def decode(index: int) -> None:
        out[index] = _read(paths[index], lambda image: _fit(_to_rgb(image), side)).transpose(2, 0, 1)

    for _ in _in_threads(decode, range(len(paths))):
        pass
    return torch.from_numpy(out)


def check_files(paths: Sequence[Path]) -> None:
    """Decodes image files and keeps nothing of them.

    Raises:
        DataError: If a file cannot be read as an image; the message names it.
    """
    for _ in _in_threads(lambda path: _read(path, lambda image: image.load() and None), paths):
        pass


def array_images(images: NDArray[np.uint8], *, side: int) -> Tensor:
    """Brings uint8 images of shape (n, h, w) or (n, h, w, 3) to a tensor of shape (n, 1 or 3, side, side)."""
    if images.shape[1:3] != (side, side):
        images = np.stack([_fit(Image.fromarray(image), side) for image in images])
    if images.ndim == 3:
        images = images[..., None]
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _read(path: Path, use: Callable[[Image.Image], _Value]) -> _Value:
    try:
        with Image.open(path) as image:
            return use(image)
    # Pillow's decoders raise whatever a broken file drives them into
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} cannot be read as an image ({error})", "Replace or remove the file, then submit again"
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
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
    """``map``, in order, in chunks that outweigh the cost of handing them to a thread."""
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        for results in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
            yield from results
