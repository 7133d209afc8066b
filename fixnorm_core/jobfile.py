"""Job files: a :class:`fixnorm_core.spec.JobSpec` written in YAML, refused with file and line when it breaks a rule."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fixnorm_core.changes import Change
from fixnorm_core.document import line_of, parse_document
from fixnorm_core.errors import SpecError
from fixnorm_core.explain import explain
from fixnorm_core.spec import JobSpec
from fixnorm_core.summaries import read_warm_start

__all__ = ["load_job_file", "make_job", "read_job"]


def load_job_file(path: Path, *, changes: Sequence[Change] = ()) -> JobSpec:
    """Reads and validates a job file.

    A ``data.path`` that begins with ``./`` or ``../`` is relative to the job file's folder and becomes absolute; any
    other relative path is left as it is, for the server to find under its data root. Files that ``search.warm_start``
    names are read, and what they hold takes their place; a relative path starts at the job file's folder.

    Args:
        path: A YAML file (so JSON will do as well).
        changes: Made in the document before it is validated, in this order. Paths among them start at the working
            directory, where the person is who wrote them.

    Returns:
        The job it describes.

    Raises:
        SpecError: The file cannot be read, is not YAML, or breaks rules; it lists every broken one with its line.
    """
    return read_job(_read(path), origin=str(path), folder=path.parent, changes=changes)


def read_job(text: str, *, origin: str, folder: Path, changes: Sequence[Change] = ()) -> JobSpec:
    """Reads and validates the text of a job file.

    Args:
        text: YAML.
        origin: What refusals call it.
        folder: Where a ``data.path`` that begins with ``./`` or ``../``, and files of ``search.warm_start``, start.
        changes: As for :func:`load_job_file`.

    Raises:
        SpecError: As for :func:`load_job_file`.
    """
    root, document = parse_document(text, origin=origin)
    for change in changes:
        change.apply(document)
    read_warm_start(document, folder=_start_of("search.warm_start", folder, changes))
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        lines = []
        for broken in explain(error):
            changed = [change.written for change in changes if change.reaches(broken.field)]
            place = changed[-1] if changed else f"{origin}:{line_of(root, broken.field)}"
            lines.append(f"{place}: {broken.field}: {broken.rule}" if broken.field else f"{place}: {broken.rule}")
        too = ", or what is set in it," if changes else ""
        raise SpecError("\n".join(lines), f"Correct {origin}{too} and submit it again") from error
    return _with_absolute_data(spec, folder=_start_of("data.path", folder, changes))


def make_job(**fields: Any) -> JobSpec:
    """A job from Python, of what a job file has: ``make_job(name="a", training={"epochs": 5})``.

    As :class:`~fixnorm_core.spec.JobSpec`, but a ``data.path`` that begins with ``./`` or ``../`` and files of
    ``search.warm_start`` start at the working directory, and a broken rule is refused in a job file's words, with the
    name that a mistyped one was meant to be.

    Args:
        fields: The groups of fields, as mappings or as specs.

    Raises:
        SpecError: Something breaks a rule; it lists every broken one.
    """
    document = deepcopy(fields)
    read_warm_start(document, folder=Path())
    try:
        spec = JobSpec.model_validate(document)
    except ValidationError as error:
        broken = [f"{each.field}: {each.rule}" if each.field else each.rule for each in explain(error)]
        raise SpecError("\n".join(broken), "docs/reference/job-file.md lists every field") from error
    return _with_absolute_data(spec, folder=Path())


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


def _start_of(field: str, folder: Path, changes: Sequence[Change]) -> Path:
    """Where relative paths of a field start: a person who changes it means the working directory."""
    return Path() if any(change.reaches(field) for change in changes) else folder


def _with_absolute_data(spec: JobSpec, *, folder: Path) -> JobSpec:
    given = spec.data.path
    if given is None or not given.startswith(("./", "../")):
        return spec
    absolute = str((folder / given).resolve())
    return spec.model_copy(update={"data": spec.data.model_copy(update={"path": absolute})})
