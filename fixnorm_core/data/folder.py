"""The layout of an image folder: which folders are classes, which are splits, which files are images. No torch.

Two layouts are read: ``root/<class>/...`` and ``root/train/<class>/...`` with optional ``val`` (or ``valid``,
``validation``) and ``test`` beside ``train``. Images may lie in sub-folders of their class. Everything is in sorted
order, whatever the file system says. Names that start with a dot are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fixnorm_core.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "FolderLayout", "inspect_folder", "list_images"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Hidden folders, and what macOS leaves in archives
_NOT_CLASSES = (".", "__MACOSX")
_LAYOUT = "Expected <folder>/<class>/<image> or <folder>/train/<class>/<image>"


@dataclass(frozen=True, slots=True)
class FolderLayout:
    """Where the splits of an image folder lie.

    Attributes:
        train: Holds one folder per class; the root itself in the flat layout.
        validation: Likewise; None where the folder ships no validation split.
        test: Likewise.
        classes: Names of the class folders of ``train``, sorted; a label is an index into them.
    """

    train: Path
    validation: Path | None
    test: Path | None
    classes: tuple[str, ...]


def inspect_folder(root: Path) -> FolderLayout:
    """Finds splits and classes; reads names only, and per class no further than its first image.

    Raises:
        DataError: If ``root`` does not exist or is not an image folder of two classes or more, a class holds no image,
            or a split has a class that the training split lacks.
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise DataError(
            f"the data folder {root} {what}",
            "Give the absolute path of a folder that is there, or a path that starts from FIXNORM_DATA_ROOT; in a job "
            f"file, './{root.name}' means a folder beside the job file",
        )
    train = root / "train"
    if not (train.is_dir() and _folders(train)):  # a folder named train that holds images is a class of that name
        return FolderLayout(root, None, None, _classes(root))
    layout = FolderLayout(train, _validation(root), _optional(root / "test"), _classes(train))
    for split in filter(None, (layout.validation, layout.test)):
        _require_known_classes(split, layout)
    return layout


def list_images(split: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """All images of a split with their labels, by class and then by name; a class without a folder here has none."""
    return [(path, label) for label, name in enumerate(classes) for path in sorted(_images(split / name))]


def _classes(train: Path) -> tuple[str, ...]:
    classes = _folders(train)
    if not classes:
        raise DataError(f"{train} holds no class folders", f"{_LAYOUT}, one folder per class")
    if empty := [name for name in classes if next(_images(train / name), None) is None]:
        raise DataError(
            f"{train} holds no images of class {empty[0]!r}" if len(empty) < len(classes) else f"no images in {train}",
            f"{_LAYOUT}, with images in every class folder ({', '.join(sorted(IMAGE_SUFFIXES))})",
        )
    if len(classes) == 1:
        raise DataError(
            f"{train} holds a single class, {classes[0]!r}, and a classifier needs two or more",
            f"{_LAYOUT}; if {classes[0]!r} holds the class folders, give that folder as the path",
        )
    return classes


def _validation(root: Path) -> Path | None:
    found = [path for name in ("val", "valid", "validation") if (path := root / name).is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{root} has {len(found)} validation folders: {', '.join(path.name for path in found)}", "Keep one of them"
        )
    return found[0] if found else None


def _optional(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _require_known_classes(split: Path, layout: FolderLayout) -> None:
    names = _folders(split)
    if not names:
        raise DataError(
            f"{split} holds no class folders, so its images have no labels",
            "Sort them into one folder per class, or move the folder away",
        )
    if foreign := [name for name in names if name not in layout.classes]:
        raise DataError(
            f"{split} has a class {foreign[0]!r} that {layout.train} lacks",
            "Rename or remove that folder, or add training images of that class",
        )


def _folders(path: Path) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return tuple(sorted(name for name in names if not name.startswith(_NOT_CLASSES)))


def _images(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):  # noqa: PTH122
                yield Path(parent, name)
