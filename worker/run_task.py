"""One task, from start to outcome, in the calling thread. Knows nothing of Ray."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from fixnorm_core.disk import full_disk, no_space_at
from fixnorm_core.errors import FixNormError
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import DataSpec
from worker.contracts import (
    Evaluated,
    EvaluateTask,
    Failed,
    FailureKind,
    Outcome,
    Stopped,
    Task,
    Trained,
    TrainTask,
    log_path,
)
from worker.output import printed_to

if TYPE_CHECKING:
    from fixnorm_core.data.types import TrainingData

__all__ = ["DataCache", "run_task"]

log = logging.getLogger("fixnorm_core")


class DataCache:
    """The images of the data set that was used last, so that trials of one job read them once per process.

    Those that are streamed are not kept, but what was found out about them is: sizes, statistics, damaged files.
    """

    def __init__(self) -> None:
        self._spec: DataSpec | None = None
        self._data: TrainingData | None = None

    def load(self, spec: DataSpec) -> TrainingData:
        """The images of ``spec``, from memory if they are those asked for last.

        Raises:
            DataError: If they cannot be read.
        """
        from fixnorm_core.data.load import check_test_split, load_training_data

        if self._data is None or self._spec != spec:
            self._data = None  # frees the old images before the new ones are decoded
            check_test_split(spec)
            self._data = load_training_data(spec)
            self._spec = spec
        return self._data


def run_task(
    task: Task,
    *,
    cache: DataCache,
    report: Callable[[EpochReport], None],
    should_stop: Callable[[], bool] = lambda: False,
    owns_process: bool = False,
) -> Outcome:
    """Runs a task to its end. Never raises: whatever goes wrong is the outcome.

    Args:
        task: What to run.
        cache: Images kept from earlier tasks of this process.
        report: Called after every epoch, in this thread.
        should_stop: Asked after every epoch but the last; True ends the training there.
        owns_process: Whether this process does nothing else meanwhile, so that all that it prints is the task's.
    """
    try:
        path = log_path(task.folder, task.attempt_id)
        with _log_file(path), printed_to(path) if owns_process else nullcontext():
            outcome = _run(task, cache=cache, report=report, should_stop=should_stop)
            if isinstance(outcome, Failed):
                log.error("%s\n%s", outcome.message, outcome.details.rstrip())
            return outcome
    except OSError as error:  # of the log itself
        return _failed(task, error)


def _run(
    task: Task, *, cache: DataCache, report: Callable[[EpochReport], None], should_stop: Callable[[], bool]
) -> Outcome:
    try:
        if isinstance(task, EvaluateTask):
            return _evaluate(task)
        return _train(task, cache=cache, report=report, should_stop=should_stop)
    except Exception as error:  # the boundary: a user's model or data may raise anything
        return _failed(task, error)


def _failed(task: Task, error: Exception) -> Failed:
    """What was raised, as an outcome."""
    details = "".join(traceback.format_exception(error))
    if (full := full_disk(error)) is not None:
        path = Path(full.filename or task.folder)
        return Failed(FailureKind.DISK_FULL, no_space_at(path, needed=_last_size(Path(task.folder))), details)
    if isinstance(error, FixNormError):
        return Failed(FailureKind.FATAL, str(error), details)
    if isinstance(error, MemoryError):
        return Failed(FailureKind.RETRYABLE, "the worker ran out of memory", details)
    return Failed(_kind_of(error), f"{type(error).__name__}: {error}", details)


def _last_size(folder: Path) -> int | None:
    """Bytes of the last checkpoint, which the next one will take too; None when there is none."""
    with suppress(OSError):
        return max((path.stat().st_size for path in folder.glob("checkpoint-*.pt")), default=None)
    return None


def _train(
    task: TrainTask, *, cache: DataCache, report: Callable[[EpochReport], None], should_stop: Callable[[], bool]
) -> Trained | Stopped:
    import torch

    from fixnorm_core.training.trainer import Trainer

    torch.set_num_threads(task.trial.cpu_threads)
    trainer = Trainer(task.trial, folder=Path(task.folder), data=cache.load(task.trial.data))
    with closing(iter(trainer)) as epochs:
        for epoch in epochs:
            report(epoch)
            if should_stop() and not (epoch.diverged or epoch.epoch == epoch.epochs):
                log.info("stopped after epoch %d of %d", epoch.epoch, epoch.epochs)
                return Stopped()
    return Trained(trainer.result())


def _evaluate(task: EvaluateTask) -> Evaluated:
    import torch

    from fixnorm_core.training.evaluate import evaluate_weights
    from fixnorm_core.training.trainer import WEIGHTS_NAME

    torch.set_num_threads(task.trial.cpu_threads)
    evaluation = evaluate_weights(Path(task.folder) / WEIGHTS_NAME, split="test")
    log.info("test accuracy %.4f on %d images", evaluation.accuracy, evaluation.examples)
    return Evaluated(evaluation)


def _kind_of(error: Exception) -> FailureKind:
    """The death of a process that reads images may be another process's doing."""
    import torch

    from fixnorm_core.data.pool import ReaderLost

    if isinstance(error, torch.OutOfMemoryError):
        return FailureKind.GPU_MEMORY
    return FailureKind.RETRYABLE if isinstance(error, ReaderLost) else FailureKind.CRASHED


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Sends what the trainer logs, and Python's warnings, to a file of their own, line by line as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    form = logging.Formatter("%(asctime)s UTC %(levelname)s %(name)s: %(message)s")
    form.converter = time.gmtime  # as the server's lines beside these
    handler.setFormatter(form)
    loggers = [log, logging.getLogger("py.warnings")]
    log.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        logging.captureWarnings(False)
        with suppress(OSError):  # the lines that a full disk did not take are not worth the run
            handler.close()
