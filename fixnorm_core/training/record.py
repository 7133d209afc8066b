"""What a finished run leaves beside its weights, so that asking for it again trains nothing."""

from __future__ import annotations

import hashlib
import logging
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import ValidationError

from fixnorm_core.files import replacing
from fixnorm_core.reports import RECORD_NAME, FinishedRun
from fixnorm_core.spec import TrialSpec

__all__ = ["fingerprint", "package_versions", "read_finished", "write_finished"]

_PACKAGES = ("fixnorm-tune", "numpy", "pillow", "safetensors", "scikit-learn", "torch", "torchvision")

_log = logging.getLogger(__name__)


def package_versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers depend on."""
    return {package: found for package in _PACKAGES if (found := _version(package)) is not None}


def fingerprint(trial: TrialSpec, *, device: torch.device) -> str:
    """Tells runs apart that would not end in the same bits: by trial, kind of device and package versions."""
    versions = sorted(package_versions().items())
    decides = trial.model_dump_json(exclude={"data": {"loader_workers"}})
    return hashlib.sha256(f"{decides} {device.type} {versions}".encode()).hexdigest()


def write_finished(folder: Path, finished: FinishedRun) -> None:
    """Records a finished run in its folder."""
    with replacing(folder / RECORD_NAME) as file:
        file.write(finished.model_dump_json(indent=1).encode())


def read_finished(folder: Path, *, fingerprint: str) -> FinishedRun | None:
    """The finished run of ``folder``; None if there is none, it is another run, or its weights are gone.

    The folder may have another name by now, or be a copy: weights are looked for beside the record.
    """
    try:
        finished = FinishedRun.model_validate_json((folder / RECORD_NAME).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("not taking up %s: %s", folder / RECORD_NAME, error)
        return None
    result = finished.result
    weights, best = (
        None if told is None else str(folder / Path(told).name) for told in (result.weights, result.best_weights)
    )
    is_whole = all(path is None or Path(path).is_file() for path in (weights, best))
    if finished.fingerprint != fingerprint or not is_whole:
        _log.warning("%s is of another run, or its weights are gone: training anew", folder / RECORD_NAME)
        return None
    result = result.model_copy(update={"weights": weights, "best_weights": best})
    return finished.model_copy(update={"result": result})


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
