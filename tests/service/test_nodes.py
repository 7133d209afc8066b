"""A cluster of several machines: a trial runs on one of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from byhand import put, reason_of, run_to_end, server

from fixnorm_core.spec import JobSpec, ResourceSpec
from service.composition import Service
from service.jobs import repository
from service.problems import ResourcesNeverFree
from service.queue.places import find_places
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import Node, Resources
from worker.recording import Recording
from worker.simulator import SimulatorBackend


def machines(*sizes: tuple[float, float], backend: type[SimulatorBackend] = SimulatorBackend) -> SimulatorBackend:
    """A simulated cluster; the sizes are of CPUs and GPUs."""
    nodes = [Node(f"node-{index}", Resources(*size)) for index, size in enumerate(sizes)]
    return backend(Recording.packaged(), machines=nodes)


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 1), (8, 0)])
def test_a_trial_that_one_machine_can_hold_is_taken(
    settings: Settings, job: dict[str, Any], cpus: float, gpus: float
) -> None:
    backend = machines((2, 1), (8, 0))
    with server(settings, backend=backend) as service:
        budget = {"max_trials": 1, "parallel_trials": 1, "confirm_runs": 0}
        resources = {"cpus_per_trial": cpus, "gpus_per_trial": gpus}
        job_id = put(service, JobSpec.model_validate(job | {"resources": resources, "budget": budget}))
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


@pytest.mark.parametrize(("cpus", "gpus"), [(3, 1), (9, 0)])
def test_one_that_only_all_of_them_together_could_hold_is_refused_with_their_sizes(
    settings: Settings, job: dict[str, Any], cpus: float, gpus: float
) -> None:
    backend = machines((2, 1), (8, 0))
    with server(settings, backend=backend) as service:
        spec = JobSpec.model_validate(job | {"resources": {"cpus_per_trial": cpus, "gpus_per_trial": gpus}})
        with pytest.raises(ResourcesNeverFree, match="a trial runs on one node") as raised:
            put(service, spec)
        assert "they have 2 CPUs and 1 GPU; 8 CPUs and 0 GPUs" in str(raised.value)


def test_one_over_two_machines_runs_on_both_and_is_refused_where_there_are_not_two(
    settings: Settings, job: dict[str, Any]
) -> None:
    apart = {"cpus_per_trial": 4, "gpus_per_trial": 4, "nodes_per_trial": 2}
    budget = {"max_trials": 2, "parallel_trials": 2, "confirm_runs": 0}
    spec = JobSpec.model_validate(job | {"resources": apart, "budget": budget})
    backend = machines((8, 2), (2, 2), (8, 1))
    with server(settings, backend=backend) as service:
        job_id = put(service, spec)
        service.dispatcher.tick()
        (place,) = backend.places().values()  # the other trial has no room beside it
        assert {part.node: part.gpus for part in place.parts} == {"node-0": ("0", "1"), "node-1": ("0", "1")}
        assert service.runtime.layout().room().total == Resources(14.0, 1.0)
        assert run_to_end(service, job_id) is JobState.SUCCEEDED
        too_large = spec.model_copy(update={"resources": ResourceSpec(**apart | {"cpus_per_trial": 8})})
        with pytest.raises(ResourcesNeverFree) as raised:
            put(service, too_large)
        assert "there are not 2 nodes with 4 CPUs and 2 GPUs each: of 3 they have 8 CPUs and 2 GPUs" in str(
            raised.value
        )


def sharing(job: dict[str, Any], *, gpus: float, cpus: float = 1.0, trials: int = 1, **more: Any) -> JobSpec:
    budget = {"max_trials": trials, "parallel_trials": trials, "confirm_runs": 0, "stop_early": False}
    return JobSpec.model_validate(
        job | {"resources": {"cpus_per_trial": cpus, "gpus_per_trial": gpus}, "budget": budget} | more
    )


def running(service: Service) -> int:
    with service.runtime.database.read() as session:
        return len(repository.live_attempts(session))


def test_two_trials_of_0_6_gpu_run_on_two_gpus_and_the_third_waits_for_a_gpu_though_0_8_are_free(
    settings: Settings, job: dict[str, Any]
) -> None:
    with server(settings, backend=machines((8, 2))) as service:
        jobs = [put(service, sharing(job, gpus=0.6)) for _ in range(3)]
        service.dispatcher.tick()
        assert running(service) == 2
        assert reason_of(service, jobs[2]) == "waiting for room: a trial needs 1 CPU and 0.6 GPUs"
        with service.runtime.database.read() as session:
            told = service.runtime
            (waiting, *_) = find_places(session, layout=told.layout(), rules=told.rules, now=told.now())
            packed = find_places(session, layout=told.layout().nodes, rules=told.rules, now=told.now())[0]
        assert waiting.reason.endswith("free: 6 CPUs and 0.8 GPUs, but not on one GPU")
        assert packed.reason == waiting.reason  # a server that does not know where they run takes them to be packed
        for job_id in jobs:
            assert run_to_end(service, job_id) is JobState.SUCCEEDED


def test_a_trial_that_waits_for_a_larger_machine_starts_when_one_has_joined(
    settings: Settings, job: dict[str, Any]
) -> None:
    backend = machines((2, 0), (8, 1))
    with server(settings, backend=backend) as service:
        small, large = backend.machines
        job_id = put(service, sharing(job, gpus=1, cpus=4))
        backend.machines = (small,)
        service.dispatcher.nodes.clock = lambda: math.inf
        service.dispatcher.tick()
        assert running(service) == 0
        with service.runtime.database.read() as session:
            told = service.runtime
            (waiting,) = find_places(session, layout=told.layout(), rules=told.rules, now=told.now())
        assert "the whole cluster has 2 CPUs and 0 GPUs now" in waiting.reason
        put(service, sharing(job, gpus=1, cpus=4))  # the large one is known of, so it is not refused
        backend.machines = (small, large)
        service.dispatcher.nodes._look_at = 0.0
        service.dispatcher.tick()
        assert backend.places()[f"{job_id}.0.1"].node == large.name
