"""The data sets by name, and whether one can be had. No torch, so that a server checks a job in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from fixnorm_core.data.folder import inspect_folder
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec

__all__ = ["DATA_SETS", "DataFacts", "Origin", "check_data", "facts_of"]


class Origin(StrEnum):
    """Where a data set's images come from."""

    BUNDLED = "bundled"
    """A package that is installed anyway ships them."""

    FOLDER = "folder"
    """The user's own folder."""

    DOWNLOAD = "download"
    """Torchvision downloads them on first use."""


@dataclass(frozen=True, slots=True)
class DataFacts:
    """What is known of a data set before it is read.

    Attributes:
        name: As in a job file.
        description: One line for a person.
        origin: Where the images come from.
        flip: Default of ``DataSpec.flip``.
        shift: Default of ``DataSpec.shift``, pixels.
    """

    name: str
    description: str
    origin: Origin
    flip: bool
    shift: int


# A mirrored digit is another digit or none; a garment or an animal stays what it is. Shifts are an eighth of the side,
# as is usual for CIFAR (He et al., arXiv 1512.03385, section 4.2), and none where the side is not known beforehand.
DATA_SETS: Mapping[str, DataFacts] = MappingProxyType(
    {
        facts.name: facts
        for facts in (
            DataFacts("digits", "1,797 handwritten digits, 8x8 grey, 10 classes", Origin.BUNDLED, False, 1),
            DataFacts("imagefolder", "your own images, one folder per class", Origin.FOLDER, True, 0),
            DataFacts("cifar10", "60,000 photographs, 32x32 colour, 10 classes", Origin.DOWNLOAD, True, 4),
            DataFacts("cifar100", "60,000 photographs, 32x32 colour, 100 classes", Origin.DOWNLOAD, True, 4),
            DataFacts("fashion_mnist", "70,000 garments, 28x28 grey, 10 classes", Origin.DOWNLOAD, True, 2),
        )
    }
)


def facts_of(name: str) -> DataFacts:
    """The facts of one data set.

    Raises:
        DataError: If there is none of this name.
    """
    if name not in DATA_SETS:
        near = get_close_matches(name, DATA_SETS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"there is no data set {name!r}",
            f"{hint}The data sets are {', '.join(DATA_SETS)}; for your own images, use imagefolder and its path",
        )
    return DATA_SETS[name]


def check_data(spec: DataSpec, *, root: Path | None = None) -> DataSpec:
    """Checks that a data set exists and looks usable, without decoding an image.

    Args:
        spec: What is asked for.
        root: The folder that relative paths start from and downloaded sets are kept in.

    Returns:
        ``spec`` with an absolute ``path`` (None where the set needs none).

    Raises:
        DataError: For an unknown name, a path that is missing, superfluous or does not exist, a folder that is not
            laid out as an image folder of two classes or more, or streaming of what is not in files.
    """
    origin = facts_of(spec.name).origin
    if origin is not Origin.FOLDER and (spec.storage == "stream" or spec.crop == "random_resized"):
        field, value = ("storage", spec.storage) if spec.storage == "stream" else ("crop", spec.crop)
        raise DataError(
            f"data.{field} is {value}, which reads image files, and data set {spec.name!r} comes as one array",
            f"Leave data.{field} out (data.shift moves such images at random), or unpack them for data set imagefolder",
        )
    if origin is Origin.BUNDLED:
        if spec.path is not None:
            raise DataError(
                f"data set {spec.name!r} comes with the software, but path is {spec.path!r}",
                "Leave path out, or use imagefolder to read the images of that folder",
            )
        return spec
    if spec.path is None and origin is Origin.FOLDER:
        raise DataError(
            f"data set {spec.name!r} needs a path, but none is given",
            "Set data.path to a folder that holds one folder of images per class",
        )
    try:
        path = _absolute(Path(spec.path or spec.name), root=root)
        if origin is Origin.FOLDER:
            inspect_folder(path)
        elif path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file, and {spec.name!r} is kept in a folder", "Set data.path to a folder")
    except (OSError, ValueError, RuntimeError) as error:  # no permission; a NUL or too many characters; no such user
        raise DataError(
            f"the path {(spec.path or spec.name)[:200]!r} cannot be looked at: {error}",
            "Give the path of a folder that the server may read",
        ) from error
    return spec.model_copy(update={"path": str(path)})


def _absolute(path: Path, *, root: Path | None) -> Path:
    path = path.expanduser()
    if path.is_absolute():
        return path.resolve()
    if root is None:
        raise DataError(
            f"data path {str(path)!r} is relative, and no data root is set that it could start from",
            "Give an absolute path, or set FIXNORM_DATA_ROOT where the server runs; in a job file, "
            f"'./{path}' means a folder beside the job file",
        )
    return (root.expanduser() / path).resolve()
