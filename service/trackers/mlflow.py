"""MLflow: a run for each job, with a run for each of its trials below it.

Whatever was killed when, nothing is there twice: runs are found again by their tags, and MLflow's databases keep one of
several metrics that are the same in name, step, time and value, which are those of the event.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from service.events.schemas import EventKind, EventView
from service.schemas import JobState, TrialState
from service.trackers.contracts import Tracked

__all__ = ["JOB_TAG", "TRIAL_TAG", "MlflowFailed", "MlflowTracker"]

JOB_TAG, TRIAL_TAG = "fixnorm_tune.job", "fixnorm_tune.trial"

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nobody is told of jobs but the server that was named
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where each run can be seen
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # who follows the jobs tries again
}
_METRICS_AT_ONCE = 900  # MLflow takes 1,000
_LONGEST_TAG = 5000

_TRIAL_ENDS = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.DIVERGED: "FINISHED",
    TrialState.PRUNED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.CANCELLED: "KILLED",
}
_JOB_ENDS = {JobState.SUCCEEDED: "FINISHED", JobState.FAILED: "FAILED", JobState.CANCELLED: "KILLED"}


class MlflowFailed(Exception):
    """What MLflow raised, without its words: they name the address, with the password in it."""


class MlflowTracker:
    """Tells an MLflow tracking server, or a database of MLflow's."""

    name = "mlflow"

    def __init__(self, uri: str, experiment: str) -> None:
        """Connects when it is told something.

        Args:
            uri: Of the tracking server, as MLflow takes it: ``http://...``, or ``sqlite:///...``.
            experiment: The experiment's name; made if it is missing.
        """
        self._uri, self._experiment = uri, experiment
        self._client: Any = None
        self._experiment_id = ""
        self._runs: dict[str, str] = {}  # ids, by our tag's value

    def tell(self, job: Tracked, events: Sequence[EventView]) -> None:
        """Tells events; when it returns, MLflow has answered.

        Raises:
            MlflowFailed: If MLflow has raised something, and the address may hold a password.
            Exception: Else what it has raised, when its server is away, say.
        """
        try:
            self._tell(job, events)
        except Exception as error:  # the boundary: whatever it was, next time runs and experiment are looked for again
            self._runs.clear()
            self._experiment_id = ""
            if not _may_hold_password(self._uri):
                raise
            code = getattr(error, "error_code", None)
            what = f"{type(error).__name__} ({code})" if code else type(error).__name__
        else:
            return
        raise MlflowFailed(f"{what} at {_shown(self._uri)}")  # out here, so that the cause is told nowhere

    def _tell(self, job: Tracked, events: Sequence[EventView]) -> None:
        self._connect()
        metrics: dict[str, list[Any]] = {}
        for event in events:
            match event.kind:
                case EventKind.JOB_CHANGED:
                    run = self._job(job, event)
                    if event.state == JobState.RUNNING:  # it may have ended before
                        self._client.update_run(run, status="RUNNING")
                case EventKind.ATTEMPT_STARTED if event.task == "train":
                    self._log(self._trial(job, event), params=event.params or {})
                case EventKind.TRIAL_EPOCH if event.epoch is not None:
                    measured = {"validation_accuracy": event.validation_accuracy, **(event.measures or {})}
                    metrics.setdefault(self._trial(job, event), []).extend(self._metrics(event, measured, event.epoch))
                case EventKind.TRIAL_ENDED if event.state is not None:
                    run = self._trial(job, event)
                    self._log(run, metrics.pop(run, ()))
                    self._end_trial(job, event, run)
                case EventKind.JOB_ENDED if event.state is not None:
                    self._end_job(job, event)
        for run, of_run in metrics.items():
            self._log(run, of_run)

    def close(self) -> None:
        """Forgets the runs; they are found again."""
        self._runs.clear()

    def _connect(self) -> None:
        if self._client is None:
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            self._client = import_module("mlflow.tracking").MlflowClient(tracking_uri=self._uri)
        if not self._experiment_id:
            found = self._client.get_experiment_by_name(self._experiment)
            self._experiment_id = (
                found.experiment_id if found is not None else self._client.create_experiment(self._experiment)
            )

    def _job(self, job: Tracked, event: EventView) -> str:
        spec = job.spec
        params = {
            "model": spec.model.name,
            "data": spec.data.name,
            "method": spec.search.method,
            "sampler": spec.search.sampler,
            "epochs": spec.training.epochs,
            "batch_size": spec.training.batch_size,
            "weight_norm": spec.training.weight_norm,
            "seed": spec.seed,
        }
        return self._run(JOB_TAG, job.id, event, name=spec.name, tags={}, params=params, user=spec.share.user)

    def _trial(self, job: Tracked, event: EventView) -> str:
        key = f"{job.id}/{event.trial}"
        if key in self._runs:
            return self._runs[key]
        tags = {"mlflow.parentRunId": self._job(job, event)}
        name = f"trial-{event.trial:04d}"
        return self._run(TRIAL_TAG, key, event, name=name, tags=tags, params={}, user=job.spec.share.user)

    def _run(
        self,
        tag: str,
        key: str,
        event: EventView,
        *,
        name: str,
        tags: Mapping[str, str],
        params: Mapping[str, object],
        user: str | None,
    ) -> str:
        """The run that has a tag; made if there is none."""
        if key in self._runs:
            return self._runs[key]
        found = self._client.search_runs([self._experiment_id], filter_string=f"tags.`{tag}` = '{key}'", max_results=1)
        if found:
            run = str(found[0].info.run_id)
        else:
            all_tags = {**tags, tag: key, "mlflow.user": user or "fixnorm-tune"}
            made = self._client.create_run(
                self._experiment_id, start_time=_milliseconds(event), tags=all_tags, run_name=name
            )
            run = str(made.info.run_id)
        self._log(run, params=params)  # the same once more changes nothing
        self._runs[key] = run
        return run

    def _end_trial(self, job: Tracked, event: EventView, run: str) -> None:
        state = TrialState(event.state or TrialState.FAILED)
        self._tag(run, {"fixnorm_tune.state": state, "fixnorm_tune.reason": event.reason or ""})
        self._client.set_terminated(run, status=_TRIAL_ENDS[state], end_time=_milliseconds(event))
        self._runs.pop(f"{job.id}/{event.trial}", None)

    def _end_job(self, job: Tracked, event: EventView) -> None:
        run, best = self._job(job, event), job.best
        self._tag(run, {"fixnorm_tune.state": event.state or "", "fixnorm_tune.reason": event.reason or ""})
        if best is not None:
            found = {"best_validation_accuracy": best.validation_accuracy, "best_standard_error": best.standard_error}
            if best.test is not None:
                found["test_accuracy"] = best.test.accuracy
                trial = self._trial(job, event.model_copy(update={"trial": best.weights_trial}))
                self._log(trial, self._metrics(event, {"test_accuracy": best.test.accuracy}, job.spec.training.epochs))
                self._runs.pop(f"{job.id}/{best.weights_trial}", None)
            self._log(run, self._metrics(event, found, 0))
            self._tag(run, {f"best.{knob}": f"{value!r}" for knob, value in best.params.items()})
            self._tag(run, {"best.trial": str(best.weights_trial)})
        status = _JOB_ENDS.get(JobState(event.state or JobState.FAILED), "FAILED")
        self._client.set_terminated(run, status=status, end_time=_milliseconds(event))
        self._runs.pop(job.id, None)

    def _metrics(self, event: EventView, values: Mapping[str, float | None], step: int) -> list[Any]:
        metric, at = import_module("mlflow.entities").Metric, _milliseconds(event)
        return [metric(name, value, at, step) for name, value in values.items() if value is not None]

    def _log(self, run: str, metrics: Iterable[Any] = (), params: Mapping[str, object] | None = None) -> None:
        if params:
            param = import_module("mlflow.entities").Param
            self._client.log_batch(run, params=[param(name, str(value)) for name, value in params.items()])
        for some in _batches(list(metrics)):
            self._client.log_batch(run, metrics=some)

    def _tag(self, run: str, tags: Mapping[str, str]) -> None:
        for name, value in tags.items():
            self._client.set_tag(run, name, str(value)[:_LONGEST_TAG])


def _may_hold_password(uri: str) -> bool:
    return "@" in uri or "?" in uri


def _shown(uri: str) -> str:
    """An address without user, password and options; of one in which these cannot be told apart, its scheme alone."""
    scheme, _, rest = uri.partition("://")
    user, _, where = rest.rpartition("@")
    return f"{scheme}://..." if "?" in user else f"{scheme}://{where.partition('?')[0]}"


def _batches(metrics: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (metrics[begin : begin + _METRICS_AT_ONCE] for begin in range(0, len(metrics), _METRICS_AT_ONCE))


def _milliseconds(event: EventView) -> int:
    return int(event.at.timestamp() * 1000)
