"""Many jobs on few slots: what waiting costs, and whose turn it is."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from byhand import put, server

from fixnorm_core.spec import JobSpec, ShareSpec
from service.composition import Service
from service.dispatch.share import Claim, first_in_turn
from service.jobs import repository
from service.settings import Settings
from worker.contracts import Resources
from worker.recording import Recording
from worker.simulator import SimulatorBackend


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    return JobSpec.model_validate(job | {"budget": {"max_trials": 30, "confirm_runs": 1, "stop_early": False}})


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


def claim(job_id: str, *, cpus: float = 0.0, gpus: float = 0.0, uses_gpus: bool = False, **share: Any) -> Claim:
    needed = Resources(cpus=1.0, gpus=1.0 if uses_gpus else 0.0)
    submitted = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=ord(job_id))
    return Claim(job_id, submitted, ShareSpec(**share), needed, Resources(cpus=cpus, gpus=gpus))


@pytest.mark.parametrize(
    ("claims", "first"),
    [
        ([claim("b"), claim("a")], "a"),
        ([claim("a", cpus=1), claim("b")], "b"),
        ([claim("a", cpus=2), claim("b", cpus=3, weight=2)], "b"),
        ([claim("a", cpus=1), claim("b", cpus=2, weight=2)], "a"),
        ([claim("a"), claim("b", cpus=9, priority=1)], "b"),
        ([claim("a", cpus=8, gpus=1, uses_gpus=True), claim("b", cpus=1, gpus=2, uses_gpus=True)], "a"),
    ],
    ids=["the older", "who holds less", "who holds less for its weight", "ties", "priority", "GPUs count, not CPUs"],
)
def test_the_turn_is_that_of(claims: list[Claim], first: str) -> None:
    assert first_in_turn(claims).job_id == first


def test_two_jobs_of_weights_2_and_1_hold_slots_2_to_1(settings: Settings, spec: JobSpec) -> None:
    wide = spec.model_copy(update={"budget": spec.budget.model_copy(update={"parallel_trials": 6})})
    with server(settings, backend=slots(6)) as service:
        light = put(service, wide)
        heavy = put(service, wide.model_copy(update={"share": ShareSpec(weight=2)}))
        service.dispatcher.tick()
        with service.runtime.database.read() as session:
            held = Counter(row.job_id for row in repository.live_attempts(session))
    assert held == {heavy: 4, light: 2}
