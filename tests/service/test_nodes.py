"""A cluster of several machines: a trial runs on one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from byhand import put, run_to_end, server

from fixnorm_core.spec import JobSpec
from service.problems import ResourcesNeverFree
from service.schemas import JobState
from service.settings import Settings
from worker.contracts import Resources
from worker.recording import Recording
from worker.simulator import SimulatorBackend


class Machines(SimulatorBackend):
    """One with a GPU, one with many CPUs."""

    def nodes(self) -> Sequence[Resources]:
        return (Resources(cpus=2.0, gpus=1.0), Resources(cpus=8.0, gpus=0.0))


@pytest.mark.parametrize(("cpus", "gpus"), [(2, 1), (8, 0)])
def test_a_trial_that_one_machine_can_hold_is_taken(
    settings: Settings, job: dict[str, Any], cpus: float, gpus: float
) -> None:
    backend = Machines(Recording.packaged(), total=Resources(cpus=10.0, gpus=1.0))
    with server(settings, backend=backend) as service:
        budget = {"max_trials": 1, "parallel_trials": 1, "confirm_runs": 0}
        resources = {"cpus_per_trial": cpus, "gpus_per_trial": gpus}
        job_id = put(service, JobSpec.model_validate(job | {"resources": resources, "budget": budget}))
        assert run_to_end(service, job_id) is JobState.SUCCEEDED


@pytest.mark.parametrize(("cpus", "gpus"), [(3, 1), (9, 0)])
def test_one_that_only_all_of_them_together_could_hold_is_refused_with_their_sizes(
    settings: Settings, job: dict[str, Any], cpus: float, gpus: float
) -> None:
    backend = Machines(Recording.packaged(), total=Resources(cpus=10.0, gpus=1.0))
    with server(settings, backend=backend) as service:
        spec = JobSpec.model_validate(job | {"resources": {"cpus_per_trial": cpus, "gpus_per_trial": gpus}})
        with pytest.raises(ResourcesNeverFree, match="a trial runs on one node") as raised:
            put(service, spec)
        assert "they have 2 CPUs and 1 GPU; 8 CPUs and 0 GPUs" in str(raised.value)
