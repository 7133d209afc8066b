"""The API's OpenAPI document as something to read: operations and the documents that they take and give."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Document", "Field", "Operation", "Reference", "read_openapi"]

_METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a document, or one parameter.

    Attributes:
        type: In words; :attr:`names` are the documents that it names.
        place: Of a parameter: ``path``, ``query`` or ``header``; empty for a field.
        default: As JSON has it; empty where there is none or it is null.
    """

    name: str
    type: str
    names: tuple[str, ...]
    required: bool
    about: str
    place: str = ""
    default: str = ""


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing to ask.

    Attributes:
        anchor: Unique among all.
        takes: Names of documents that the request's body may be.
        gives: By status: what the answer is, and names of documents.
    """

    anchor: str
    method: str
    path: str
    tag: str
    about: str
    parameters: tuple[Field, ...]
    takes: tuple[str, ...]
    gives: tuple[tuple[str, str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON document; ``values`` are those of an enumeration, which has no fields."""

    name: str
    about: str
    fields: tuple[Field, ...]
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """The whole API."""

    title: str
    version: str
    about: str
    operations: tuple[Operation, ...]
    documents: tuple[Document, ...]

    @property
    def by_tag(self) -> Mapping[str, tuple[Operation, ...]]:
        """Operations in the order of the document, under their tags."""
        tags = dict.fromkeys(operation.tag for operation in self.operations)
        return {tag: tuple(one for one in self.operations if one.tag == tag) for tag in tags}


def read_openapi(document: Mapping[str, Any]) -> Reference:
    """What an OpenAPI 3.1 document says.

    Args:
        document: As ``/openapi.json`` gives it.
    """
    schemas = document.get("components", {}).get("schemas", {})
    return Reference(
        title=document["info"]["title"],
        version=document["info"]["version"],
        about=document["info"].get("description", "").strip(),
        operations=tuple(_operations(document["paths"])),
        documents=tuple(_document(name, schemas[name]) for name in sorted(schemas)),
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[Operation]:
    for path, methods in paths.items():
        for method in _METHODS:
            if method not in methods:
                continue
            told = methods[method]
            body = told.get("requestBody", {}).get("content", {})
            answers = ((status, answer) for status, answer in sorted(told["responses"].items()))
            yield Operation(
                anchor=re.sub(r"\W+", "-", f"{method}{path}").strip("-"),
                method=method.upper(),
                path=path,
                tag=told.get("tags", ["other"])[0],
                about=_tidy(told.get("description", told.get("summary", ""))),
                parameters=tuple(_parameter(one) for one in told.get("parameters", ())),
                takes=_names(body),
                gives=tuple((status, answer.get("description", ""), _names(answer)) for status, answer in answers),
            )


def _parameter(told: Mapping[str, Any]) -> Field:
    schema = told.get("schema", {})
    return Field(
        name=told["name"],
        type=_type_of(schema),
        names=_names(schema),
        required=told.get("required", False),
        about=_tidy(told.get("description", "")),
        place=told["in"],
        default=_default(schema),
    )


def _document(name: str, schema: Mapping[str, Any]) -> Document:
    about, of_fields = _split(schema.get("description", ""))
    required = schema.get("required", ())
    fields = tuple(
        Field(
            name=field,
            type=_type_of(told),
            names=_names(told),
            required=field in required,
            about=_tidy(told.get("description", of_fields.get(field, ""))),
            default=_default(told),
        )
        for field, told in schema.get("properties", {}).items()
    )
    return Document(name, _tidy(about), fields, tuple(str(value) for value in schema.get("enum", ())))


def _type_of(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return " or ".join(dict.fromkeys(_type_of(one) for one in schema[choice]))
    if "enum" in schema:
        return " or ".join(f'"{value}"' for value in schema["enum"])
    if "const" in schema:
        return f'"{schema["const"]}"'
    kind = schema.get("type", "any")
    if kind == "array":
        parts = schema.get("prefixItems")
        return f"[{', '.join(map(_type_of, parts))}]" if parts else f"list of {_type_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {_type_of(schema['additionalProperties'])}"
    return str(schema.get("format", kind))


def _names(told: Any) -> tuple[str, ...]:
    """The documents that are named anywhere in it, each once."""
    found: dict[str, None] = {}

    def look(part: Any) -> None:
        if isinstance(part, Mapping):
            if isinstance(reference := part.get("$ref"), str):
                found[reference.rpartition("/")[2]] = None
            for inner in part.values():
                look(inner)
        elif isinstance(part, list):
            for inner in part:
                look(inner)

    look(told)
    return tuple(found)


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None else json.dumps(value)


def _split(description: str) -> tuple[str, Mapping[str, str]]:
    """A docstring's text, and what its section on attributes says of each."""
    text, _, section = description.partition("\nAttributes:\n")
    of_fields: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if found := re.match(r" {4}(\w+): (.*)", line):
            name, of_fields[found[1]] = found[1], found[2]
        elif name and line.startswith("     "):
            of_fields[name] += f" {line.strip()}"
    return text, of_fields


def _tidy(text: str) -> str:
    """A docstring's roles and literals as Markdown has them."""
    return re.sub(r"``(.+?)``", r"`\1`", re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text)).strip()
