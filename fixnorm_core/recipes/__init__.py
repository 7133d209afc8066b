"""Named jobs, ready to run: the YAML job files of this folder. Knows no torch.

Each file is a job file like any other, so it can be printed, saved and edited. What a person asks of it first stands in
its header, a comment of three entries whose further lines are indented::

    # For: what it trains, and on what.
    # Hardware: what it expects of the machine.
    # Aims at: the published figure, and whose it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Self

from fixnorm_core.changes import Change
from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import read_job
from fixnorm_core.spec import JobSpec

__all__ = ["Recipe", "find_recipe", "list_recipes"]

_SUFFIX = ".yaml"
_ENTRIES = ("For", "Images", "Hardware", "Aims at")
_ENTRY = re.compile(rf"^# ({'|'.join(_ENTRIES)}): (.*(?:\n#   .*)*)", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """One job file of this folder.

    Attributes:
        name: The file's, without its suffix, and the job's.
        about: What it trains, and on what, in one line.
        images: Where they come from.
        hardware: What it expects of the machine.
        aims_at: The published figure, and whose it is; not a result of this project unless it says so.
        text: The whole file.
    """

    name: str
    about: str
    images: str
    hardware: str
    aims_at: str
    text: str

    @classmethod
    def parse(cls, name: str, text: str) -> Self:
        """Takes the header out of the text.

        Raises:
            SpecError: An entry of the header is missing.
        """
        header = {entry: " ".join(said.replace("\n#", " ").split()) for entry, said in _ENTRY.findall(text)}
        if missing := [entry for entry in _ENTRIES if entry not in header]:
            raise SpecError(
                f"the header of recipe {name} has no entry {missing[0]!r}", f"Add a line '# {missing[0]}: ...'"
            )
        about, images, hardware, aims_at = (header[entry].removesuffix(".") for entry in _ENTRIES)
        return cls(name, about=about, images=images, hardware=hardware, aims_at=aims_at, text=text)

    def job(self, *, changes: Sequence[Change] = ()) -> JobSpec:
        """The job it describes.

        Args:
            changes: Made before it is validated; a ``data.path`` that begins with ``./`` or ``../`` starts at the
                working directory.

        Raises:
            SpecError: With its changes it breaks rules.
        """
        return read_job(self.text, origin=f"recipe {self.name}", folder=Path(), changes=changes)


def list_recipes() -> list[Recipe]:
    """All recipes, the quickest to run first."""
    return [_read(name) for name in _ORDER]


def find_recipe(name: str) -> Recipe:
    """One recipe.

    Raises:
        SpecError: If there is none of this name.
    """
    if name not in _ORDER:
        near = get_close_matches(name, _ORDER, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise SpecError(f"there is no recipe {name!r}", f"{hint}The recipes are {', '.join(_ORDER)}")
    return _read(name)


_ORDER = (
    "digits",
    "cifar10-small",
    "cifar10-resnet18",
    "imagenet-resnet50",
    "imagenet-efficientnet-b0",
    "imagenet-mobilenet-v2-scaled",
)


def _read(name: str) -> Recipe:
    return Recipe.parse(name, files(__name__).joinpath(f"{name}{_SUFFIX}").read_text(encoding="utf-8"))
