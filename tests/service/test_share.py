"""Many jobs on few slots: what waiting costs, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest
from byhand import put, server

from fixnorm_core.spec import JobSpec
from service.composition import Service
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
