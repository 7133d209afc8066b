"""Changes of a job file from outside it: ``key.path=value``, as in ``training.epochs=20``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from fixnorm_core.document import parse_value
from fixnorm_core.errors import SpecError

__all__ = ["Change"]


@dataclass(frozen=True, slots=True)
class Change:
    """One field and its new value.

    Attributes:
        written: As it was given; refusals repeat it.
        keys: The way to the field, from the document's root.
        value: A plain value, ``None`` for none.
    """

    written: str
    keys: tuple[str, ...]
    value: Any

    @classmethod
    def parse(cls, written: str) -> Self:
        """Reads ``key.path=value``; the value is YAML, so ``null``, ``[1, 2]`` and ``{name: step}`` will do.

        Raises:
            SpecError: There is no ``=``, a key is empty, or the value is not YAML.
        """
        path, equals, value = written.partition("=")
        keys = tuple(key.strip() for key in path.split("."))
        if not equals:
            raise SpecError(f"{written!r} has no '='", "Write key.path=value, as in training.epochs=20")
        if not all(keys):
            raise SpecError(
                f"{written!r} has an empty key in {path!r}", "Write the way to the field, as in training.epochs=20"
            )
        return cls(written, keys, parse_value(value, origin=written))

    def apply(self, document: dict[str, Any]) -> None:
        """Puts the value into ``document``, making the groups on the way that are missing or null.

        Raises:
            SpecError: Something on the way is no group of fields.
        """
        group = document
        for depth, key in enumerate(self.keys[:-1], start=1):
            inner = group.get(key)
            if inner is None:
                inner = group[key] = {}
            if not isinstance(inner, dict):
                field = ".".join(self.keys[:depth])
                raise SpecError(
                    f"{self.written}: {field} is {inner!r} and not a group of fields, so nothing in it can be set",
                    f"Set the whole of it: {field}=...",
                )
            group = inner
        group[self.keys[-1]] = self.value

    def reaches(self, field: str) -> bool:
        """Whether it sets the dotted path ``field``, something around it, or something within it."""
        steps = tuple(field.split(".")) if field else ()
        shared = min(len(steps), len(self.keys))
        return bool(steps) and steps[:shared] == self.keys[:shared]
