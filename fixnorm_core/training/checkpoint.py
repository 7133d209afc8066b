"""Checkpoints to resume from: written atomically, read with torch's safe unpickler, the last few kept.

A run that goes on after an epoch has nothing of later ones. So what its folder holds of those is damaged, or of another
run. It is renamed when it would be in the way and never removed: it may be somebody's work.
"""

from __future__ import annotations

import logging
import pickle  # for the name of its error; torch's safe unpickler reads  # nosec B403
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from fixnorm_core.errors import WeightsError
from fixnorm_core.files import discard_partial, replacing
from fixnorm_core.reports import EpochReport

__all__ = [
    "Checkpoint",
    "clear_checkpoints",
    "latest_checkpoint",
    "load_checkpoint",
    "read_checkpoint",
    "save_checkpoint",
    "write_checkpoint",
]

_FORMAT = "fixnorm-tune.checkpoint.2"
_PATTERN = "checkpoint-*.pt"
_ASIDE = ".unused"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after some epochs. There is no random state: every epoch is seeded by its number.

    Attributes:
        fingerprint: Of the run that it belongs to.
        model: The model's ``state_dict``.
        optimizer: The optimizer's ``state_dict``.
        stepper: The loss scale and the moving average of the weights.
        reports: One for each finished epoch.
    """

    fingerprint: str
    model: dict[str, Tensor]
    optimizer: dict[str, Any]
    stepper: dict[str, Any]
    reports: tuple[EpochReport, ...]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes a checkpoint and removes all but the newest ``keep``; sets aside what the folder has of later epochs."""
    epoch = len(checkpoint.reports)
    path = folder / _name(epoch)
    _set_aside(folder, since=epoch)
    with replacing(path) as file:
        write_checkpoint(file, checkpoint)
    for old in _newest_first(folder)[keep:]:
        old.unlink(missing_ok=True)
    return path


def write_checkpoint(file: IO[bytes], checkpoint: Checkpoint) -> None:
    """Writes one to an open file."""
    content = {
        "format": _FORMAT,
        "fingerprint": checkpoint.fingerprint,
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "stepper": checkpoint.stepper,
        "reports": [report.model_dump_json() for report in checkpoint.reports],
    }
    torch.save(content, file)


def read_checkpoint(file: IO[bytes]) -> Checkpoint:
    """Reads what :func:`write_checkpoint` wrote onto the CPU; what a damaged file makes torch raise is not caught."""
    content = torch.load(file, map_location="cpu", weights_only=True)
    if content["format"] != _FORMAT:
        raise KeyError("format")
    reports = tuple(EpochReport.model_validate_json(report) for report in content["reports"])
    return Checkpoint(content["fingerprint"], content["model"], content["optimizer"], content["stepper"], reports)


def load_checkpoint(path: Path, *, fingerprint: str) -> Checkpoint:
    """Reads a checkpoint onto the CPU.

    Raises:
        WeightsError: If the file is truncated, foreign, or of another run.
    """
    try:
        with path.open("rb") as file:
            checkpoint = read_checkpoint(file)
    # A damaged file drives the unpickler into any of these
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} is not a whole checkpoint of this software ({error})", "Remove it") from error
    if checkpoint.fingerprint != fingerprint:
        raise WeightsError(f"{path} is the checkpoint of another run", "Give each run a folder of its own")
    return checkpoint


def latest_checkpoint(folder: Path, *, fingerprint: str) -> Checkpoint | None:
    """The newest checkpoint of this run that can be read, or None; each one that cannot is logged."""
    for path in _newest_first(folder):
        try:
            return load_checkpoint(path, fingerprint=fingerprint)
        except WeightsError as error:
            _log.warning("not resuming from a checkpoint: %s", error)
    return None


def clear_checkpoints(folder: Path, *, epoch: int) -> None:
    """Removes the checkpoints of a run that ended with ``epoch``, and what is half-written; sets aside later ones."""
    _set_aside(folder, since=epoch)
    for path in _newest_first(folder):
        path.unlink(missing_ok=True)
    discard_partial(folder)


def _set_aside(folder: Path, *, since: int) -> None:
    """Renames the checkpoints of this epoch and later ones, which the run that has just come to it did not write."""
    for path in _newest_first(folder):
        if path.name >= _name(since):
            aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_ASIDE}")
            path.rename(aside)
            _log.warning(
                "%s is not of this run, or damaged: kept as %s; remove it if nobody needs it", path, aside.name
            )


def _name(epoch: int) -> str:
    return f"checkpoint-{epoch:06d}.pt"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PATTERN), reverse=True)
