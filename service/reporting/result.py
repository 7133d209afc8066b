"""Writes the ``best`` folder of a job. Done again after a crash, it writes the same files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from fixnorm_core.files import discard_partial, replacing
from fixnorm_core.reports import RECORD_NAME, EpochReport, FinishedRun
from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.recommend import Recommendation
from service.database.rows import AttemptRow, JobRow
from service.jobs.folders import best_folder, trial_folder
from service.jobs.views import best_view, epochs_saved, evaluation_of, result_of, trial_views
from service.reporting.report import render_report
from service.schemas import BestView

__all__ = ["REPORT_NAME", "RESULT_NAME", "WEIGHTS_NAME", "read_history", "write_result"]

REPORT_NAME = "report.md"
RESULT_NAME = "result.json"
WEIGHTS_NAME = "weights.safetensors"
JOB_NAME = "job.json"

_log = structlog.get_logger(__name__)


def write_result(
    state_dir: Path,
    job: JobRow,
    spec: JobSpec,
    *,
    trials: Sequence[FrozenTrial],
    rows: Sequence[AttemptRow],
    best: Recommendation,
    stop_reason: str,
) -> BestView:
    """Copies the weights, writes report, result and job file, and returns the final view of the best point.

    Raises:
        OSError: If a file has no room, say; of those that could be written none is half there.
    """
    folder = best_folder(state_dir, job.id)
    folder.mkdir(parents=True, exist_ok=True)
    discard_partial(folder)  # what a killed server left, which may be as large as the weights
    view = best_view(best, attempts=rows, saved=epochs_saved(spec, trials))
    kept = _keep_weights(view.weights, folder)
    view = view.model_copy(
        update={
            "weights": str(kept) if kept is not None else None,
            "weights_url": f"/api/v1/jobs/{job.id}/weights" if kept is not None else None,
            "test": evaluation_of(best.best_run, attempts=rows),
            "report": str(folder / REPORT_NAME),
            "stop_reason": stop_reason,
        }
    )
    shown = trial_views(spec, trials, attempts=rows, now=job.created_at)
    run = result_of(best.best_run, attempts=rows)
    history = read_history(trial_folder(state_dir, job.id, best.best_run))
    text = render_report(job, spec, best=view, trials=shown, run=run, history=history)
    _write(folder / REPORT_NAME, text)
    _write(folder / RESULT_NAME, view.model_dump_json(indent=2) + "\n")
    _write(folder / JOB_NAME, spec.model_dump_json(indent=2) + "\n")
    return view


def read_history(folder: Path) -> tuple[EpochReport, ...]:
    """The epochs of a run, as its folder records them; a report does without them if it must."""
    try:
        return FinishedRun.model_validate_json((folder / RECORD_NAME).read_bytes(), extra="ignore").reports
    except FileNotFoundError:  # a simulated run has no folder
        return ()
    except (OSError, ValidationError) as error:
        _log.warning("report.history_unreadable", folder=str(folder), error=str(error))
        return ()


def _keep_weights(weights: str | None, folder: Path) -> Path | None:
    if weights is None:
        return None
    kept = folder / WEIGHTS_NAME
    with Path(weights).open("rb") as source, replacing(kept) as file:
        shutil.copyfileobj(source, file)
    return kept


def _write(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())
