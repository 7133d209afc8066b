"""The data sets by name, and whether one can be had. No torch, so that a server checks a job in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType

from fixnorm_core.buckets import is_url
from fixnorm_core.data.folder import inspect_folder
from fixnorm_core.errors import DataError
from fixnorm_core.own import check_own, is_own
from fixnorm_core.reach import LOCAL, OutsideRoots, Reach, Roots
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

    OWN = "own"
    """A factory of the user's own makes them."""


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
    if is_own(name):
        return DataFacts(name, "a data set of one's own", Origin.OWN, False, 0)
    if name not in DATA_SETS:
        near = get_close_matches(name, DATA_SETS, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise DataError(
            f"there is no data set {name!r}",
            f"{hint}The data sets are {', '.join(DATA_SETS)}; for your own images, use imagefolder and its path",
        )
    return DATA_SETS[name]


def check_data(spec: DataSpec, *, root: Path | None = None, reach: Reach = LOCAL) -> DataSpec:
    """Checks that a data set exists and looks usable, without decoding an image.

    Args:
        spec: What is asked for.
        root: The folder that relative paths start from and downloaded sets are kept in.
        reach: What may be read.

    Returns:
        ``spec`` with an absolute ``path`` (None where the set needs none). Of an address only its form and reach are
        checked: what is there, the worker finds out.

    Raises:
        OutsideRoots: For a path out of reach, whether there is anything or not.
        DataError: For an unknown name, a path that is missing, superfluous or does not exist, a folder that is not
            laid out as an image folder of two classes or more, or streaming of what is not in files.
    """
    origin = facts_of(spec.name).origin
    if origin is Origin.OWN:
        return _check_own(spec, root=root, reach=reach)
    if spec.options:
        raise DataError(
            f"data set {spec.name!r} has no options, but data.options are {', '.join(spec.options)}",
            "Leave them out; a factory of your own (package.module:factory) may have some",
        )
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
    if spec.path is not None and is_url(spec.path):
        return _check_address(spec, origin, reach)
    try:
        path = _absolute(spec.path or spec.name, root=root, roots=reach.roots)
        if origin is Origin.FOLDER:
            inspect_folder(path, roots=reach.roots, written=spec.path)
        elif path.exists() and not path.is_dir():
            raise DataError(f"{path} is a file, and {spec.name!r} is kept in a folder", "Set data.path to a folder")
    except OutsideRoots:
        raise
    except (OSError, ValueError, RuntimeError) as error:  # no permission; a NUL or too many characters; no such user
        raise DataError(
            f"the path {(spec.path or spec.name)[:200]!r} cannot be looked at: {error}",
            "Give the path of a folder that the server may read",
        ) from error
    return spec.model_copy(update={"path": str(path)})


def _check_address(spec: DataSpec, origin: Origin, reach: Reach) -> DataSpec:
    assert spec.path is not None
    url = reach.roots.confine(spec.path)
    if origin is Origin.DOWNLOAD:
        raise DataError(
            f"data set {spec.name!r} is kept in a folder, but path is {url}",
            "Give a folder, or unpack the images into one folder per class there and use data set imagefolder",
        )
    return spec.model_copy(update={"path": url})


def _check_own(spec: DataSpec, *, root: Path | None, reach: Reach) -> DataSpec:
    check_own(spec.name, reach=reach, refusal=DataError)
    if "path" in spec.options:
        raise DataError("data.options has a path", "Write it as data.path, where it is looked up and checked")
    if spec.path is None:
        return spec
    if is_url(spec.path):
        return _check_address(spec, Origin.OWN, reach)
    try:
        path = _absolute(spec.path, root=root, roots=reach.roots)
    except RuntimeError as error:  # no such user, links in a circle
        raise DataError(f"the path {spec.path[:200]!r} cannot be looked at: {error}", "Give another path") from error
    return spec.model_copy(update={"path": str(path)})


def _absolute(given: str, *, root: Path | None, roots: Roots) -> Path:
    if roots.folders is not None:  # and nobody's home is looked up
        from_root = given if root is None or given.startswith("~") else root / given
        return Path(roots.confine(from_root, written=given))
    path = Path(given).expanduser()
    if path.is_absolute():
        return path.resolve()
    if root is None:
        raise DataError(
            f"data path {str(path)!r} is relative, and no data root is set that it could start from",
            f"Give an absolute path, or set FIXNORM_DATA_ROOT where the server runs; './{path}' means a folder beside "
            "the job file, on a command line one in the working directory",
        )
    return (root.expanduser() / path).resolve()
