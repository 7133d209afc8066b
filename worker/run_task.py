"""One task, from start to outcome, in the calling thread. Knows nothing of Ray."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fixnorm_core.data.fetch import fetched, version_of
from fixnorm_core.data.store import BucketDown
from fixnorm_core.disk import full_disk, no_space_at
from fixnorm_core.errors import FixNormError
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import DataSpec, TrialSpec
from worker.contracts import (
    LOST_TOUCH,
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
from worker.keeping import Keeper, NodeUnfit, prepared, with_code
from worker.output import printed_to

if TYPE_CHECKING:
    from fixnorm_core.data.types import TrainingData
    from fixnorm_core.training.ranks import Ranks

__all__ = ["DataCache", "Join", "run_task", "train_alone"]

Join = Callable[[TrialSpec, Callable[[], "TrainingData"]], AbstractContextManager[tuple["Ranks", "TrainingData"]]]
"""Around the training of a trial: has this process read its images, then joins those that train it together.

In this order, since reading may be fetching for hours, for which no exchange of the others would wait."""

log = logging.getLogger("fixnorm_core")


class DataCache:
    """The images of the data set that was used last, so that trials of one job read them once per process.

    Those that are streamed are not kept, but what was found out about them is: sizes, statistics, damaged files.
    """

    def __init__(self) -> None:
        self._of: tuple[DataSpec, Reach] | None = None
        self._data: TrainingData | None = None

    def load(self, spec: DataSpec, reach: Reach = LOCAL) -> TrainingData:
        """The images of ``spec``, from memory if they are those asked for last.

        Raises:
            DataError: If they cannot be read, or are out of reach.
        """
        from fixnorm_core.data.load import check_test_split, load_training_data

        if self._data is None or self._of != (spec, reach):
            self._data = None  # frees the old images before the new ones are decoded
            local = fetched(spec, reach)  # once for both
            check_test_split(local[0], reach=local[1])
            data = load_training_data(local[0], reach=local[1])
            self._data = replace(data, version=version_of(local[0], asked=spec))
            self._of = (spec, reach)
        return self._data


@contextmanager
def train_alone(_trial: TrialSpec, read: Callable[[], TrainingData]) -> Iterator[tuple[Ranks, TrainingData]]:
    """Joins nobody."""
    from fixnorm_core.training.ranks import ALONE

    yield ALONE, read()


def run_task(
    task: Task,
    *,
    cache: DataCache,
    report: Callable[[EpochReport], None],
    should_stop: Callable[[], bool] = lambda: False,
    owns_process: bool = False,
    join: Join = train_alone,
    rank: int = 0,
) -> Outcome:
    """Runs a task to its end, or a rank's part of it. Never raises: whatever goes wrong is the outcome.

    Args:
        task: What to run.
        cache: Images kept from earlier tasks of this process.
        report: Called after every epoch, in this thread.
        should_stop: Asked after every epoch but the last; True ends the training there.
        owns_process: Whether this process does nothing else meanwhile, so that all that it prints is the task's.
        join: Joins those that train the trial together, around the training.
        rank: Which of them this is. The first logs all; the others only what is wrong, into the same file.
    """
    try:
        with prepared(task, rank=rank) as (here, keeper):
            path = log_path(here.folder, here.attempt_id)
            with _log_file(path, rank=rank), printed_to(path) if owns_process else nullcontext():
                outcome = _run(here, keeper, cache=cache, report=report, should_stop=should_stop, join=join)
                if isinstance(outcome, Failed):
                    log.error("%s\n%s", outcome.message, outcome.details.rstrip())
            keeper.keep_log()
            return outcome
    except Exception as error:  # of the log itself, or the scratch folder; nobody would hear of it otherwise
        return _failed(task, error)


def _run(
    task: Task,
    keeper: Keeper,
    *,
    cache: DataCache,
    report: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
    join: Join,
) -> Outcome:
    try:
        task = with_code(task)
        if isinstance(task, EvaluateTask):
            return _evaluate(task, keeper)
        return _train(task, keeper, cache=cache, report=report, should_stop=should_stop, join=join)
    except Exception as error:  # the boundary: a user's model or data may raise anything
        return _failed(task, error)


def _failed(task: Task, error: Exception) -> Failed:
    """What was raised, as an outcome."""
    details = "".join(traceback.format_exception(error))
    if (full := full_disk(error)) is not None:
        path = Path(full.filename or task.folder)
        return Failed(FailureKind.DISK_FULL, no_space_at(path, needed=_last_size(Path(task.folder))), details)
    if isinstance(error, FixNormError):
        kind = next((kind for of, kind in _KINDS.items() if isinstance(error, of)), FailureKind.FATAL)
        return Failed(kind, str(error), details)
    if isinstance(error, MemoryError):
        return Failed(FailureKind.RETRYABLE, "the worker ran out of memory", details)
    what = f"{type(error).__name__}: {error}"
    kind = _kind_of(error)
    if kind is FailureKind.CRASHED and task.trial.ranks > 1 and _is_of_the_connection(error):
        return Failed(FailureKind.RETRYABLE, f"{LOST_TOUCH}: {what}", details)
    return Failed(kind, what, details)


_KINDS = {BucketDown: FailureKind.BUCKET_DOWN, NodeUnfit: FailureKind.OUTAGE}
"""Of refusals that are not the job's fault."""


def _last_size(folder: Path) -> int | None:
    """Bytes of the last checkpoint, which the next one will take too; None when there is none."""
    with suppress(OSError):
        return max((path.stat().st_size for path in folder.glob("checkpoint-*.pt")), default=None)
    return None


def _train(
    task: TrainTask,
    keeper: Keeper,
    *,
    cache: DataCache,
    report: Callable[[EpochReport], None],
    should_stop: Callable[[], bool],
    join: Join,
) -> Trained | Stopped:
    import torch

    from fixnorm_core.training.trainer import Trainer

    def read() -> TrainingData:
        data = cache.load(task.trial.data, task.reach)
        if data.version:
            log.info("version %s of %s", data.version, task.trial.data.path)
        keeper.begin(task.trial)
        return data

    torch.set_num_threads(task.trial.cpu_threads)
    with join(task.trial, read) as (ranks, data):
        trainer = Trainer(task.trial, folder=Path(task.folder), data=data, reach=task.reach, ranks=ranks)
        with closing(iter(trainer)) as epochs:
            for epoch in epochs:
                keeper.keep()
                report(epoch)
                stop = ranks.of_first(bytes([should_stop()])) == bytes([True])  # all of them after the same epoch
                if stop and not (epoch.diverged or epoch.epoch == epoch.epochs):
                    log.info("stopped after epoch %d of %d", epoch.epoch, epoch.epochs)
                    return Stopped()
        keeper.keep()
    return Trained(keeper.located(trainer.result()))


def _evaluate(task: EvaluateTask, keeper: Keeper) -> Evaluated:
    import torch

    from fixnorm_core.training.evaluate import evaluate_weights
    from fixnorm_core.training.trainer import WEIGHTS_NAME

    torch.set_num_threads(task.trial.cpu_threads)
    keeper.begin(task.trial)
    evaluation = evaluate_weights(Path(task.folder) / WEIGHTS_NAME, split="test", reach=task.reach)
    log.info("test accuracy %.4f on %d images", evaluation.accuracy, evaluation.examples)
    return Evaluated(evaluation)


_GPU_FAULTS = (
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "hardware stack error",
    "CUDA-capable device(s) is/are busy or unavailable",
    "no CUDA-capable device is detected",
    "system not yet initialized",
    "CUDA driver initialization failed",
)
"""What CUDA says of a device that does not work (cudaGetErrorString); what a wrong program causes is not among it."""


def _kind_of(error: Exception) -> FailureKind:
    """The death of a process that reads images may be another process's doing."""
    import torch

    from fixnorm_core.data.pool import ReaderLost

    if isinstance(error, torch.OutOfMemoryError):
        return FailureKind.GPU_MEMORY
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _GPU_FAULTS):
        return FailureKind.GPU_FAULT
    return FailureKind.RETRYABLE if isinstance(error, ReaderLost) else FailureKind.CRASHED


def _is_of_the_connection(error: Exception) -> bool:
    """Whether a rank waited in vain for another, which is gone or hangs, and perhaps not by the trial's own doing.

    Gloo raises a bare ``RuntimeError``, which begins with the place in its source.
    """
    from torch import distributed as dist

    is_gloo = isinstance(error, RuntimeError) and "/gloo/transport/" in str(error)
    return is_gloo or isinstance(error, dist.DistError)


@contextmanager
def _log_file(path: Path, *, rank: int) -> Iterator[None]:
    """Sends what the trainer logs, and Python's warnings, to a file of their own, line by line as they come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    who = f" on rank {rank}" if rank else ""
    handler.setLevel(logging.WARNING if rank else logging.INFO)
    form = logging.Formatter(f"%(asctime)s UTC %(levelname)s %(name)s{who}: %(message)s")
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
