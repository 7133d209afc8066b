"""Which build's words a slot speaks: a server that was upgraded meets slots that its predecessor started.

Both sides exchange pickled values, which another build would read wrong, or not at all. So the calls of a slot and
every type in them make a digest: builds that have the same understand each other. It counts fields and not what they
mean: whoever changes that counts up the number.
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from enum import Enum
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel

__all__ = ["OtherBuild", "digest_of", "protocol_of", "require_same"]

_MEANING = 1


class OtherBuild(Exception):
    """A process runs another build than its caller, and would read a task wrong."""


def require_same(told: str | None, own: str) -> None:
    """Makes sure that a caller speaks the words of this process.

    Args:
        told: The caller's; None for one that is of this build.
        own: Of this process.

    Raises:
        OtherBuild: If they are others.
    """
    if told not in (None, own):
        raise OtherBuild(
            f"the software on the node is another build ({version('fixnorm-tune')} there) than the server's; "
            "install the server's release there and start the node's Ray again"
        )


@cache
def protocol_of(actor: type) -> str:
    """What the public methods of a class say, in one word."""
    return f"{_MEANING}-{digest_of(actor)}"


def digest_of(actor: type) -> str:
    """Of the names and types in the public methods of a class, and of the fields of those types, and so on."""
    shapes: dict[str, Any] = {}
    methods = [
        f"{name}{_signature(method, shapes)}"
        for name, method in sorted(vars(actor).items())
        if inspect.isfunction(method) and not name.startswith("_")
    ]
    return sha256(repr((methods, sorted(shapes.items()))).encode()).hexdigest()[:16]


def _signature(method: Any, shapes: dict[str, Any]) -> list[str]:
    return [f"{name}: {_name(kind, shapes)}" for name, kind in typing.get_type_hints(method).items()]


def _name(kind: Any, shapes: dict[str, Any]) -> str:
    """What to call a type; notes the fields of those that it is made of."""
    if arguments := typing.get_args(kind):
        if typing.get_origin(kind) is typing.Literal:
            return repr(arguments)
        if typing.get_origin(kind) is typing.Annotated:
            return _name(arguments[0], shapes)
        return f"{_name(typing.get_origin(kind), shapes)}[{', '.join(_name(each, shapes) for each in arguments)}]"
    if not isinstance(kind, type):  # Any, ..., a type variable
        return str(kind)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name not in shapes:
        shapes[name] = ()  # a type may have itself in a field
        if issubclass(kind, BaseModel):
            fields = {field: info.annotation for field, info in kind.model_fields.items()}
            shapes[name] = [f"{field}: {_name(each, shapes)}" for field, each in fields.items()]
        elif dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            shapes[name] = [f"{each.name}: {_name(hints[each.name], shapes)}" for each in dataclasses.fields(kind)]
        elif issubclass(kind, Enum):
            shapes[name] = [each.name for each in kind]
    return name
