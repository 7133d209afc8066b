"""What a server finds when it starts again: nothing is lost, repeated or left running."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from byhand import attempts, points, put, reason_of, restarted, run_to_end, server, trials
from flaky import FlakyBackend, flaky
from optuna.trial import TrialState

from fixnorm_core.spec import JobSpec
from service.composition import build
from service.database.rows import AttemptState
from service.events.records import events_after
from service.jobs import repository
from service.opening import StateFolderInUse
from service.schemas import EventKind, JobState
from service.settings import BackendName, Settings
from worker.contracts import EvaluateTask, Failed, FailureKind, Resources, TrainTask, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

pytestmark = pytest.mark.both_databases


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 5, "confirm_runs": 1, "stop_early": False}})


@pytest.mark.parametrize("ticks", [1, 2, 5, 9, 10, 23])
def test_a_job_goes_on_where_a_stopped_server_left_it_and_suggests_the_same(
    settings: Settings, spec: JobSpec, tmp_path: Path, ticks: int
) -> None:
    with server(settings.model_copy(update={"state_dir": tmp_path / "undisturbed"})) as service:
        undisturbed = put(service, spec)
        assert run_to_end(service, undisturbed) is JobState.SUCCEEDED
        expected = points(service, undisturbed)
    with restarted(settings, spec, ticks=ticks) as (service, job_id):
        assert points(service, job_id) == expected
        assert all(trial.state is TrialState.COMPLETE for trial in trials(service, job_id))


def test_an_interrupted_trial_keeps_its_number_and_its_lost_attempt_is_on_record(
    settings: Settings, spec: JobSpec
) -> None:
    with server(settings) as service:
        job_id = put(service, spec)
        for _ in range(3):
            service.dispatcher.tick()
    with server(settings) as service:
        service.dispatcher.recover()
        run_to_end(service, job_id)
        with service.runtime.database.read() as session:
            attempts = repository.attempts_of(session, [job_id])
        first = [(row.state, row.reason) for row in attempts if row.trial_number == 0]
        assert first[0] == (AttemptState.LOST, "its server was restarted or replaced")
        assert first[1][0] == AttemptState.COMPLETE
        assert len(trials(service, job_id)) == spec.budget.max_trials


def test_a_result_that_was_stored_but_not_told_is_told_after_a_restart(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.studies.studies import StudyHandle

    class Crash(BaseException):
        """The process dies here."""

    def die(*_: object) -> None:
        raise Crash

    with server(settings) as service:
        job_id = put(service, spec)
        with monkeypatch.context() as patched:
            patched.setattr(StudyHandle, "tell", die)
            with pytest.raises(Crash):
                run_to_end(service, job_id)
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.RUNNING]
    with server(settings) as service:
        service.dispatcher.recover()
        assert [trial.state for trial in trials(service, job_id)] == [TrialState.COMPLETE]
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


class Cluster(SimulatorBackend):
    """Was there before the server, and is after it."""

    def close(self) -> None:
        pass


@pytest.mark.parametrize("ticks", [2, 3, 5, 9, 23])
def test_what_still_runs_on_a_cluster_goes_on_as_the_same_attempt_and_each_epoch_is_told_once(
    settings: Settings, spec: JobSpec, ticks: int
) -> None:
    cluster = Cluster(Recording.packaged())
    with server(settings, backend=cluster) as service:
        job_id = put(service, spec)
        for _ in range(ticks):
            service.dispatcher.tick()
        before = set(cluster._held)
        if cluster._replays:
            cluster.poll()  # the server is killed between this and the database
    with server(settings, backend=cluster) as service:
        service.dispatcher.recover()
        assert set(service.dispatcher._attempts.live) == before
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        rows = attempts(service, job_id)
        assert {row.state for row in rows} == {AttemptState.COMPLETE}
        assert [row.trial_number for row in rows if row.kind == "train"] == list(range(spec.budget.max_trials))
        with service.runtime.database.read() as session:
            events = events_after(session, job_id, 0, limit=1000)
        epochs = [(event.trial, event.epoch) for event in events if event.kind is EventKind.TRIAL_EPOCH]
        each = range(1, spec.training.epochs + 1)
        assert sorted(epochs) == [(number, epoch) for number in range(spec.budget.max_trials) for epoch in each]
    assert cluster._held == {}


def test_what_runs_on_a_cluster_and_no_job_knows_is_ended(settings: Settings, spec: JobSpec) -> None:
    cluster = Cluster(Recording.packaged())
    with server(settings, backend=cluster) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        (running,) = cluster._held
        task = cluster._replays[running].task
        for stranger in ("of-no-job", f"{job_id}.0.7"):
            cluster.start(TrainTask(stranger, task.trial, task.folder), Resources(1.0, 0.0))
    with server(settings, backend=cluster) as service:
        service.dispatcher.recover()
        assert set(cluster._held) == {running}
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


class Away(SimulatorBackend):
    """A cluster that does not answer for a while."""

    said: str | None = None

    def trouble(self) -> str | None:
        return self.said


def test_a_cluster_that_does_not_answer_is_why_a_job_waits_and_the_server_is_not_ready_until_it_does(
    settings: Settings, spec: JobSpec
) -> None:
    backend = Away(Recording.packaged())
    with server(settings, backend=backend) as service:
        running = put(service, spec)
        service.dispatcher.tick()
        backend.said = "the cluster has not answered since noon"
        queued = put(service, spec)
        service.dispatcher.tick()
        assert reason_of(service, running) == backend.said
        assert reason_of(service, queued) == f"waiting: {backend.said}"
        assert service.runtime.trouble() == backend.said  # which /readyz answers with
        assert len(attempts(service, queued)) == 0
        backend.said = None
        assert run_to_end(service, queued) is JobState.SUCCEEDED
        assert run_to_end(service, running) is JobState.SUCCEEDED
        assert service.runtime.trouble() is None


@pytest.mark.parametrize("losses", [2, 7])
def test_a_lost_node_is_charged_to_no_trial(settings: Settings, spec: JobSpec, losses: int) -> None:
    backend = flaky(losses, FailureKind.OUTAGE)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.COMPLETE}


def test_a_job_that_runs_out_of_gpu_memory_twice_fails_and_says_what_to_do(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(1000, FailureKind.GPU_MEMORY)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        assert "ran out of GPU memory 2 times: lower training.batch_size" in reason_of(service, job_id)
        tried = [row.trial_number for row in attempts(service, job_id)]
        assert max(tried.count(number) for number in tried) == 2


def test_a_trial_rests_longer_after_each_loss_and_a_clock_set_back_does_not_prolong_it(
    settings: Settings, spec: JobSpec
) -> None:
    class Clock:
        time = datetime(2030, 1, 1, 12, tzinfo=UTC)

        def __call__(self) -> datetime:
            return self.time

    clock = Clock()
    backend = flaky(2)
    one = spec.model_copy(update={"budget": spec.budget.model_copy(update={"parallel_trials": 1})})
    with server(settings.model_copy(update={"retry_seconds": 5}), backend=backend, now=clock) as service:
        job_id = put(service, one)

        def tries() -> int:
            for _ in range(3):
                service.dispatcher.tick()
            return len(attempts(service, job_id))

        assert tries() == 1
        assert reason_of(service, job_id) == "trial 0 is tried again at 12:00:05 UTC: the worker was lost"
        clock.time += timedelta(seconds=4)
        assert tries() == 1
        clock.time += timedelta(seconds=1)
        assert tries() == 2  # lost too
        clock.time += timedelta(seconds=19)
        assert tries() == 2
        clock.time -= timedelta(hours=3)
        assert tries() == 3
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.COMPLETE}


@pytest.mark.parametrize(("losses", "failed"), [(2, 0), (3, 1)])
def test_a_lost_worker_costs_the_budget_nothing(settings: Settings, spec: JobSpec, losses: int, failed: int) -> None:
    backend = flaky(losses)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        states = [trial.state for trial in trials(service, job_id)]
        assert states.count(TrialState.COMPLETE) == spec.budget.max_trials
        assert states.count(TrialState.FAIL) == failed


def test_a_job_whose_trials_cannot_run_fails_with_their_reason(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(1000)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        assert "the worker was lost" in reason_of(service, job_id)
        assert {trial.state for trial in trials(service, job_id)} == {TrialState.FAIL}


def test_a_fatal_failure_fails_the_job_at_its_first_trial(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(1, FailureKind.FATAL)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        assert len(trials(service, job_id)) == 1


def test_a_crashed_trial_is_told_as_failed_and_the_others_go_on(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(1, FailureKind.CRASHED)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        assert [trial.state for trial in trials(service, job_id)].count(TrialState.FAIL) == 1


def test_a_job_that_fails_at_its_end_keeps_what_its_trials_have_found(settings: Settings, spec: JobSpec) -> None:
    backend = flaky(1, FailureKind.FATAL, of=EvaluateTask)
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.FAILED
        with service.runtime.database.read() as session:
            job = repository.find_job(session, job_id)
        assert job is not None
        assert job.result is not None
        assert job.result["test"] is None
        assert Path(job.result["report"]).read_text(encoding="utf-8")
        assert len(trials(service, job_id)) == spec.budget.max_trials


def test_news_of_an_attempt_that_has_ended_changes_nothing(settings: Settings, spec: JobSpec) -> None:
    backend = FlakyBackend(Recording.packaged())
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        before = [(trial.state, trial.value) for trial in trials(service, job_id)]
        backend._news.append(Update(f"{job_id}.0.1", outcome=Failed(FailureKind.FATAL, "late")))
        service.dispatcher.tick()
        assert [(trial.state, trial.value) for trial in trials(service, job_id)] == before


def test_news_is_kept_until_the_database_has_taken_it(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from service.studies.studies import StudyHandle

    def unreachable(*_: object) -> None:
        raise OSError("the database is gone")

    with server(settings) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        with monkeypatch.context() as patched:
            patched.setattr(StudyHandle, "report", unreachable)
            for _ in range(3):
                with pytest.raises(OSError, match="gone"):
                    service.dispatcher.tick()
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        epochs = spec.training.epochs
        assert all(sorted(trial.intermediate_values) == list(range(1, epochs + 1)) for trial in trials(service, job_id))


def test_a_second_server_on_the_same_sqlite_file_is_refused_with_what_to_do(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, backend=BackendName.SIMULATOR)
    with server(settings), pytest.raises(StateFolderInUse, match="another server works on") as raised:
        build(settings)
    assert "FIXNORM_DATABASE_URL=postgresql://" in raised.value.way_out
    with server(settings):  # free again
        pass


def test_a_job_without_room_says_what_it_waits_for_and_starts_when_there_is_some(
    settings: Settings, spec: JobSpec
) -> None:
    backend = SimulatorBackend(Recording.packaged(), total=Resources(cpus=1.0, gpus=0.0))
    with server(settings, backend=backend) as service:
        first, second = put(service, spec), put(service, spec)
        service.dispatcher.tick()
        with service.runtime.database.read() as session:
            waiting = repository.find_job(session, second)
        assert waiting is not None
        assert waiting.state == JobState.QUEUED
        assert waiting.reason == "waiting for room: a trial needs 1 CPU and 0 GPUs"
        assert run_to_end(service, second) is JobState.SUCCEEDED
        assert run_to_end(service, first) is JobState.SUCCEEDED
