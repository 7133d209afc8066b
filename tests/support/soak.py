"""Many simulated jobs on servers that follow each other on one database, each of which dies at any moment.

The database fails, workers are lost, trials crash and diverge; users pause, resume, extend, retry, stop and cancel.
After every step of the dispatcher all that it has changed is checked (:mod:`journal`).
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import optuna
import pytest
from byhand import put, run_to_end, server, trials
from faults import Crash, Faults
from journal import Journal
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.reports import TrialOutcome
from fixnorm_core.spec import BudgetSpec, JobSpec, PrunerName, SamplerName, ShareSpec
from service import composition, opening
from service.composition import Service, build
from service.jobs import repository
from service.jobs.reopening import extend, retry
from service.jobs.verbs import PAUSE, RESUME, STOP, Verb, ask
from service.problems import VerbImpossible
from service.schemas import TERMINAL_STATES, JobState
from service.settings import BackendName, Settings
from worker.contracts import Failed, FailureKind, Resources, Task, Trained, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

__all__ = ["Outcome", "Plan", "run"]

_EPOCHS = 3
_SLOTS = 8
_CALM_TRIALS = 6
Told = list[tuple[dict[str, float], str, float | None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything.

    Attributes:
        jobs: In all.
        trials: Of each job, but for those that FixNormSampler drives, which get six; the others get more for it.
        at_once: So many jobs at most have not ended at a time.
        crash: The chance that the server dies at a statement or a commit.
        error: The chance that the database fails there.
        rounds: Whether jobs are extended and retried as well, while they run and after they have ended.
    """

    jobs: int
    trials: int
    at_once: int
    crash: float
    error: float
    rounds: bool = False

    def spec(self, number: int, recording: Recording) -> JobSpec:
        """Of one of its jobs. Every fifth is calm: it must end as if nothing had happened."""
        calm = number % 5 == 0
        rest = (5 * self.trials - _CALM_TRIALS) // 4
        budget = BudgetSpec(
            max_trials=_CALM_TRIALS if calm else rest,
            confirm_runs=1 if calm else number % 2,
            parallel_trials=1 if calm else 1 + number % 3,
            stop_early=False,
            max_failures=1000,
        )
        pruner = PrunerName.CURVE if number % 5 == 1 else PrunerName.NONE
        sampler = SamplerName.FIXNORM if calm else SamplerName.RANDOM
        search = recording.job.search.model_copy(update={"sampler": sampler, "pruner": pruner})
        share = ShareSpec(weight=1.0 + number % 4, priority=int(number % 7 == 0))
        changes = {"search": search, "budget": budget, "share": share, "seed": 0 if calm else number}
        return recording.job.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What has happened in a run whose every change was found right.

    Attributes:
        ended: How many jobs have ended.
        results: How many trials were charged to their budgets.
        struck: How often what went wrong.
        restarts: How often a server died and another followed.
        checked: How many committed changes were looked at.
        words: All of it and more, for a person.
    """

    ended: int
    results: int
    struck: Mapping[str, int]
    restarts: int
    checked: int
    words: str


def run(folder: Path, *, plan: Plan, seed: int, url: str | None = None) -> Outcome:
    """Runs a plan to its end.

    Args:
        folder: An empty one.
        plan: What.
        seed: Of everything that goes wrong.
        url: An empty PostgreSQL database; None takes SQLite.

    Raises:
        AssertionError: If anything happened that must not.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    recording = _shortened(Recording.packaged())
    undisturbed = _undisturbed(folder / "undisturbed", plan.spec(0, recording), recording)
    with pytest.MonkeyPatch.context() as patched:
        soak = _Soak(folder / "soak", url, recording, plan, seed, patched)
        with soak.faults.installed():
            soak.run()
            soak.check(undisturbed)
        soak.close()
    return soak.outcome


class _Unreliable(SimulatorBackend):
    """Loses workers, lets trials crash and diverge, and tells some news twice, or long after it was news."""

    def __init__(self, recording: Recording, random: Random, stale: list[Update], calm: set[str]) -> None:
        super().__init__(recording, total=Resources(cpus=float(_SLOTS), gpus=0.0))
        self.random = random
        self.stale = stale  # what other backends have told, before their server died too
        self.calm = calm

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        if self.random.random() < 0.03:
            raise ConnectionError("no such cluster")
        super().start(task, resources, nodes)

    def poll(self) -> list[Update]:
        fetched = super().poll()
        befallen = [self._befallen(update) for update in fetched]
        self._told[len(self._told) - len(fetched) :] = befallen  # what a server that adopts is told again
        news = []
        for update in befallen:
            news.append(update)
            if self.random.random() < 0.05:
                news.append(update)
        self.stale.extend(news)
        if self.stale and self.random.random() < 0.1:
            news.append(self.random.choice(self.stale))
        return news

    def _befallen(self, update: Update) -> Update:
        if update.attempt_id.split(".")[0] in self.calm:
            return update
        die = self.random.random()
        if update.outcome is None:
            if die < 0.02 and self._replays.pop(update.attempt_id, None) is not None:
                return Update(update.attempt_id, update.reports, Failed(FailureKind.RETRYABLE, "the worker was lost"))
        elif isinstance(update.outcome, Trained):
            if die < 0.02:
                return Update(update.attempt_id, update.reports, Failed(FailureKind.CRASHED, "it crashed"))
            if die < 0.05:
                result = update.outcome.result.model_copy(update={"outcome": TrialOutcome.DIVERGED})
                return Update(update.attempt_id, update.reports, Trained(result))
        return update


class _Soak:
    def __init__(
        self, folder: Path, url: str | None, recording: Recording, plan: Plan, seed: int, patched: pytest.MonkeyPatch
    ) -> None:
        self.plan = plan
        self.random = Random(seed)
        self.settings = Settings(state_dir=folder, database_url=url, backend=BackendName.SIMULATOR, retry_seconds=0)
        self.faults = Faults(self.random, crash=plan.crash, error=plan.error)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.recording = recording
        self.stale: list[Update] = []
        self.calm: set[str] = set()
        self.specs: dict[str, JobSpec] = {}
        self.asked: Counter[str] = Counter()
        self.ended_by_hand: set[str] = set()
        self.more: Counter[str] = Counter()
        self.restarts = 0
        self.backend: _Unreliable | None = None
        # A process that dies lets go of its files; this one lives on
        patched.setattr(opening, "_lock", lambda _settings: None)
        lease = composition.Lease
        patched.setattr(composition, "Lease", lambda *args, **options: lease(*args, **(options | {"alone": True})))
        self.service = self._build()
        self.journal = Journal(self.settings.url)

    @property
    def outcome(self) -> Outcome:
        states = Counter(self.journal.state(job_id) for job_id in self.specs)
        results = sum(len(self.journal.taken(job_id)) for job_id in self.specs)
        words = (
            f"{len(self.specs)} jobs { {str(state): count for state, count in states.items()} }, {results} results, "
            f"{self.restarts} restarts, {self.faults.struck}, asked {dict(self.asked)}, "
            f"{self.journal.changes} changes checked"
        )
        ended = sum(count for state, count in states.items() if state in TERMINAL_STATES)
        return Outcome(ended, results, self.faults.struck, self.restarts, self.journal.changes, words)

    def run(self) -> None:
        waiting: list[str] = []
        for _ in range(500 * self.plan.jobs * self.plan.trials):
            while len(waiting) < self.plan.at_once and len(self.specs) < self.plan.jobs:
                waiting.append(self._submit())
            if not waiting:
                return
            self._tick()
            self._ask_something(waiting)
            if self.plan.rounds and self.random.random() < 2.0 / self.plan.trials:
                self._ask_for_more()
                waiting = list(self.specs)
            waiting = [job_id for job_id in waiting if self.journal.state(job_id) not in TERMINAL_STATES]
        raise AssertionError(f"jobs that did not end: {waiting}")

    def check(self, undisturbed: Told) -> None:
        """What must be so in the end."""
        assert self.journal.left_open() == []
        for job_id, spec in self.specs.items():
            told = self.journal.told(job_id)
            finished = {number: state for number, (state, _) in told.items() if state in ("COMPLETE", "PRUNED")}
            assert finished == self.journal.taken(job_id), job_id
            state = self.journal.state(job_id)
            if job_id in self.ended_by_hand:
                assert state in (JobState.SUCCEEDED, JobState.CANCELLED), f"{job_id} is {state}"
            else:
                assert state is JobState.SUCCEEDED, f"{job_id} is {state}"
                # The point that was confirmed may stay the best
                spare = spec.budget.confirming_trials if self.more[job_id] else 0
                most = spec.budget.max_trials + self.more[job_id]
                assert most - spare <= len(finished) <= most, job_id
            if job_id in self.calm - self.ended_by_hand:
                assert _told(self.service, job_id) == undisturbed, job_id

    def close(self) -> None:
        self.journal.close()
        self.service.close()

    def _submit(self) -> str:
        number = len(self.specs)
        spec = self.plan.spec(number, self.recording)
        job_id = put(self.service, spec)
        self.journal.expect(job_id, max_trials=spec.budget.max_trials)
        self.specs[job_id] = spec
        if spec.search.sampler is SamplerName.FIXNORM:
            self.calm.add(job_id)
        return job_id

    def _tick(self) -> None:
        """One look of the dispatcher, come what may; then everything that it has changed is checked."""
        dispatcher, failed = self.service.dispatcher, False
        self.faults.on = True
        try:
            dispatcher.tick()
        except (SQLAlchemyError, StorageInternalError):
            failed = True
        except Crash:
            self.faults.on = False
            self.restarts += 1
            self._drop()
            self.service = self._build()
            failed = True
        self.faults.on = False
        self.journal.look()
        if failed:
            return
        live = dispatcher._attempts.live
        stored = self.journal.live()
        assert stored == set(live), f"stored alone: {stored - set(live)}, known alone: {set(live) - stored}"
        # One that ends a trial which nothing trains, because its pruner would stop it, holds nothing
        assert Resources.together(attempt.resources for attempt in live.values()).cpus <= _SLOTS
        for job_id, count in Counter(attempt.job_id for attempt in live.values()).items():
            assert count <= self.specs[job_id].budget.parallel_trials, f"{count} attempts of {job_id} run"

    def _ask_something(self, waiting: list[str]) -> None:
        """Has a user pause, resume, stop or cancel some job now and then. A paused one is resumed in the end."""
        paused = [job_id for job_id in waiting if self.journal.state(job_id) is JobState.PAUSED]
        if paused and (len(paused) == len(waiting) or self.random.random() < 0.1):
            self._ask(self.random.choice(paused), RESUME, "resume")
        if self.random.random() >= 1.0 / self.plan.trials:
            return
        job_id = self.random.choice(waiting)
        if self.random.random() < 0.6:
            self._ask(job_id, PAUSE, "pause")
        elif len(self.ended_by_hand) < self.plan.jobs / 5:
            self.ended_by_hand.add(job_id)
            if self.random.random() < 0.5:
                self._ask(job_id, STOP, "stop")
            else:
                self.asked["cancel"] += 1
                with self.service.runtime.database.write.begin() as session:
                    repository.request_cancel(session, job_id)
                self.service.dispatcher.wake()

    def _ask_for_more(self) -> None:
        """Extends some job, so that all do with at most twice their trials, or has what failed of it tried again."""
        runtime = self.service.runtime
        job_id = self.random.choice([job_id for job_id in self.specs if job_id not in self.calm])  # a seed's order
        count = min(1 + self.random.randrange(3), self.specs[job_id].budget.max_trials - self.more[job_id])
        try:
            if count > 0 and self.random.random() < 0.7:
                before = self.journal.state(job_id)
                self.journal.expect_more(job_id, count)
                extend(job_id, count, database=runtime.database, key=None, now=self.now)
                self.more[job_id] += count
                self.asked[f"extend {before}"] += 1
            else:
                retry(job_id, database=runtime.database, trials=runtime.trials, now=self.now)
                self.asked["retry"] += 1
        except VerbImpossible:
            self.asked["more in vain"] += 1
        self.service.dispatcher.wake()
        self.journal.look()

    def _ask(self, job_id: str, verb: Verb, name: str) -> None:
        try:
            ask(verb, job_id, database=self.service.runtime.database, now=self.service.runtime.now())
        except VerbImpossible:
            name = f"{name} in vain"
        self.asked[name] += 1
        self.service.dispatcher.wake()
        self.journal.look()

    def _build(self) -> Service:
        if self.backend is None or self.random.random() < 0.5:  # else what runs outlives its server, and is adopted
            self.backend = _Unreliable(self.recording, self.random, self.stale, self.calm)
        return build(self.settings, backend=self.backend, now=self._later)

    def _later(self) -> datetime:
        self.now += timedelta(milliseconds=1)
        return self.now

    def _drop(self) -> None:
        """As a kill would: connections are cut, and nobody says goodbye."""
        service = self.service
        for storage in (service.dispatcher.studies.storage, service.runtime.storage):
            composition.close_storage(storage)
        service.runtime.database.close()
        gc.collect()


def _undisturbed(folder: Path, spec: JobSpec, recording: Recording) -> Told:
    backend = SimulatorBackend(recording, total=Resources(cpus=1.0, gpus=0.0))
    with server(Settings(state_dir=folder, backend=BackendName.SIMULATOR), backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        return _told(service, job_id)


def _told(service: Service, job_id: str) -> Told:
    return [(trial.params, trial.state.name, trial.value) for trial in trials(service, job_id)]


def _shortened(recording: Recording) -> Recording:
    """Its first epochs: what the service does for an epoch is the same for each."""
    names = ("validation_accuracy", "validation_loss", "train_loss", "train_accuracy", "head_norm")
    runs = [run.model_copy(update={name: getattr(run, name)[:_EPOCHS] for name in names}) for run in recording.runs]
    training = recording.job.training.model_copy(update={"epochs": _EPOCHS})
    job = recording.job.model_copy(update={"training": training})
    return recording.model_copy(update={"runs": tuple(runs), "job": job})
