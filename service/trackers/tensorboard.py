"""TensorBoard's event files: a folder for each trial below the job's, with hyperparameters and final numbers.

What was written is read back from the files themselves, so that nothing is written twice, whatever was killed when.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import structlog
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.hparams.api_pb2 import (
    DATA_TYPE_FLOAT64,
    DATA_TYPE_STRING,
    STATUS_FAILURE,
    STATUS_SUCCESS,
    Experiment,
    HParamInfo,
    MetricInfo,
    MetricName,
)
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo
from tensorboard.summary.writer.record_writer import RecordWriter

from service.events.schemas import EventKind, EventView
from service.jobs.folders import is_own, tensorboard_folder
from service.schemas import TrialState
from service.trackers.contracts import Tracked

__all__ = ["FINAL_TEST", "FINAL_VALIDATION", "TAGS", "VALIDATION", "TensorBoardTracker", "run_name"]

VALIDATION = "accuracy/validation"
FINAL_VALIDATION, FINAL_TEST = "final/validation_accuracy", "final/test_accuracy"

TAGS = {
    "train_accuracy": "accuracy/train",
    "validation_loss": "loss/validation",
    "train_loss": "loss/train",
    "head_norm": "head/norm",
    "head_bound": "head/bound",
    "seconds": "speed/seconds",
    "images_per_second": "speed/images_per_second",
}
"""Of those measures of an epoch that have another tag than their own name."""

_EXPERIMENT, _START, _END = ("_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info")
_FILE_VERSION = "brain.Event:2"
_NAME, _NAMES = "events.out.tfevents.0.fixnorm", "events.out.tfevents.*"

_log = structlog.get_logger(__name__)


def run_name(trial: int) -> str:
    """Of a trial's folder, which is its run's name in TensorBoard."""
    return f"trial-{trial:04d}"


class TensorBoardTracker:
    """Writes event files. Remembers what is in those of the trials that have not ended."""

    name = "tensorboard"

    def __init__(self, state_dir: Path) -> None:
        """Writes nothing yet.

        Args:
            state_dir: The server's; files lie below the folders of the jobs.
        """
        self._state_dir = state_dir
        self._runs: dict[Path, _Run] = {}
        self._linked: set[Path] = set()

    def tell(self, job: Tracked, events: Sequence[EventView]) -> None:
        """Writes events; when it returns, the disk has them.

        Raises:
            OSError: If a file has no room, say. What was written in part is not read back, and written again.
        """
        touched: dict[Path, _Run] = {}
        ended: set[Path] = set()
        try:
            for event in events:
                number = self._trial_of(job, event)
                if number is None:
                    continue
                folder = tensorboard_folder(self._state_dir, job.id) / run_name(number)
                if folder not in touched and self._is_linked(folder):
                    continue
                run = touched[folder] = self._run(folder)
                _write(run, job, event)
                if event.kind in (EventKind.TRIAL_ENDED, EventKind.JOB_ENDED):
                    ended.add(folder)
            for run in touched.values():
                run.store()
        except BaseException:
            ended = set(touched)  # read anew next time, up to the last whole record
            raise
        finally:
            for folder in ended:
                self._runs.pop(folder).close()

    def close(self) -> None:
        """Forgets what is in the files."""
        self._runs.clear()

    def _trial_of(self, job: Tracked, event: EventView) -> int | None:
        if event.kind is EventKind.JOB_ENDED:
            return job.best.weights_trial if job.best is not None and job.best.test is not None else None
        if event.kind is EventKind.ATTEMPT_STARTED and event.task != "train":
            return None
        kinds = (EventKind.ATTEMPT_STARTED, EventKind.TRIAL_EPOCH, EventKind.TRIAL_ENDED)
        return event.trial if event.kind in kinds else None

    def _is_linked(self, folder: Path) -> bool:
        """Whether a link, which none but a worker can have put there, leads to what would be cut off or added to."""
        linked = not is_own(folder / _NAME, below=self._state_dir) or any(map(Path.is_symlink, folder.glob(_NAMES)))
        if linked and folder not in self._linked:
            _log.warning("tensorboard.link_not_followed", folder=str(folder))
            self._linked.add(folder)
        return linked

    def _run(self, folder: Path) -> _Run:
        if folder not in self._runs:
            self._runs[folder] = _Run.open(folder)
        return self._runs[folder]


@dataclass(slots=True)
class _Run:
    """The event file of one trial; ``known`` are the tags and steps that it has, ``last_step`` its last epoch."""

    path: Path
    known: set[tuple[str, int]]
    last_step: int = 0
    _file: BinaryIO | None = field(default=None)

    @classmethod
    def open(cls, folder: Path) -> _Run:
        """The run of a folder, with what its file holds; a torn record at the end is cut off."""
        path = next(iter(sorted(folder.glob(_NAMES))), folder / _NAME)
        run, whole = cls(path, set()), 0
        if path.exists():
            for event, end in _events(path):
                run.known.update((value.tag, event.step) for value in event.summary.value)
                run.last_step, whole = max(run.last_step, event.step), end
            if whole < path.stat().st_size:
                with path.open("r+b") as file:
                    file.truncate(whole)
        return run

    def add(self, tag: str, value: float | None, *, step: int, at: float) -> None:
        """A number, unless it is there; None writes nothing."""
        self.last_step = max(self.last_step, step)
        if value is not None and (tag, step) not in self.known:
            self._write(
                Event(wall_time=at, step=step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)]))
            )
            self.known.add((tag, step))

    def add_plugin(self, tag: str, content: HParamsPluginData, *, at: float) -> None:
        """What the HPARAMS tab reads, unless it is there."""
        if (tag, 0) not in self.known:
            data = SummaryMetadata.PluginData(plugin_name="hparams", content=content.SerializeToString())
            value = Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=data))
            self._write(Event(wall_time=at, step=0, summary=Summary(value=[value])))
            self.known.add((tag, 0))

    def store(self) -> None:
        """Gives to the disk what was written, and closes the file."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.close()

    def close(self) -> None:
        """Closes the file; what it cannot take is written again later."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _write(self, event: Event) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            if self._file.tell() == 0:
                RecordWriter(self._file).write(
                    Event(wall_time=event.wall_time, file_version=_FILE_VERSION).SerializeToString()
                )
        RecordWriter(self._file).write(event.SerializeToString())


def _events(path: Path) -> Iterator[tuple[Event, int]]:
    """The whole events of a file, each with the byte behind it."""
    reader, end = PyRecordReader_New(str(path)), 0
    try:
        while True:
            try:
                reader.GetNext()
            except (DataLossError, OutOfRangeError):
                return
            record = reader.record()
            end += len(record) + _FRAME_BYTES
            yield Event.FromString(record), end
    finally:
        reader.file_handle.close()


_FRAME_BYTES = 8 + 4 + 4  # a record's length and the two checksums


def _write(run: _Run, job: Tracked, event: EventView) -> None:
    at = event.at.timestamp()
    match event.kind:
        case EventKind.ATTEMPT_STARTED:
            _begin(run, job, event, at=at)
        case EventKind.TRIAL_EPOCH if event.epoch is not None:
            run.add(VALIDATION, event.validation_accuracy, step=event.epoch, at=at)
            for name, value in (event.measures or {}).items():
                run.add(TAGS.get(name, name), value, step=event.epoch, at=at)
        case EventKind.TRIAL_ENDED:
            run.add(FINAL_VALIDATION, event.validation_accuracy, step=run.last_step, at=at)
            went_well = event.state in (TrialState.COMPLETE, TrialState.PRUNED)
            end = SessionEndInfo(status=STATUS_SUCCESS if went_well else STATUS_FAILURE, end_time_secs=at)
            run.add_plugin(_END, HParamsPluginData(session_end_info=end), at=at)
        case EventKind.JOB_ENDED if job.best is not None and job.best.test is not None:
            run.add(FINAL_TEST, job.best.test.accuracy, step=run.last_step, at=at)


def _begin(run: _Run, job: Tracked, event: EventView, *, at: float) -> None:
    """Names the hyperparameters of a trial, with what tells it from trials of other jobs."""
    spec, start = job.spec, SessionStartInfo(start_time_secs=at, group_name=f"{job.id} {run.path.parent.name}")
    infos = []
    for name, number in (event.params or {}).items():
        start.hparams[name].number_value = number
        infos.append(HParamInfo(name=name, type=DATA_TYPE_FLOAT64))
    for name, text in (
        ("job", job.id),
        ("model", spec.model.name),
        ("data", spec.data.name),
        ("method", spec.search.method),
    ):
        start.hparams[name].string_value = text
        infos.append(HParamInfo(name=name, type=DATA_TYPE_STRING))
    metrics = [MetricInfo(name=MetricName(tag=tag)) for tag in (FINAL_VALIDATION, FINAL_TEST, VALIDATION)]
    run.add_plugin(
        _EXPERIMENT, HParamsPluginData(experiment=Experiment(hparam_infos=infos, metric_infos=metrics)), at=at
    )
    run.add_plugin(_START, HParamsPluginData(session_start_info=start), at=at)
