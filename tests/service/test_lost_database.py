"""A PostgreSQL server that crashes under a running job and comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from byhand import put
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from postgres import Postgres, find_binaries, running
from sqlalchemy.exc import SQLAlchemyError

from fixnorm_core.spec import JobSpec
from service.composition import build
from service.database.rows import AttemptState
from service.database.troubles import Trouble, describe, trouble_of
from service.jobs import repository
from service.schemas import TERMINAL_STATES, JobState
from service.settings import BackendName, Settings


@pytest.fixture
def unreliable(postgres: Postgres) -> Iterator[Postgres]:  # whose absence is told once, by the shared one
    binaries = find_binaries()
    assert binaries is not None
    with running(binaries) as server:
        yield server


@pytest.mark.parametrize("first", [1, 3])
def test_nothing_is_lost_repeated_or_half_written_and_the_server_keeps_its_lease(
    unreliable: Postgres, tmp_path: Path, job: dict[str, Any], first: int
) -> None:
    spec = JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "stop_early": False}})
    url = unreliable.create_database()
    service = build(Settings(state_dir=tmp_path, database_url=url, backend=BackendName.SIMULATOR, lease_seconds=0.1))
    try:
        runtime, dispatcher = service.runtime, service.dispatcher
        job_id = put(service, spec)
        dispatcher.tick()
        token = dispatcher.lease.token
        for tick in range(1000):
            if tick in (first, first + 7, first + 14):
                unreliable.stop(kill=True)
                for _ in range(2):
                    with pytest.raises((SQLAlchemyError, StorageInternalError)) as raised:
                        dispatcher.tick()
                    assert trouble_of(raised.value) is Trouble.UNAVAILABLE
                    said = describe(Trouble.UNAVAILABLE, raised.value, url=url)
                    assert said.startswith("the database postgresql+psycopg://fixnorm@")
                    assert "\n" not in said
                unreliable.start()
            dispatcher.tick()
            with runtime.database.read() as session:
                found = repository.find_job(session, job_id)
                assert found is not None
                rows = repository.attempts_of(session, [job_id])
            if found.state in TERMINAL_STATES:
                break
        assert found.state == JobState.SUCCEEDED, found.reason
        assert dispatcher.lease.token == token
        trials = runtime.trials(found)
        assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
        epochs = list(range(1, spec.training.epochs + 1))
        assert all(sorted(trial.intermediate_values) == epochs for trial in trials)
        assert {row.state for row in rows} == {AttemptState.COMPLETE}  # what was running ran on
        assert [row.trial_number for row in rows if row.kind == "train"] == [0, 1, 2]
    finally:
        service.close()
