"""Job files: a :class:`fixnorm_core.spec.JobSpec` written in YAML, refused with file and line when it breaks a rule."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fixnorm_core.errors import SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import JobSpec

__all__ = ["load_job_file"]


def load_job_file(path: Path) -> JobSpec:
    """Reads and validates a job file.

    A ``data.path`` that begins with ``./`` or ``../`` is relative to the job file's folder and becomes absolute; any
    other relative path is left as it is, for the server to find under its data root.

    Args:
        path: A YAML file (so JSON will do as well).

    Returns:
        The job it describes.

    Raises:
        SpecError: The file cannot be read, is not YAML, or breaks rules; it lists every broken one with its line.
    """
    text = _read(path)
    root, document = _parse(text, path=path)
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        lines = [
            f"{path}:{_line_of(root, broken.field)}: {broken.field}: {broken.rule}"
            if broken.field
            else f"{path}:{_line_of(root, '')}: {broken.rule}"
            for broken in explain(error)
        ]
        raise SpecError("\n".join(lines), f"Correct {path} and submit it again") from error
    return _with_absolute_data(spec, folder=path.parent)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes ``1e-3`` for text; every user means the number (PyYAML issue 173)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"there is no file {path}", "Give the path of a job file (YAML)") from None
    except UnicodeDecodeError as error:
        raise SpecError(
            f"{path} is not text: byte {error.start} is not valid UTF-8", "Save the job file as UTF-8"
        ) from None
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}", "Give the path of a job file (YAML)") from None


def _parse(text: str, *, path: Path) -> tuple[yaml.MappingNode, dict[str, Any]]:
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            found = {yaml.SequenceNode: "a list", yaml.ScalarNode: "a single value"}.get(type(root), "empty")
            raise SpecError(
                f"{path}:{_line(root)}: a job file is a mapping of fields; this one is {found}",
                "Start from a line such as 'name: my-job'",
            )
        _refuse_duplicate_keys(root, path=path, seen=set())
        return root, loader.construct_document(root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise SpecError(f"{where}: not valid YAML: {error.problem or error.context}", "Correct that line") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise SpecError(f"{path}:{line}: not valid YAML: {error.reason}", "Remove that character") from None
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{path}: not a job file: {error}", "See examples/digits.yaml for one") from None


def _refuse_duplicate_keys(node: yaml.Node, *, path: Path, seen: set[int]) -> None:
    if id(node) in seen:  # an alias: the same node again, in a cycle even
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicate_keys(item, path=path, seen=seen)
    if isinstance(node, yaml.MappingNode):
        first: dict[str, int] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in first:
                    raise SpecError(
                        f"{path}:{_line(key)}: {key.value!r} is written twice; it stands in line {first[key.value]}",
                        "Keep one of the two",
                    )
                first[key.value] = _line(key)
            _refuse_duplicate_keys(value, path=path, seen=seen)


def _line_of(root: yaml.MappingNode, field: str) -> int:
    """The line of the deepest part of a dotted path that the file holds."""
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


def _line(node: yaml.Node | None) -> int:
    return node.start_mark.line + 1 if node is not None else 1


def _with_absolute_data(spec: JobSpec, *, folder: Path) -> JobSpec:
    given = spec.data.path
    if given is None or not given.startswith(("./", "../")):
        return spec
    absolute = str((folder / given).resolve())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": absolute})})
