"""The layout of an image folder: which folders are classes, which are splits, which files are images. No torch.

Two layouts are read: ``root/<class>/...`` and ``root/train/<class>/...`` with optional ``val`` (or ``valid``,
``validation``) and ``test`` beside ``train``. Images may lie in sub-folders of their class. Everything is in sorted
order, whatever the file system says. Names that start with a dot are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fixnorm_core.errors import DataError, MissingDataError
from fixnorm_core.reach import ANYWHERE, Roots

__all__ = ["IMAGE_SUFFIXES", "FolderLayout", "count_images", "inspect_folder", "list_images"]

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


def inspect_folder(root: Path, *, roots: Roots = ANYWHERE, written: str | None = None) -> FolderLayout:
    """Finds splits and classes; reads names only, and per class no further than its first image.

    Args:
        root: The image folder.
        roots: Where it and whatever links in it lead to must be.
        written: The path as the user gave it, where ``root`` was made of that.

    Raises:
        OutsideRoots: If it is elsewhere, or a link in it leads elsewhere.
        MissingDataError: If ``root`` does not exist.
        DataError: If it is not an image folder of two classes or more, a class holds no image,
            or a split has a class that the training split lacks.
    """
    root = Path(roots.confine(root))
    if not root.is_dir():
        way_out = "Give the absolute path of a folder that is there, or a path that starts from FIXNORM_DATA_ROOT"
        if written is not None and not written.startswith(("/", "~")):
            way_out += f"; './{written}' means one beside the job file, on a command line one in the working directory"
        if root.exists():
            raise DataError(f"the data folder {root} is a file", way_out)
        raise MissingDataError(f"the data folder {root} does not exist", way_out)
    train = Path(roots.confine(root / "train"))
    if not (
        train.is_dir() and _folders(train, roots)
    ):  # a folder named train that holds images is a class of that name
        return FolderLayout(root, None, None, _classes(root, roots))
    test = _optional(Path(roots.confine(root / "test")))
    layout = FolderLayout(train, _validation(root, roots), test, _classes(train, roots))
    for split in filter(None, (layout.validation, layout.test)):
        _require_known_classes(split, layout, roots)
    return layout


def list_images(split: Path, classes: Sequence[str], *, roots: Roots = ANYWHERE) -> list[tuple[Path, int]]:
    """All images of a split with their labels, by class and then by name; a class without a folder here has none.

    Raises:
        OutsideRoots: If a link leads out of ``roots``.
    """
    return [(path, label) for label, name in enumerate(classes) for _, path in sorted(_images(split / name, roots))]


def count_images(split: Path, classes: Sequence[str], *, most: int, roots: Roots = ANYWHERE) -> tuple[int, ...] | None:
    """The images of each class of a split; None, after so many, if there are more than ``most``.

    Raises:
        OutsideRoots: If a link leads out of ``roots``.
    """
    counts: list[int] = []
    for name in classes:
        room = most - sum(counts)
        counts.append(sum(1 for _ in islice(_images(split / name, roots), room + 1)))
        if counts[-1] > room:
            return None
    return tuple(counts)


def _classes(train: Path, roots: Roots) -> tuple[str, ...]:
    classes = _folders(train, roots)
    if not classes:
        raise DataError(f"{train} holds no class folders", f"{_LAYOUT}, one folder per class")
    if empty := [name for name in classes if next(_images(train / name, roots), None) is None]:
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


def _validation(root: Path, roots: Roots) -> Path | None:
    places = [Path(roots.confine(root / name)) for name in ("val", "valid", "validation")]
    found = [path for path in places if path.is_dir()]
    if len(found) > 1:
        raise DataError(
            f"{root} has {len(found)} validation folders: {', '.join(path.name for path in found)}", "Keep one of them"
        )
    return found[0] if found else None


def _optional(path: Path) -> Path | None:
    return path if path.is_dir() else None


def _require_known_classes(split: Path, layout: FolderLayout, roots: Roots) -> None:
    names = _folders(split, roots)
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


def _folders(path: Path, roots: Roots) -> tuple[str, ...]:
    entries = _entries(path, roots)
    return tuple(sorted(entry.name for entry in entries if entry.is_dir and not entry.name.startswith(_NOT_CLASSES)))


def _images(folder: Path, roots: Roots) -> Iterator[tuple[Path, Path]]:
    """Images by the name that they go by, which decides their order, and by where that leads."""
    start = roots.confine(folder)
    pending: list[tuple[Path, str, tuple[str, ...]]] = [(folder, start, (os.path.realpath(start),))]
    while pending:
        named, place, above = pending.pop()
        try:
            entries = _entries(place, roots)
        except OSError:  # a class that this split has no folder of, or one that may not be read
            continue
        for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
            if entry.is_dir:
                real = os.path.realpath(entry.place) if entry.is_link else f"{above[-1]}/{entry.name}"
                if entry.is_link and any(f"{passed}/".startswith(f"{real.rstrip('/')}/") for passed in above):
                    raise DataError(f"{named / entry.name} leads back to a folder that holds it", "Remove that link")
                pending.append((named / entry.name, entry.place, (*above, real)))
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.is_dir:  # noqa: PTH122
                yield named / entry.name, Path(entry.place)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What is in a folder: its name there, and where it lies, which for a link is where that leads."""

    name: str
    place: str
    is_dir: bool
    is_link: bool


def _entries(folder: str | Path, roots: Roots) -> list[_Entry]:
    """What is in a folder and not hidden. A link must stay in the roots even where nothing would be read by it."""
    entries = []
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                place = roots.confine(entry.path)
                entries.append(_Entry(entry.name, place, Path(place).is_dir(), True))
            else:
                entries.append(_Entry(entry.name, entry.path, entry.is_dir(), False))
    return entries
