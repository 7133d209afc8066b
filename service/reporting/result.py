"""Writes the ``best`` folder of a job. Done again after a crash, it writes the same files."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from fixnorm_core.buckets import is_url
from fixnorm_core.errors import DataError
from fixnorm_core.files import discard_partial, replacing
from fixnorm_core.reports import EpochReport, FinishedRun, TrialResult
from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.recommend import Recommendation
from service.database.rows import AttemptRow, JobRow
from service.jobs.files import JobFiles
from service.jobs.folders import best_folder
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
    files: JobFiles,
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
        DataError: If the object store that holds the weights refuses, or does not answer.
        OSError: If a file has no room, say; of those that could be written none is half there.
    """
    folder = best_folder(files.state_dir, job.id)
    folder.mkdir(parents=True, exist_ok=True)
    discard_partial(folder)  # what a killed server left, which may be as large as the weights
    view = best_view(best, attempts=rows, saved=epochs_saved(spec, trials))
    is_stored = view.weights is not None and is_url(view.weights)
    kept = None if is_stored else _keep_weights(view.weights, folder)
    view = view.model_copy(
        update={
            "weights": f"{files.url_of_best(job.id)}/{WEIGHTS_NAME}" if is_stored else str(kept) if kept else None,
            "weights_url": f"/api/v1/jobs/{job.id}/weights" if kept is not None or is_stored else None,
            "test": evaluation_of(best.best_run, attempts=rows),
            "report": str(folder / REPORT_NAME),
            "stop_reason": stop_reason,
        }
    )
    shown = trial_views(spec, trials, attempts=rows, now=job.created_at)
    run = result_of(best.best_run, attempts=rows)
    history = read_history(files, job.id, best.best_run, run)
    text = render_report(job, spec, best=view, trials=shown, run=run, history=history)
    _write(folder / REPORT_NAME, text)
    _write(folder / RESULT_NAME, view.model_dump_json(indent=2) + "\n")
    _write(folder / JOB_NAME, spec.model_dump_json(indent=2) + "\n")
    if run is not None and run.weights is not None and is_stored:
        files.keep_best(job.id, run.weights, folder)
    return view


def read_history(files: JobFiles, job_id: str, number: int, run: TrialResult | None) -> tuple[EpochReport, ...]:
    """The epochs of a run, as is recorded beside its weights; a report does without them if it must."""
    try:
        record = files.record(job_id, number, run.weights if run is not None else None)
        return FinishedRun.model_validate_json(record, extra="ignore").reports
    except FileNotFoundError:  # a simulated run has no folder
        return ()
    except (OSError, DataError, ValidationError) as error:
        _log.warning("report.history_unreadable", job=job_id, trial=number, error=str(error))
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
