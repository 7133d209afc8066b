"""Many jobs on few slots: what waiting costs, and whose turn it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from byhand import put, reason_of, server

from fixnorm_core.spec import JobSpec, ResourceSpec, ShareSpec
from service.composition import Service
from service.dispatch.job_runner import JobRunner
from service.events.records import last_number
from service.jobs import repository
from service.settings import Settings
from worker.contracts import Resources, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 30, "confirm_runs": 1, "stop_early": False}})


class OneSpeaks(SimulatorBackend):
    """Only the trials of one job go on."""

    speaks = ""

    def _advance(self, attempt_id: str, replay: Any) -> Update:
        if not attempt_id.startswith(f"{self.speaks}."):
            return Update(attempt_id)
        return super()._advance(attempt_id, replay)


def slots(count: int) -> SimulatorBackend:
    return SimulatorBackend(Recording.packaged(), total=Resources(cpus=float(count), gpus=0.0))


def studies(service: Service) -> int:
    return len(service.runtime.storage.get_all_studies())


def test_of_200_jobs_on_one_slot_only_the_one_that_runs_has_its_study_opened(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=slots(1)) as service:
        for _ in range(200):
            put(service, spec)
        for _ in range(5):
            service.dispatcher.wake()
            service.dispatcher.tick()
        assert studies(service) == 1
    with server(settings, backend=slots(1)) as service:  # a restart has nothing to settle of those that wait
        service.dispatcher.tick()
        assert studies(service) == 1


def wide(spec: JobSpec, **share: Any) -> JobSpec:
    """A job that would hold six slots."""
    budget = spec.budget.model_copy(update={"parallel_trials": 6})
    return spec.model_copy(update={"budget": budget, "share": ShareSpec(**share)})


def held(service: Service) -> Counter[str]:
    with service.runtime.database.read() as session:
        return Counter(row.job_id for row in repository.live_attempts(session))


def test_two_jobs_of_weights_2_and_1_hold_slots_2_to_1(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=slots(6)) as service:
        light, heavy = put(service, wide(spec)), put(service, wide(spec, weight=2))
        service.dispatcher.tick()
        assert held(service) == {heavy: 4, light: 2}


def test_a_job_holds_no_more_than_its_cap(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=slots(6)) as service:
        capped = put(service, wide(spec, max_cpus=2.5))
        service.dispatcher.tick()
        assert held(service) == {capped: 2}


def test_a_users_jobs_hold_no_more_than_the_users_cap_and_say_what_they_wait_for(
    settings: Settings, spec: JobSpec
) -> None:
    capped = settings.model_copy(update={"user_max_cpus": 3.0})
    with server(capped, backend=slots(6)) as service:
        first, second = put(service, wide(spec, user="ann")), put(service, wide(spec, user="ann"))
        third, late = put(service, wide(spec, user="bob")), put(service, wide(spec, user="bob"))
        service.dispatcher.tick()
        counts = held(service)
        assert counts[first] + counts[second] == counts[third] + counts[late] == 3
        assert reason_of(service, first) == "waiting for other trials of user 'ann': a user's may hold 3 CPUs"


def test_what_is_waited_for_is_told_once_however_often_it_is_looked_at(settings: Settings, spec: JobSpec) -> None:
    with server(settings, backend=slots(1)) as service:
        put(service, spec.model_copy(update={"share": ShareSpec(priority=1)}))
        waiting = [put(service, spec) for _ in range(20)]
        for _ in range(30):  # trials end and start meanwhile
            service.dispatcher.tick()
        with service.runtime.database.read() as session:
            assert [last_number(session, job_id) for job_id in waiting] == [2] * 20  # submitted, waiting
        assert reason_of(service, waiting[0]) == "waiting for room: a trial needs 1 CPU and 0 GPUs"


def test_news_of_one_job_has_only_that_one_decided_and_those_that_its_room_is_for(
    settings: Settings, spec: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    decided: list[str] = []
    carry_on = JobRunner.carry_on
    monkeypatch.setattr(
        JobRunner, "carry_on", lambda runner, job, turn: decided.append(job.id) or carry_on(runner, job, turn)
    )
    one = spec.budget.model_copy(update={"max_trials": 1, "confirm_runs": 0, "parallel_trials": 1})
    backend = OneSpeaks(Recording.packaged(), total=Resources(cpus=5.0, gpus=0.0))
    with server(settings, backend=backend) as service:
        running = [put(service, spec.model_copy(update={"budget": one})) for _ in range(5)]
        late = put(service, spec)
        service.dispatcher.tick()
        assert held(service) == dict.fromkeys(running, 1)

        backend.speaks = running[2]
        decided.clear()
        service.dispatcher.tick()
        assert decided == [running[2]]
        for _ in range(spec.training.epochs):
            service.dispatcher.tick()
        assert set(decided) == {running[2], late}
        assert held(service) == dict.fromkeys({*running, late} - {running[2]}, 1)


def test_a_trial_that_has_been_passed_over_for_long_has_room_kept_for_it(settings: Settings, spec: JobSpec) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    large = spec.model_copy(update={"resources": ResourceSpec(cpus_per_trial=3)})
    with server(settings, backend=slots(3), now=lambda: now[0]) as service:
        for _ in range(3):  # whose trials end at different times
            put(service, spec)
            service.dispatcher.tick()
        first = put(service, large)
        for _ in range(30):
            service.dispatcher.tick()
            assert held(service)[first] == 0  # small trials come and go
        now[0] += timedelta(seconds=settings.reserve_seconds)
        for _ in range(20):
            service.dispatcher.tick()
            if held(service)[first]:
                break
        assert held(service) == {first: 1}
