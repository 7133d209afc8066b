"""Writes what a job ends with. Done again after a crash, it writes the same files.

A job that is reopened keeps its result until the next one is committed, and for good if none is. So an ending of
another round writes to a folder of its own, which the committed result names; the former one's go later.
In an object store, where no lock keeps a server that has lost its lease from writing on, every ending does.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path, PurePath

import structlog
from optuna.trial import FrozenTrial
from pydantic import ValidationError

from fixnorm_core.artifacts import NotThere
from fixnorm_core.buckets import is_url
from fixnorm_core.errors import DataError
from fixnorm_core.files import discard_partial, replacing
from fixnorm_core.reports import EpochReport, FinishedRun, TrialResult
from fixnorm_core.spec import JobSpec
from fixnorm_core.tuning.recommend import Recommendation
from service.database.rows import AttemptRow, JobRow
from service.jobs.files import JobFiles, best_name
from service.jobs.folders import best_folder, is_own, open_own, trial_folder
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
    ending: str,
) -> BestView:
    """Copies the weights, writes report, result and job file, and returns the final view of the best point.

    Args:
        files: Of jobs.
        job: The job.
        spec: Its description, with what was changed of it.
        trials: All of them.
        rows: Their attempts.
        best: What is recommended.
        stop_reason: Why the job ends.
        ending: The folder that none but this ending writes to (:func:`~service.jobs.folders.ending_name`).

    Raises:
        BucketDown: If the object store that holds the weights refuses, or does not answer.
        DataError: If a folder that it would be written to is a link.
        OSError: If a file has no room, say; of those that could be written none is half there.
    """
    view = best_view(best, attempts=rows, saved=epochs_saved(spec, trials))
    folder = best_folder(files.state_dir, job.id)
    if job.round or files.store is not None:
        folder /= ending
    if not is_own(folder / REPORT_NAME, below=files.state_dir):
        raise DataError(f"a link leads out of {folder}, where the result would be written", "Remove the link")
    discard_partial(folder)  # what a killed server left, which may be as large as the weights
    place = str(folder) if files.store is None else f"{files.store.url}/{best_name(job.id)}/{ending}"
    weights = _keep_weights(files, job.id, best.best_run, view.weights, folder=folder, place=place)
    view = view.model_copy(
        update={
            "weights": weights,
            "weights_url": f"/api/v1/jobs/{job.id}/weights" if weights is not None else None,
            "test": evaluation_of(best.best_run, attempts=rows),
            "report": f"{place}/{REPORT_NAME}",
            "stop_reason": stop_reason,
        }
    )
    shown = trial_views(spec, trials, attempts=rows, now=job.created_at)
    run = result_of(best.best_run, attempts=rows)
    history = read_history(files, job.id, best.best_run, run)
    text = render_report(job, spec, best=view, trials=shown, run=run, history=history)
    _write(files, f"{place}/{REPORT_NAME}", text)
    _write(files, f"{place}/{RESULT_NAME}", view.model_dump_json(indent=2) + "\n")
    _write(files, f"{place}/{JOB_NAME}", spec.model_dump_json(indent=2) + "\n")
    return view


def read_history(files: JobFiles, job_id: str, number: int, run: TrialResult | None) -> tuple[EpochReport, ...]:
    """The epochs of a run, as is recorded beside its weights; a report does without them if it must."""
    try:
        weights = run.weights if run is not None else None
        if weights is not None and is_url(weights) and not files.is_of(weights, job_id, number):
            return ()
        record = files.record(job_id, number, weights)
        return FinishedRun.model_validate_json(record, extra="ignore").reports
    except FileNotFoundError:  # a simulated run has no folder
        return ()
    except (OSError, DataError, ValidationError) as error:
        _log.warning("report.history_unreadable", job=job_id, trial=number, error=str(error))
        return ()


def _keep_weights(
    files: JobFiles, job_id: str, number: int, weights: str | None, *, folder: Path, place: str
) -> str | None:
    """Where the copy of a run's weights is; None for none.

    What the run tells of them was written beside users' code, so they are looked for among the trial's own files alone.
    Where they are not there, the job ends without: what else was found is still true.
    """
    if weights is None:
        return None
    try:
        if not is_url(weights):
            own = trial_folder(files.state_dir, job_id, number) / PurePath(weights).name
            with open_own(own, below=files.state_dir) as source, replacing(folder / WEIGHTS_NAME) as file:
                shutil.copyfileobj(source, file)
            return str(folder / WEIGHTS_NAME)
        if files.is_of(weights, job_id, number):
            files.copy(weights, kept := f"{place}/{WEIGHTS_NAME}")
            return kept
        why = "they are not among the trial's files"
    except (FileNotFoundError, NotThere) as error:
        why = str(error)
    _log.warning("result.no_weights", job=job_id, trial=number, weights=weights, reason=why)
    return None


def _write(files: JobFiles, place: str, text: str) -> None:
    if is_url(place):
        files.write(place, text)
        return
    with replacing(Path(place)) as file:
        file.write(text.encode())
