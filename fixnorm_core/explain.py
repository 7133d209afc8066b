"""Pydantic's validation errors in this project's words: which field, which rule, which value.

Pydantic names a union's branch as if it were a field, repeats an error for each branch, and says "Extra inputs are not
permitted" where a person has mistyped a name. :func:`explain` undoes all three.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fixnorm_core.spec import JobSpec

__all__ = ["BrokenRule", "explain"]


class BrokenRule(NamedTuple):
    """One broken rule of a document.

    Attributes:
        field: A dotted path such as ``search.space.lr``; empty for the document itself.
        rule: What the value should be, for a person; it names the value.
        value: What was given.
    """

    field: str
    rule: str
    value: Any


def explain(error: ValidationError, *, model: type[BaseModel] = JobSpec) -> list[BrokenRule]:
    """Every rule that a document breaks, one entry for each field.

    Args:
        error: What validating the document raised.
        model: The model it was validated against.

    Returns:
        The broken rules in the order in which pydantic found them; never empty.
    """
    rules: dict[str, list[str]] = {}
    values: dict[str, Any] = {}
    for details in error.errors(include_url=False):
        path, owner = _split(details["loc"], model)
        if details["type"] == "string_type" and owner is str and isinstance(details["input"], Mapping):
            continue  # of "a text or a group of fields" a group was meant, and that branch has its own errors
        field = ".".join(path)
        rule = _rule(details, name=path[-1] if path else "", owner=owner)
        if rule not in rules.setdefault(field, []):
            rules[field].append(rule)
        values[field] = details["input"]
    return [BrokenRule(field, _joined(rules[field], value), value) for field, value in values.items()]


_WANTED = "it should be "


def _rule(details: ErrorDetails, *, name: str, owner: Any) -> str:
    kind, message = details["type"], details["msg"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"unknown field {name!r}; {_suggestion(name, owner)}"
    if kind == "missing":
        return f"{name!r} is missing: add it"
    if kind == "model_type":
        return f"{_WANTED}a group of fields: {', '.join(_fields(owner))}"
    wanted = message.removeprefix("Input should be ")
    return message if wanted == message else _WANTED + wanted


def _joined(rules: list[str], value: Any) -> str:
    """Rules of pydantic's own say what is wanted only, so the value goes first; ours name it already."""
    wanted = [rule.removeprefix(_WANTED) for rule in rules if rule.startswith(_WANTED)]
    others = [rule for rule in rules if not rule.startswith(_WANTED)]
    if wanted:
        others.insert(0, f"{_short(value)} does not fit; {_WANTED}{' or '.join(wanted)}")
    return "; ".join(others)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggestion(name: str, owner: Any) -> str:
    known = _fields(owner)
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    return f"the fields here are {', '.join(known)}" if known else "remove it"


def _split(loc: tuple[int | str, ...], model: type[BaseModel]) -> tuple[list[str], Any]:
    """The part of pydantic's location that is in the document, and the type that rules its last step.

    For an unknown field that is the model it was written in; where the types end, what follows names union branches.
    """
    path: list[str] = []
    current: Any = model
    for step in loc:
        inner = _step_into(current, str(step))
        if inner is None and (branch := _branch(current, str(step))) is not None:
            current = branch
            continue
        if inner is None:
            if any(_is_model(option) for option in _options(current)):
                path.append(str(step))
            break
        path.append(str(step))
        current = inner
    return path, current


def _step_into(annotation: Any, step: str) -> Any:
    for option in _options(annotation):
        if _is_model(option) and step in option.model_fields:
            return option.model_fields[step].annotation
        if get_origin(option) is dict:
            return get_args(option)[1]
        if get_origin(option) is tuple and step.isdecimal():
            return get_args(option)[0]
    return None


def _branch(annotation: Any, name: str) -> Any:
    """The branch of this name of a union that has a model among them; of others all branches are read alike.

    Pydantic calls a model that has a validator of its own ``function-after[name_of_it(), Model]``.
    """
    options = list(_options(annotation))
    named = [
        option for option in options if name.removesuffix("]").split(", ")[-1] == getattr(option, "__name__", None)
    ]
    return named[0] if named and len(options) > 1 and any(map(_is_model, options)) else None


def _fields(annotation: Any) -> list[str]:
    return [name for option in _options(annotation) if _is_model(option) for name in option.model_fields]


def _options(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) in (Union, UnionType):
        for option in get_args(annotation):
            yield from _options(option)
    else:
        yield annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
