"""Several servers on one PostgreSQL database: one dispatches, the others answer and stand by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from byhand import put
from optuna.trial import TrialState
from sqlalchemy import update

from fixnorm_core.spec import JobSpec
from service.composition import Service, build
from service.database.rows import AttemptRow, AttemptState, JobRow, LeaseRow
from service.jobs import repository
from service.jobs.changes import change
from service.jobs.verbs import PAUSE, STOP, ask
from service.schemas import TERMINAL_STATES, BudgetChange, JobChange, JobState
from service.settings import BackendName, Settings
from service.studies.studies import AskedTrial, StudyHandle
from worker.contracts import Resources, Task
from worker.recording import Recording
from worker.simulator import SimulatorBackend


class Counting(SimulatorBackend):
    """Knows what it was told to start."""

    def __init__(self) -> None:
        super().__init__(Recording.packaged())
        self.started: list[str] = []

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        self.started.append(task.attempt_id)
        super().start(task, resources, nodes)


@pytest.fixture
def backends() -> tuple[Counting, Counting]:
    return Counting(), Counting()


@pytest.fixture
def servers(
    postgres_url: str, tmp_path: Path, backends: tuple[Counting, Counting]
) -> Iterator[tuple[Service, Service]]:
    """Two servers with the same state folder, whose dispatchers are moved by hand."""
    settings = Settings(
        state_dir=tmp_path / "state",
        database_url=postgres_url,
        backend=BackendName.SIMULATOR,
        lease_seconds=3600,
    )
    with ExitStack() as stack:
        built = [build(settings, backend=backend) for backend in backends]
        for service in built:
            stack.callback(service.close)
        yield built[0], built[1]


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 4, "confirm_runs": 1, "stop_early": False}})


def run_out(service: Service) -> None:
    """Lets the lease end, as if its holder were suspended or cut off for long enough."""
    with service.runtime.database.write.begin() as session:
        session.execute(update(LeaseRow).values(ends_at=datetime.now(UTC) - timedelta(minutes=1)))


def find(service: Service, job_id: str) -> JobRow:
    with service.runtime.database.read() as session:
        job = repository.find_job(session, job_id)
    assert job is not None
    return job


def attempts(service: Service, job_id: str) -> list[AttemptRow]:
    with service.runtime.database.read() as session:
        return list(repository.attempts_of(session, [job_id]))


def run_to_end(service: Service, job_id: str) -> JobRow:
    for _ in range(1000):
        service.dispatcher.tick()
        if (job := find(service, job_id)).state in TERMINAL_STATES:
            return job
    raise AssertionError(f"{job_id} did not end")


def test_one_of_two_dispatches_a_job_that_the_other_was_sent(
    servers: tuple[Service, Service], backends: tuple[Counting, Counting], spec: JobSpec
) -> None:
    leader, standby = servers
    leader.dispatcher.tick()
    job_id = put(standby, spec)
    for _ in range(3):
        standby.dispatcher.tick()
    assert find(leader, job_id).state == JobState.QUEUED
    leader.dispatcher._look()  # what its thread does twice a second
    assert run_to_end(leader, job_id).state == JobState.SUCCEEDED
    assert backends[1].started == []
    assert (leader.runtime.leads(), standby.runtime.leads()) == (True, False)
    assert find(standby, job_id).result is not None  # the other one can answer for it


def test_a_verb_works_through_the_server_that_does_not_dispatch(
    servers: tuple[Service, Service], spec: JobSpec
) -> None:
    leader, standby = servers
    job_id = put(leader, spec)
    leader.dispatcher.tick()
    leader.dispatcher._look()
    ask(PAUSE, job_id, database=standby.runtime.database, now=standby.runtime.now())
    for _ in range(30):
        leader.dispatcher.tick()
    assert (find(leader, job_id).state, len(attempts(leader, job_id))) == (JobState.PAUSED, 1)
    ask(STOP, job_id, database=standby.runtime.database, now=standby.runtime.now())
    leader.dispatcher._look_at = 0.0  # half a second later
    leader.dispatcher._look()
    job = run_to_end(leader, job_id)
    assert (job.state, job.stop_reason) == (JobState.SUCCEEDED, "stopped by request")


def test_what_the_other_server_was_asked_to_change_holds_from_the_next_decision_on_and_no_later_than_the_next_look(
    servers: tuple[Service, Service],
    backends: tuple[Counting, Counting],
    spec: JobSpec,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parallel(trials: int) -> None:
        change(job_id, JobChange(budget=BudgetChange(parallel_trials=trials)), database=standby.runtime.database)

    leader, standby = servers
    backends[0].epoch_seconds = 3600
    job_id = put(leader, spec.model_copy(update={"budget": spec.budget.model_copy(update={"max_trials": 9})}))
    leader.dispatcher.tick()
    assert len(backends[0].started) == 1
    parallel(2)
    leader.dispatcher.tick()
    assert len(backends[0].started) == 1  # nothing has told it yet
    leader.dispatcher._look_at = 0.0
    leader.dispatcher._look()  # what its thread does twice a second
    leader.dispatcher.tick()
    assert len(backends[0].started) == 2
    parallel(3)
    leader.dispatcher.wake()  # anything else that has it decide
    leader.dispatcher.tick()
    assert len(backends[0].started) == 3

    asks = StudyHandle.ask

    def change_meanwhile(study: StudyHandle) -> AskedTrial:
        parallel(3)
        return asks(study)

    parallel(4)
    with monkeypatch.context() as patched:
        patched.setattr(StudyHandle, "ask", change_meanwhile)
        leader.dispatcher.wake()
        leader.dispatcher.tick()
    assert len(backends[0].started) == 3  # decided under terms that hold no more
    leader.dispatcher.tick()
    assert len(backends[0].started) == 3
    parallel(4)
    leader.dispatcher.wake()
    leader.dispatcher.tick()
    assert len(backends[0].started) == 4
    trials = leader.runtime.trials(find(leader, job_id))
    assert [trial.number for trial in trials] == [0, 1, 2, 3]  # the point that was asked for is not lost


def test_another_takes_over_from_one_that_was_cut_off_and_whose_late_results_are_refused(
    servers: tuple[Service, Service],
    backends: tuple[Counting, Counting],
    spec: JobSpec,
    capfd: pytest.CaptureFixture[str],
) -> None:
    first, second = servers
    job_id = put(first, spec)
    for _ in range(4):
        first.dispatcher.tick()
    (interrupted,) = first.dispatcher._attempts.live
    run_out(second)
    second.dispatcher.tick()
    assert second.runtime.leads()
    for _ in range(30):  # it goes on as if nothing had happened, and its trial would end
        first.dispatcher.tick()
    assert not first.runtime.leads()
    assert backends[0]._replays == {}  # nothing runs here any more
    lost = {row.id: row for row in attempts(second, job_id)}[interrupted]
    assert (lost.state, lost.result) == (AttemptState.LOST, None)
    assert "dispatch.stood_down" in capfd.readouterr().err

    assert run_to_end(second, job_id).state == JobState.SUCCEEDED
    for _ in range(5):
        first.dispatcher.tick()
    trials = second.runtime.trials(find(second, job_id))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * spec.budget.max_trials
    complete = [row for row in attempts(second, job_id) if row.state == AttemptState.COMPLETE and row.kind == "train"]
    assert sorted(row.trial_number for row in complete) == list(range(spec.budget.max_trials))
    assert not set(backends[0].started) & {row.id for row in complete if row.lease != lost.lease}


def test_a_server_that_stops_hands_over_at_once_and_the_points_are_those_of_an_undisturbed_job(
    servers: tuple[Service, Service], spec: JobSpec
) -> None:
    first, second = servers
    undisturbed = put(first, spec)
    run_to_end(first, undisturbed)
    job_id = put(first, spec)
    for _ in range(13):
        first.dispatcher.tick()
    second.dispatcher.tick()
    assert not second.runtime.leads()
    first.dispatcher.close()
    assert run_to_end(second, job_id).state == JobState.SUCCEEDED
    points = [[trial.params for trial in second.runtime.trials(find(second, each))] for each in (undisturbed, job_id)]
    assert points[0] == points[1]


def test_a_result_that_comes_after_another_server_gave_its_attempt_up_is_refused_and_said_to_be(
    servers: tuple[Service, Service],
    backends: tuple[Counting, Counting],
    spec: JobSpec,
    capfd: pytest.CaptureFixture[str],
) -> None:
    leader, _ = servers
    job_id = put(leader, spec)
    leader.dispatcher.tick()
    (late,) = leader.dispatcher._attempts.live
    with leader.runtime.database.write.begin() as session:
        given_up = update(AttemptRow).where(AttemptRow.id == late)
        session.execute(given_up.values(state=AttemptState.LOST, lease="another's", reason="given up"))
    assert run_to_end(leader, job_id).state == JobState.SUCCEEDED
    rows = {row.id: row for row in attempts(leader, job_id)}
    assert (rows[late].state, rows[late].result) == (AttemptState.LOST, None)
    assert rows[f"{job_id}.0.2"].state == AttemptState.COMPLETE
    told = [line for line in capfd.readouterr().err.splitlines() if "attempt.news_refused" in line]
    assert len(told) == 1
    assert "it is LOST: given up" in told[0]
    trials = leader.runtime.trials(find(leader, job_id))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * spec.budget.max_trials
