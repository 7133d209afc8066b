from __future__ import annotations

from typing import Any

import pytest
from byhand import attempts, put, server, state_of

from fixnorm_core.spec import JobSpec
from service.database.rows import AttemptRow
from service.schemas import TERMINAL_STATES
from service.settings import Settings
from worker.contracts import Failed, FailureKind, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

COLUMNS = AttemptRow.__table__.columns.keys()


class Failing(SimulatorBackend):
    """Loses the node of every attempt at the first trial but the twelfth."""

    def poll(self) -> list[Update]:
        return [
            Update(update.attempt_id, update.reports, Failed(FailureKind.OUTAGE, "the node died"))
            if update.attempt_id.split(".")[1] == "0" and int(update.attempt_id.split(".")[2]) < 12
            else update
            for update in super().poll()
        ]


@pytest.mark.both_databases
def test_what_is_remembered_of_attempts_is_what_is_stored_in_the_same_order(
    settings: Settings, job: dict[str, Any]
) -> None:
    with server(settings, backend=Failing(Recording.packaged())) as service:
        job_id = put(service, JobSpec.model_validate(job))
        for _ in range(2000):
            service.dispatcher.tick()
            remembered = service.dispatcher._attempts.stored.of(job_id)
            stored = attempts(service, job_id)
            assert [row.id for row in remembered] == [row.id for row in stored]
            for row, other in zip(remembered, stored, strict=True):
                assert {name: getattr(row, name) for name in COLUMNS} == {
                    name: getattr(other, name) for name in COLUMNS
                }
            if state_of(service, job_id) in TERMINAL_STATES:
                break
        assert f"{job_id}.0.12" in {row.id for row in stored}
