"""A Python file that comes with a job: kept by its SHA-256, named by it in the job, and loaded in the worker. No torch.

It runs with all that the worker's account may do; whether one may come at all is the operator's to say.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from fixnorm_core.errors import SpecError
from fixnorm_core.files import replacing
from fixnorm_core.reach import Reach
from fixnorm_core.spec import JobSpec
from fixnorm_core.spec.job import CODE_BYTES

__all__ = [
    "digest_of",
    "has_code",
    "import_code",
    "is_kept",
    "keep_code",
    "kept_code",
    "named_by_code",
    "named_for_sending",
    "needs_code",
]

_SENT = re.compile(r"code:(?P<factory>[A-Za-z]\w*)", re.ASCII)
_KEPT = re.compile(r"code@(?P<digest>[0-9a-f]{64}):(?P<factory>[A-Za-z]\w*)", re.ASCII)


def needs_code(name: str) -> bool:
    """Whether a model's or data set's name is of the file that comes with the job: ``code:factory``."""
    return _SENT.fullmatch(name) is not None


def is_kept(name: str) -> bool:
    """Whether a name is of a file that has been kept: ``code@SHA256:factory``."""
    return _KEPT.fullmatch(name) is not None


def digest_of(name: str) -> str | None:
    """The SHA-256 of the file that a model's or data set's name is of; None if it is of none that has been kept."""
    match = _KEPT.fullmatch(name)
    return match["digest"] if match is not None else None


def named_by_code(spec: JobSpec, *, reach: Reach) -> JobSpec:
    """The job as it is stored: the file's digest in place of the file.

    Raises:
        SpecError: If a file comes where none may, or with a job that names no factory of it; or if the job names a file
            by its digest that is not kept here.
    """
    for name in (spec.model.name, spec.data.name):
        kept = _KEPT.fullmatch(name)
        if kept is not None and reach.code is not None and not has_code(kept["digest"], folder=Path(reach.code)):
            raise SpecError(
                f"{name!r} is of a Python file that has not come to this server",
                f"Send the file with the job, and name the factory code:{kept['factory']}",
            )
    if spec.code is None:
        return spec
    if reach.code is None:
        raise SpecError(
            "a Python file comes with the job, and this server takes none",
            "Have the operator set FIXNORM_ALLOW_CODE, or add a module with the factories to FIXNORM_ALLOWED_MODULES",
        )
    if not (needs_code(spec.model.name) or needs_code(spec.data.name)):
        raise SpecError(
            "a Python file comes with the job, and neither model.name nor data.name is of it",
            "Name one of its functions, as in model.name: code:build, or leave the file out",
        )
    digest = _digest(spec.code)
    model, data = (
        part.model_copy(update={"name": part.name.replace("code:", f"code@{digest}:")})
        if needs_code(part.name)
        else part
        for part in (spec.model, spec.data)
    )
    return spec.model_copy(update={"model": model, "data": data, "code": None})


def kept_code(spec: JobSpec, *, folder: Path) -> str | None:
    """The file that a stored job came with; None if it came with none, or it is not there any more as it came.

    Args:
        spec: As it is stored.
        folder: Where :func:`keep_code` has kept it.
    """
    if (digest := _digest_in(spec)) is None:
        return None
    content = _read(folder, digest)
    return content.decode() if content is not None else None


def named_for_sending(spec: JobSpec) -> JobSpec:
    """A stored job as it is sent again together with its file, which is not put in: ``code:factory``."""
    if (digest := _digest_in(spec)) is None:
        return spec
    model, data = (
        part.model_copy(update={"name": part.name.replace(f"code@{digest}:", "code:")})
        for part in (spec.model, spec.data)
    )
    return spec.model_copy(update={"model": model, "data": data})


def has_code(digest: str, *, folder: Path) -> bool:
    """Whether a file has been kept there, and is what it was."""
    return _read(folder, digest) is not None


def keep_code(text: str, *, folder: Path) -> str:
    """Keeps a file for the workers, whole or not at all; tells its digest.

    Raises:
        OSError: If there is no room, say.
    """
    digest = _digest(text)
    if not has_code(digest, folder=folder):
        with replacing(_path(folder, digest)) as file:
            file.write(text.encode())
    return digest


def import_code(module_name: str, reach: Reach) -> ModuleType:
    """Loads a file that was kept, once in each process.

    Args:
        module_name: ``code@SHA256``.
        reach: Whose folder holds it.

    Raises:
        ImportError: If it is not there, or not what it was.
        Exception: Whatever its code raises.
    """
    digest = module_name.removeprefix("code@")
    name = f"code_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    path = _path(reach.code or "", digest)
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise ImportError(f"{path} is not there") from None
    if hashlib.sha256(text).hexdigest() != digest:
        raise ImportError(f"{path} is not the file that came with the job")
    spec = spec_from_loader(name, loader=None, origin=str(path))
    assert spec is not None
    module = module_from_spec(spec)
    module.__file__ = str(path)
    sys.modules[name] = module  # before it runs, as Python does: a dataclass in it looks there
    try:
        exec(compile(text, str(path), "exec"), vars(module))  # where the operator allows it  # nosec B102
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _digest_in(spec: JobSpec) -> str | None:
    """Of the one file that a stored job names; two can come with no job again."""
    named = {match["digest"] for name in (spec.model.name, spec.data.name) if (match := _KEPT.fullmatch(name))}
    return named.pop() if len(named) == 1 else None


def _read(folder: Path, digest: str) -> bytes | None:
    """A file that was kept; None for what is not that one: workers can write there, and may put a link in its place."""
    try:
        descriptor = os.open(_path(folder, digest), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        content = os.read(descriptor, CODE_BYTES + 1) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
    finally:
        os.close(descriptor)
    return content if content is not None and hashlib.sha256(content).hexdigest() == digest else None


def _path(folder: Path | str, digest: str) -> Path:
    return Path(folder) / f"{digest}.py"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
