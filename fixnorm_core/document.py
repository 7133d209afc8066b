"""YAML as job files are written in: numbers as people mean them, every key once, refusals with line and column."""

from __future__ import annotations

import re
from typing import Any

import yaml

from fixnorm_core.errors import SpecError

__all__ = ["line_of", "parse_document", "parse_value"]


def parse_document(text: str, *, origin: str) -> tuple[yaml.MappingNode, dict[str, Any]]:
    """Reads a mapping.

    Args:
        text: YAML (so JSON will do as well).
        origin: What refusals call it, for example the file's path.

    Returns:
        The mapping as nodes, which know their lines, and as values.

    Raises:
        SpecError: The text is not YAML, is no mapping, or has a key twice.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            found = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(root), "empty")
            raise SpecError(
                f"{origin}:{_line(root)}: a job file is a mapping of fields; this one is {found}",
                "Start from a line such as 'name: my-job'",
            )
        _refuse_duplicate_keys(root, origin=origin, seen=set())
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        raise SpecError(f"{where}: not valid YAML: {error.problem or error.context}", "Correct that line") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"{origin}:{line}: not valid YAML: {error.reason}", "Remove that character") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{origin}: not a job file: {error}", "`fixnorm-tune recipes digits` prints one") from None


def parse_value(text: str, *, origin: str) -> Any:
    """Reads a single value by the same rules: a number, text, ``[a, b]``, ``{a: b}``, ``null``.

    Raises:
        SpecError: The text is not YAML, or a mapping in it has a key twice.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _refuse_duplicate_keys(root, origin=origin, seen=set())
        return loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        rule = str(error.problem or error.context)
    except yaml.reader.ReaderError as error:
        rule = error.reason
    except (ValueError, RecursionError) as error:
        rule = str(error)
    raise SpecError(f"{origin}: {text!r} is not a YAML value: {rule}", "Put text with signs in it between quotes")


def line_of(root: yaml.MappingNode, field: str) -> int:
    """The line of the deepest part of a dotted path that the document holds."""
    node: yaml.Node = root
    line = _line(root)
    for step in field.split("."):
        if not isinstance(node, yaml.MappingNode):
            break
        found = [(key, value) for key, value in node.value if key.value == step]
        if not found:
            break
        key, node = found[-1]
        line = _line(key)
    return line


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes ``1e-3`` for text; every user means the number (PyYAML issue 173)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _refuse_duplicate_keys(node: yaml.Node, *, origin: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: the same node again, in a cycle even
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, origin=origin, seen=seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    raise SpecError(
                        f"{origin}:{_line(key)}: {key.value!r} is written twice; it stands in line {first[key.value]}",
                        "Keep one of the two",
                    )
                first[key.value] = _line(key)
            _refuse_duplicate_keys(value, origin=origin, seen=seen)


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None else 1
