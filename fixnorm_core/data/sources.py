"""The data sets as they are shipped: scikit-learn's digits, image folders, torchvision's downloads."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fixnorm_core.data.catalog import Origin, check_data, facts_of
from fixnorm_core.data.decode import array_images, check_files, corrupt_files, decode_files, shared_side
from fixnorm_core.data.folder import inspect_folder, list_images
from fixnorm_core.data.own import OwnArrays, OwnFiles, make_own
from fixnorm_core.data.splits import Indices, Part, Place, Shipped
from fixnorm_core.errors import DataError
from fixnorm_core.reach import Reach, Roots
from fixnorm_core.spec import DataSpec

__all__ = ["Source", "open_source"]


class Source(Shipped, Protocol):
    """A shipped data set that can be read, some images at a time."""

    @property
    def channels(self) -> int:
        """1 or 3."""

    def side(self, places: Sequence[Place]) -> int:
        """Pixels a side of these images where no size is asked for."""

    def read(self, place: Place, *, side: int) -> Tensor:
        """Images as uint8 of shape (n, channels, side, side), in the order of the indices.

        Raises:
            DataError: If one cannot be read.
        """

    def files(self, place: Place) -> list[Path]:
        """The images' files, in the order of the indices; none where they are in memory anyway."""

    def check(self, place: Place) -> None:
        """Makes sure that these images can be read, and forgets them.

        Raises:
            DataError: If one cannot be read.
        """

    def corrupt(self, place: Place) -> list[int]:
        """Which of the indices, by their place among them, are of damaged images; reads them all.

        Raises:
            DataError: If a file is not delivered at all.
        """


def open_source(spec: DataSpec, *, reach: Reach) -> Source:
    """Opens the data set of ``spec``; downloads it where that is how it comes and it is not there yet.

    Raises:
        DataError: If it cannot be had.
        OutsideRoots: If it, or something in it, is out of reach.
    """
    spec = check_data(spec, reach=reach)
    origin = facts_of(spec.name).origin
    if origin is Origin.OWN:
        return _own(spec, reach)
    if origin is Origin.BUNDLED or spec.path is None:
        return _digits()
    if origin is Origin.FOLDER:
        return _folder(Path(spec.path), reach.roots)
    return _torchvision(spec.name, Path(spec.path), reach.roots)


@dataclass(frozen=True, slots=True)
class _Arrays:
    """Images that are in memory as a whole: uint8, shape (n, h, w) or (n, h, w, 3), and int64 labels by part."""

    classes: tuple[str, ...]
    parts: Mapping[Part, tuple[NDArray[np.uint8], Indices]]

    @property
    def channels(self) -> int:
        return 3 if self.parts[Part.TRAIN][0].ndim == 4 else 1

    def labels(self, part: Part) -> Indices | None:
        return self.parts[part][1] if part in self.parts else None

    def side(self, places: Sequence[Place]) -> int:
        return int(self.parts[places[0][0]][0].shape[1])

    def read(self, place: Place, *, side: int) -> Tensor:
        part, indices = place
        return array_images(self.parts[part][0][indices], side=side)

    def files(self, place: Place) -> list[Path]:  # noqa: ARG002
        """They are in memory."""
        return []

    def check(self, place: Place) -> None:
        """They are in memory."""

    def corrupt(self, place: Place) -> list[int]:  # noqa: ARG002
        """They are in memory."""
        return []


@dataclass(frozen=True, slots=True)
class _Files:
    """Images that are decoded when they are read, always as RGB."""

    classes: tuple[str, ...]
    parts: Mapping[Part, tuple[Sequence[Path], Indices]]
    roots: Roots

    @property
    def channels(self) -> int:
        return 3

    def labels(self, part: Part) -> Indices | None:
        return self.parts[part][1] if part in self.parts else None

    def side(self, places: Sequence[Place]) -> int:
        return shared_side([path for place in places for path in self.files(place)], roots=self.roots)

    def read(self, place: Place, *, side: int) -> Tensor:
        return decode_files(self.files(place), side=side, roots=self.roots)

    def files(self, place: Place) -> list[Path]:
        part, indices = place
        paths = self.parts[part][0]
        return [paths[index] for index in indices]

    def check(self, place: Place) -> None:
        check_files(self.files(place), roots=self.roots)

    def corrupt(self, place: Place) -> list[int]:
        return corrupt_files(self.files(place), roots=self.roots)


def _digits() -> _Arrays:
    table = _digits_table()
    images = np.rint(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)  # shipped as 0..16
    parts = {Part.TRAIN: (images, table[:, -1].astype(np.int64))}
    return _Arrays(tuple(str(digit) for digit in range(10)), parts)


def _digits_table() -> NDArray[np.float64]:
    """Scikit-learn's table of digits, (1797, 65): 64 pixels from 0 to 16 and the class.

    Its file is read where it lies: all of scikit-learn, which its own function imports first, takes as long as torch.
    """
    package = find_spec("sklearn")
    assert package is not None  # a dependency of ours
    for folder in package.submodule_search_locations or ():
        file = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # another version, which keeps it elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _own(spec: DataSpec, reach: Reach) -> Source:
    classes, parts = make_own(spec, reach=reach)
    if isinstance(parts[Part.TRAIN][0], list):
        return _Files(classes, cast("Mapping[Part, OwnFiles]", parts), reach.roots)
    if spec.storage == "stream" or spec.crop == "random_resized":
        raise DataError(
            f"data set {spec.name!r} is in memory, and storage: stream and crop: random_resized read image files",
            "Leave them out (data.shift moves such images at random), or have the factory return files",
        )
    arrays = cast("Mapping[Part, OwnArrays]", parts)
    if len({images.shape[1:] for images, _ in arrays.values()}) > 1:
        raise DataError(f"data set {spec.name!r} has parts of different shapes", "Bring them all to one")
    return _Arrays(classes, arrays)


def _folder(root: Path, roots: Roots) -> _Files:
    layout = inspect_folder(root, roots=roots)
    splits = {Part.TRAIN: layout.train, Part.VALIDATION: layout.validation, Part.TEST: layout.test}
    parts = {}
    for part, split in splits.items():
        if split is not None:
            images = list_images(split, layout.classes, roots=roots)
            labels = np.array([label for _, label in images], dtype=np.int64)
            parts[part] = ([path for path, _ in images], labels)
    return _Files(layout.classes, parts, roots)


def _torchvision(name: str, path: Path, roots: Roots) -> _Arrays:
    from fixnorm_core.vision import torchvision

    sets = torchvision.datasets
    kind = {"cifar10": sets.CIFAR10, "cifar100": sets.CIFAR100, "fashion_mnist": sets.FashionMNIST}[name]
    try:
        return _loaded(kind, path, roots)
    except RuntimeError:  # torchvision's way to say that files are missing or damaged
        pass
    try:
        _download(kind, path)
        return _loaded(kind, path, roots)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a bad checksum is a RuntimeError
        reason = " ".join(str(error).split())
        raise DataError(
            f"the images in {path} are missing or damaged, and cannot be downloaded ({reason})",
            "Put torchvision's files for this set there (and remove damaged ones), or unpack the images into one "
            "folder per class and use data set imagefolder",
        ) from error


def _loaded(kind: Any, path: Path, roots: Roots) -> _Arrays:
    """Loads copies that nobody else may write to: torchvision opens a file again to unpickle it after its check."""
    with tempfile.TemporaryDirectory(prefix="fixnorm-data-") as private:
        for name in _shipped_files(kind):
            _copy(path / name, Path(private, name), roots)
        train, test = kind(root=private, train=True), kind(root=private, train=False)
    parts = {
        part: (np.asarray(images.data), np.asarray(images.targets, dtype=np.int64))
        for part, images in ((Part.TRAIN, train), (Part.TEST, test))
    }
    return _Arrays(tuple(train.classes), parts)


def _shipped_files(kind: Any) -> list[str]:
    """What torchvision reads of a set that is there, below the set's folder."""
    if hasattr(kind, "base_folder"):  # CIFAR
        names = [name for name, _ in (*kind.train_list, *kind.test_list)]
        return [f"{kind.base_folder}/{name}" for name in (*names, kind.meta["filename"])]
    return [f"{kind.__name__}/raw/{Path(archive).stem}" for archive, _ in kind.resources]


def _copy(path: Path, target: Path, roots: Roots) -> None:
    """Copies a file if it is there."""
    place = Path(roots.confine(path))
    if place.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with place.open("rb") as source, target.open("xb") as copy:
            roots.check_open(source, place)
            shutil.copyfileobj(source, copy)


def _download(kind: Any, path: Path) -> None:
    """Downloads where nobody else may write, and moves whole folders in, so that two workers cannot mix their files."""
    path.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="fixnorm-data-") as private,
        tempfile.TemporaryDirectory(dir=path, prefix=".download-") as scratch,
    ):
        kind(root=private, download=True)
        for folder in Path(private).iterdir():
            if folder.is_dir() and not (path / folder.name).exists():
                shutil.copytree(folder, Path(scratch, folder.name)).rename(path / folder.name)
