"""The studies of all jobs, as the dispatcher uses them: ask, report, tell.

One sampler per study, and one caller: the dispatcher's thread. Every method may be repeated after a crash between it
and what follows; a trial that is finished already is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import optuna
import plotly.io
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard import save_note, save_plotly_graph_object
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.errors import FixNormError
from fixnorm_core.reports import EpochReport, TrialOutcome, TrialResult
from fixnorm_core.spec import JobSpec, PrunerName, SamplerName
from fixnorm_core.tuning.attributes import CLASSES, CONFIRM, DIVERGED, KIND, PRUNED_BECAUSE, RETRIES, SEED, TRAIN_LOSS
from fixnorm_core.tuning.choice import build_pruner, build_sampler, first_point, search_space
from fixnorm_core.tuning.recommend import Point, complete_points, point_of
from fixnorm_core.tuning.sampler import FixNormSampler
from service.studies.mirror import Mirror

__all__ = ["AskedTrial", "SamplerFailed", "Studies", "StudyHandle", "trial_seed"]


class SamplerFailed(FixNormError):
    """A sampler raised instead of proposing a point."""

    code = "sampler_failed"


@dataclass(frozen=True, slots=True)
class AskedTrial:
    """A trial that is to be trained."""

    number: int
    params: dict[str, float]
    seed: int


@dataclass(slots=True)
class StudyHandle:
    """One job's study with its sampler and space. Nobody else writes to the study while this is open."""

    study: optuna.Study
    storage: Mirror
    spec: JobSpec
    sampler: BaseSampler
    space: dict[str, BaseDistribution]

    @property
    def id(self) -> int:
        """Optuna's number of the study; the dashboard's address of it ends with this."""
        return self.study._study_id

    def trials(self) -> Sequence[FrozenTrial]:
        """All trials, by number."""
        return self.storage.get_all_trials(self.id, deepcopy=False)

    def stop_reason(self) -> str | None:
        """Why the sampler expects no gain worth a trial; None while it does, or when it cannot tell."""
        if not isinstance(self.sampler, FixNormSampler):
            return None
        return self.sampler.stop_reason(self.study, tolerance=self.spec.budget.tolerance)

    def expected(self) -> dict[Point, float] | None:
        """The accuracy that the sampler expects at each point that can be recommended; None when it cannot tell."""
        if not isinstance(self.sampler, FixNormSampler):
            return None
        points = complete_points(self.trials())
        means = self.sampler.expected(self.study, points) if points else ()
        return {point_of(point): mean for point, mean in zip(points, means, strict=True)}

    def ask(self) -> AskedTrial:
        """The next point to train: a trial that is stored with its point and its seed, or not at all.

        Raises:
            SamplerFailed: If the sampler raised.
        """
        try:
            if any(trial.state is TrialState.WAITING for trial in self.trials()):
                return self.complete(self.study.ask()._trial_id)
            return self._draw(lambda: self.study.ask()._trial_id)
        except (SQLAlchemyError, StorageInternalError):
            raise  # the database's fault, and not the sampler's: what is stored is taken up later
        except Exception as error:
            raise SamplerFailed(
                f"sampler {self.spec.search.sampler} raised {type(error).__name__}: {error}",
                "Choose another with search.sampler",
            ) from error

    def ask_confirming(self, params: dict[str, float]) -> AskedTrial:
        """Another run of a point, with a new seed."""
        return self._ask_at(params, {KIND: CONFIRM})

    def ask_again(self, number: int) -> AskedTrial:
        """Another try at the point of a failed trial, which Optuna has finished for good: a new trial and seed."""
        return self._ask_at(self.trials()[number].params, {RETRIES: number})

    def complete(self, trial_id: int) -> AskedTrial:
        """Gives a RUNNING trial what it still lacks: its point and its seed, or what a crash left out of them.

        A suggestion of FixNormSampler is a function of history, seed and trial number, so a repeated one is the same.
        """
        trial = optuna.trial.Trial(self.study, trial_id)
        point = {}
        for knob, distribution in self.space.items():
            assert isinstance(distribution, FloatDistribution)
            point[knob] = trial.suggest_float(knob, distribution.low, distribution.high, log=distribution.log)
        seed = trial_seed(self.spec.seed, trial.number)
        if trial.user_attrs.get(SEED) != seed:
            trial.set_user_attr(SEED, seed)
        return AskedTrial(trial.number, point, seed)

    def resume(self, number: int) -> AskedTrial:
        """A trial that was asked for before, to be trained on or evaluated."""
        trial = self.trials()[number]
        if trial.state.is_finished():
            return AskedTrial(number, dict(trial.params), trial.user_attrs[SEED])
        return self.complete(trial._trial_id)

    def report(self, number: int, reports: Sequence[EpochReport]) -> None:
        """Stores validation accuracies as intermediate values; step n is after epoch n."""
        trial = self.trials()[number]
        if trial.state.is_finished():
            return
        values = {report.epoch: report.validation_accuracy for report in reports}
        for epoch, value in values.items():
            self.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
        if self.spec.search.pruner is not PrunerName.NONE:
            self._note_for_the_pruner(trial, reports)

    def reason_to_prune(self, number: int) -> str | None:
        """Why a running trial should be stopped now, as a sentence; None while it should go on.

        The answer is noted with the trial, so a trial that was to be stopped before a crash is to be stopped after it.
        """
        trial = self.trials()[number]
        if trial.state.is_finished():
            return None
        if PRUNED_BECAUSE not in trial.user_attrs and not self.study.pruner.prune(self.study, trial):
            return None
        return str(self.trials()[number].user_attrs[PRUNED_BECAUSE])

    def tell(self, number: int, result: TrialResult) -> None:
        """Stores a result; a second one changes nothing."""
        trial = self.trials()[number]
        if trial.state.is_finished():
            return
        with _told_before():
            if result.outcome is TrialOutcome.DIVERGED:
                self.storage.set_trial_user_attr(trial._trial_id, DIVERGED, True)
            self.study.tell(number, result.validation_accuracy, skip_if_finished=True)

    def tell_pruned(self, number: int) -> None:
        """Ends a trial that was stopped early; its value is then its last epoch's."""
        with _told_before():
            self.study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)

    def tell_failed(self, number: int) -> None:
        """Ends a trial without a result."""
        with _told_before():
            self.study.tell(number, state=TrialState.FAIL, skip_if_finished=True)

    def show(self, chart: dict[str, Any]) -> None:
        """Has the dashboard show the surface of the study; a second time replaces it.

        Args:
            chart: Plotly's data and layout.
        """
        save_plotly_graph_object(self.study, _Drawing(chart), graph_object_id=_SURFACE)

    def end_open_trials(self) -> None:
        """Ends every trial that has not finished: nothing of an ended job stays RUNNING or WAITING."""
        self.storage.forget(self.id)  # a server that was suspended may have written one by now
        for trial in self.trials():
            if not trial.state.is_finished():
                self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _ask_at(self, params: dict[str, float], notes: dict[str, Any]) -> AskedTrial:
        # In one write: a crash after an enqueue would leave a trial that is taken for one of another kind
        trial = create_trial(state=TrialState.RUNNING, user_attrs=notes, system_attrs={"fixed_params": dict(params)})
        return self._draw(lambda: self.storage.create_new_trial(self.id, template_trial=trial))

    def _draw(self, create: Callable[[], int]) -> AskedTrial:
        """Creates and completes a trial in one transaction."""
        with self.storage.drafting(self.id) as draft:
            asked = self.complete(create())
        if draft.number == asked.number:
            return asked
        # A server that was suspended has created one meanwhile, and a point depends on how many there are
        self.tell_failed(draft.number)
        return self._draw(create)

    def _note_for_the_pruner(self, trial: FrozenTrial, reports: Sequence[EpochReport]) -> None:
        known = list(trial.user_attrs.get(TRAIN_LOSS, ()))
        for report in reports:  # a resumed trial tells its first epochs again
            known[report.epoch - 1 : report.epoch] = [report.train_loss]
        notes = {TRAIN_LOSS: known, CLASSES: reports[-1].classes}
        for name, value in notes.items():
            if trial.user_attrs.get(name) != value:
                self.storage.set_trial_user_attr(trial._trial_id, name, value)


@dataclass(frozen=True, slots=True)
class _Drawing:
    """All that the dashboard asks of a figure. Plotly's own checks each value, which takes longer than drawing it."""

    chart: dict[str, Any]

    def to_json(self) -> str:
        """Data and layout."""
        title = {"text": "Expected accuracy, and the trials"}
        layout = {"template": plotly.io.templates["plotly"], "title": title, **self.chart["layout"]}
        return str(plotly.io.json.to_json_plotly({"data": self.chart["data"], "layout": layout}))


def _told_before() -> suppress:
    """A server that was suspended may have ended the trial, after its time was over."""
    return suppress(UpdateFinishedTrialError)


@dataclass(slots=True)
class Studies:
    """Opens each job's study once."""

    storage: Mirror
    _open: dict[str, StudyHandle] = field(default_factory=dict, init=False)

    def open(self, job_id: str, spec: JobSpec) -> StudyHandle:
        """The job's study, created at the first call."""
        if job_id not in self._open:
            self._open[job_id] = self._load_or_create(job_id, spec)
        return self._open[job_id]

    def find(self, job_id: str) -> StudyHandle | None:
        """The job's study, if it is open."""
        return self._open.get(job_id)

    def forget(self, job_id: str) -> None:
        """Frees what is kept for a job that has ended."""
        if (study := self._open.pop(job_id, None)) is not None:
            self.storage.forget(study.id)

    def forget_all(self) -> None:
        """Frees everything: another server goes on with these studies, and knows more of them."""
        self._open.clear()
        self.storage.forget_all()

    def _load_or_create(self, job_id: str, spec: JobSpec) -> StudyHandle:
        study = optuna.create_study(study_name=job_id, storage=self.storage, direction="maximize", load_if_exists=True)
        # Optuna's samplers draw from a stream that a restart would begin again; ours looks at the trial's number.
        is_ours = spec.search.sampler is SamplerName.FIXNORM
        seed = spec.seed if is_ours else trial_seed(spec.seed, len(study.get_trials(deepcopy=False)))
        _note_the_job(study)
        sampler = build_sampler(spec.search, training=spec.training, seed=seed)
        study.sampler = sampler
        study.pruner = build_pruner(spec.search, training=spec.training)
        handle = StudyHandle(study, self.storage, spec, sampler, search_space(spec.search))
        start = first_point(spec.search, training=spec.training)
        if start is not None and not isinstance(sampler, FixNormSampler):
            # FixNormSampler tries its start by itself; enqueue for the others, once over restarts.
            study.enqueue_trial(start, skip_if_exists=True)
        return handle


def _note_the_job(study: optuna.Study) -> None:
    """Has the dashboard's page of the study lead to the job's own page; a note that is there stays as it is."""
    attributes = study._storage.get_study_system_attrs(study._study_id)
    if not any(name.startswith(_NOTE_PREFIX) for name in attributes):
        job = study.study_name
        save_note(study, f"Job [{job}](/jobs/{job}): its state, best point, recipe and files are on that page.")


_SURFACE = "fixnorm-surface"
_NOTE_PREFIX = "dashboard:note"  # the names of optuna-dashboard's attributes begin like this


def trial_seed(job_seed: int, number: int) -> int:
    """The seed of a trial: different for every trial of every job, and the same after a restart."""
    digest = hashlib.sha256(f"{job_seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4]) & 0x7FFFFFFF
