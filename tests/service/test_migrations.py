"""A database of the first released schema, with jobs in it, goes on under the newest one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from serving import simulated
from sqlalchemy import Engine, MetaData, Table, create_engine, select

from fixnorm_core.spec import JobSpec
from service.composition import build
from service.database.migrate import check, upgrade
from service.database.rows import AttemptState
from service.jobs import repository
from service.schemas import JobState
from service.settings import Settings

pytestmark = pytest.mark.both_databases

FIRST = "0001"
THEN = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Of a database as the first release left it."""
    upgrade(database_url, revision=FIRST)
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return simulated(tmp_path, database_url=database_url)


@pytest.fixture
def old(engine: Engine) -> tuple[Table, Table]:
    """The first release's tables, which know none of the later columns: what they say is what its code would say."""
    metadata = MetaData()
    metadata.reflect(engine, only=["jobs", "attempts"])
    return metadata.tables["jobs"], metadata.tables["attempts"]


def a_job(job_id: str, spec: dict[str, Any], state: str = "RUNNING", **values: object) -> dict[str, Any]:
    fixed = {"id": job_id, "name": "old", "reason": "why", "cancel_requested": False, "created_at": THEN}
    return fixed | {"state": state, "spec": spec} | values


def an_attempt(job_id: str, number: int, state: str, **values: object) -> dict[str, Any]:
    fixed = {"id": f"{job_id}.{number}.1", "job_id": job_id, "kind": "train", "trial_number": number, "reason": ""}
    return fixed | {"state": state, "created_at": THEN} | values


def test_what_was_stored_is_still_there_and_its_jobs_go_on(
    engine: Engine, old: tuple[Table, Table], settings: Settings, job: dict[str, Any]
) -> None:
    spec = JobSpec.model_validate(job | {"budget": {"max_trials": 3, "confirm_runs": 1, "stop_early": False}})
    stored = spec.model_dump(mode="json")
    jobs, attempts = old
    with engine.begin() as connection:
        connection.execute(jobs.insert(), a_job("job-old", stored, study_id=None, idempotency_key="k"))
        connection.execute(jobs.insert(), a_job("job-done", stored, "FAILED", ended_at=THEN))
        connection.execute(attempts.insert(), an_attempt("job-old", 0, "RUNNING"))
        connection.execute(attempts.insert(), an_attempt("job-done", 0, "FAILED", failure="crashed", ended_at=THEN))
    upgrade(settings.url)
    check(settings.url)
    service = build(settings)
    try:
        for _ in range(1000):
            service.dispatcher.tick()
            with service.runtime.database.read() as session:
                found = {row.id: row for row in repository.page_of_jobs(session, state=None, limit=9, before=None)}
                rows = {row.id: row for row in repository.attempts_of(session, ["job-old", "job-done"])}
            if found["job-old"].state != JobState.RUNNING:
                break
    finally:
        service.close()
    assert found["job-old"].state == JobState.SUCCEEDED
    assert found["job-old"].idempotency_key == "k"
    done = found["job-done"]
    assert (done.state, done.reason, done.created_at, done.ended_at) == (JobState.FAILED, "why", THEN, THEN)
    assert JobSpec.from_stored(done.spec) == spec
    assert (rows["job-done.0.1"].state, rows["job-done.0.1"].failure) == (AttemptState.FAILED, "crashed")
    assert rows["job-old.0.1"].state == AttemptState.LOST  # its server is gone, and the trial went on with another


def test_the_first_releases_statements_work_on_the_newest_schema(
    engine: Engine, old: tuple[Table, Table], database_url: str
) -> None:
    upgrade(database_url)
    jobs, attempts = old
    with engine.begin() as connection:
        connection.execute(jobs.insert(), a_job("j", {}, "QUEUED"))
        connection.execute(jobs.update().where(jobs.c.id == "j").values(state="RUNNING", started_at=THEN))
        connection.execute(attempts.insert(), an_attempt("j", 0, "STARTING"))
        for state in ("RUNNING", "COMPLETE"):
            live = attempts.c.state.in_(("STARTING", "RUNNING"))
            assert connection.execute(attempts.update().where(live).values(state=state)).rowcount == 1
        connection.execute(attempts.insert(), an_attempt("j", 0, "STARTING", id="j.0.2", kind="evaluate"))
        assert len(connection.execute(select(jobs)).all()) == 1
        assert len(connection.execute(select(attempts).order_by(attempts.c.created_at)).all()) == 2
