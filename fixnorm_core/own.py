"""Models and data sets of one's own: ``package.module:factory``, from modules that an operator has allowed. No torch.

Whoever names a module has its code run, so a name is judged before anything is imported: on the server as text, and in
the worker again. What is imported must have been defined in an allowed module; one that such a module has merely
imported, ``subprocess.run`` for example, is no factory.

A Python file that came with a job (:mod:`fixnorm_core.code`) is named ``code@SHA256:factory``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fixnorm_core.code import import_code, is_kept, needs_code
from fixnorm_core.errors import DataError, ModelError
from fixnorm_core.reach import Reach

__all__ = ["call_factory", "check_own", "is_module_prefix", "is_own"]

_PREFIX = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*", re.ASCII)
_NAME = re.compile(rf"(?P<module>{_PREFIX.pattern}):(?P<factory>[A-Za-z]\w*)", re.ASCII)

Refusal = type[ModelError] | type[DataError]


def is_own(name: str) -> bool:
    """Whether a model's or a data set's name is that of a factory, and not of a catalog."""
    return ":" in name


def is_module_prefix(text: str) -> bool:
    """Whether this can name a module whose factories are allowed, and those of all modules in it."""
    return _PREFIX.fullmatch(text) is not None


def check_own(name: str, *, reach: Reach, refusal: Refusal) -> None:
    """Refuses a factory that may not be imported; imports nothing.

    Args:
        name: ``package.module:factory``.
        reach: What may be reached.
        refusal: The error to raise.

    Raises:
        ModelError: Or DataError, as asked for: if it is no such name, or of a module that is not allowed.
    """
    if is_kept(name):
        _check_kept(name, reach=reach, refusal=refusal)
        return
    if needs_code(name):
        raise refusal(
            f"{name!r} is of a Python file that comes with the job, and none did",
            "Send it: fixnorm-tune submit --code FILE",
        )
    match = _NAME.fullmatch(name)
    if match is None:
        raise refusal(
            f"{name[:200]!r} names no factory: package.module:factory, of letters, digits and underscores, none of the "
            "parts beginning with an underscore",
            "Write it as in my_models.small:build",
        )
    if not _is_allowed(match["module"], reach):
        allowed = f"those allowed are {', '.join(reach.modules)}" if reach.modules else "none is allowed here"
        raise refusal(
            f"the module of {name!r} may not be imported; {allowed}",
            "Have the operator add it to FIXNORM_ALLOWED_MODULES (in Python: reach=Reach(modules=(...,))), or take a "
            "name of `fixnorm-tune models` or `fixnorm-tune datasets`",
        )


def call_factory(name: str, *arguments: Any, reach: Reach, refusal: Refusal, options: dict[str, Any]) -> Any:
    """Imports a factory and calls it.

    Args:
        name: As for :func:`check_own`.
        arguments: Passed by position.
        reach: What may be reached.
        refusal: The error to raise.
        options: Passed by name.

    Raises:
        ModelError: Or DataError, as asked for: as for :func:`check_own`; if the module cannot be imported where this
            runs, has no such factory, or the factory raises something, which is the cause.
    """
    check_own(name, reach=reach, refusal=refusal)
    module_name, _, attribute = name.partition(":")
    try:
        module = import_code(module_name, reach) if is_kept(name) else import_module(module_name)
    except (Exception, SystemExit) as error:  # the boundary: it is somebody's code
        raise refusal(
            f"the module of {name!r} cannot be imported on the worker: {_told(error)}",
            "Mend the file and submit it again; what it imports has to be installed where the workers run"
            if is_kept(name)
            else "Install its package where the workers run, or have its folder on PYTHONPATH when they are started",
        ) from error
    factory = getattr(module, attribute, None)
    if factory is None or not callable(factory):
        raise refusal(
            f"module {module_name} has no factory {attribute!r}",
            f"Define a function {attribute} in it, or correct {name!r}",
        )
    if not is_kept(name) and not _is_allowed(str(getattr(factory, "__module__", "")), reach):
        raise refusal(
            f"{name!r} was defined in {getattr(factory, '__module__', None)!r}, which is not allowed",
            f"Define a function in {module_name} that calls it",
        )
    return _called(factory, *arguments, name=name, refusal=refusal, options=options)


def _check_kept(name: str, *, reach: Reach, refusal: Refusal) -> None:
    if reach.code is None:
        raise refusal(
            f"{name!r} is of a Python file that came with a job, and none may come with one here",
            "Have the operator set FIXNORM_ALLOW_CODE, or add a module with the factory to FIXNORM_ALLOWED_MODULES",
        )


def _called(factory: Callable[..., Any], *arguments: Any, name: str, refusal: Refusal, options: dict[str, Any]) -> Any:
    try:
        return factory(*arguments, **options)
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:  # the boundary
        if _is_device_trouble(error):
            raise
        raise refusal(
            f"factory {name!r} with options {options} raised {_told(error)}", "The trial's log has the traceback"
        ) from error


def _is_allowed(module: str, reach: Reach) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in reach.modules)


def _is_device_trouble(error: BaseException) -> bool:
    """A GPU's want of memory or fault is not the factory's: it is judged where other such errors are."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
