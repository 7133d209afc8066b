"""The HTML report of a job as it is now, from what is stored of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import optuna
from optuna.exceptions import StorageInternalError

from fixnorm_core.code import kept_code
from fixnorm_core.errors import DataError
from fixnorm_core.reports import ClassEvaluation, EpochReport, TrialResult
from service.jobs import repository
from service.jobs.views import class_evaluation_of, result_of
from service.reporting.page import Reported, render_page
from service.reporting.result import read_history
from service.runtime import Runtime
from service.schemas import JobView, TrialView

__all__ = ["report_page", "study_of"]

_PACKAGES = ("fixnorm-tune", "torch", "torchvision", "ray", "optuna")


def report_page(running: Runtime, job: JobView, trials: Sequence[TrialView]) -> str:
    """The page of a job in any state.

    Args:
        running: The server's parts.
        job: The job.
        trials: All its trials.
    """
    run: TrialResult | None = None
    history: Sequence[EpochReport] = ()
    classes: ClassEvaluation | None = None
    if job.best is not None:
        with running.database.read() as session:
            attempts = repository.attempts_of(session, [job.id])
        run = result_of(job.best.weights_trial, attempts=attempts)
        if job.best.test is not None:
            classes = class_evaluation_of(job.best.weights_trial, attempts=attempts)
        history = read_history(running.files, job.id, job.best.weights_trial, run)
    with suppress(DataError):  # the page goes without it
        running.files.have_code(job.spec, folder=running.settings.kept_code)
    code = kept_code(job.spec, folder=running.settings.kept_code)
    study, now = study_of(running, job), running.now()
    return render_page(Reported(job, trials, study, run, history, _versions(), now, code, classes))


def study_of(running: Runtime, job: JobView) -> optuna.Study | None:
    """A job's study, for reading; None before it exists."""
    if job.dashboard is None:
        return None
    try:
        return optuna.load_study(study_name=job.id, storage=running.storage)
    except (KeyError, StorageInternalError):
        return None


@cache
def _versions() -> Mapping[str, str]:
    """Of Python and the packages that a job's proposals and the way it is run depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
