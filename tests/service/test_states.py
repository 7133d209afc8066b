"""States of jobs and attempts: every pair of them, on the database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import update
from sqlalchemy.exc import IntegrityError

from service.database.engine import Database
from service.database.migrate import upgrade
from service.database.rows import LIVE_ATTEMPT_STATES, AttemptKind, AttemptRow, AttemptState, JobRow
from service.jobs import repository
from service.jobs.states import ATTEMPT_MOVES, JOB_MOVES, IllegalMove
from service.schemas import TERMINAL_STATES, JobState

pytestmark = pytest.mark.both_databases

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    upgrade(database_url)
    database = Database.open(database_url)
    with database.write.begin() as session:
        session.add(JobRow(id="j", name="x", reason="before", spec={}, created_at=NOW))
        session.flush()
        session.add(attempt("j.0.1"))
    yield database
    database.close()


def attempt(attempt_id: str, **values: object) -> AttemptRow:
    fields = {"id": attempt_id, "job_id": "j", "kind": AttemptKind.TRAIN, "trial_number": 0, "lease": "mine"}
    return AttemptRow(**fields | values, created_at=NOW)


def put(database: Database, row: type[JobRow] | type[AttemptRow], state: str) -> None:
    with database.write.begin() as session:
        session.execute(update(row).values(state=state, reason="before"))


def stored(database: Database, row: type[JobRow] | type[AttemptRow]) -> tuple[str, str]:
    with database.read() as session:
        found = session.get(row, "j" if row is JobRow else "j.0.1")
    assert found is not None
    return found.state, found.reason


def test_every_state_has_a_row_in_its_table_and_from_an_end_a_job_can_only_be_reopened() -> None:
    assert set(JOB_MOVES) == set(JobState)
    assert set(ATTEMPT_MOVES) == set(AttemptState)
    reopened = {JobState.QUEUED, JobState.RUNNING}
    assert {state for state, following in JOB_MOVES.items() if following <= reopened} == TERMINAL_STATES
    assert tuple(state for state, following in ATTEMPT_MOVES.items() if following) == LIVE_ATTEMPT_STATES


def test_a_job_moves_as_its_table_says_and_in_no_other_way(database: Database) -> None:
    for origin in JobState:
        for to in JobState:
            put(database, JobRow, origin)
            with database.write.begin() as session:
                if to in JOB_MOVES[origin]:
                    assert repository.move_job(session, "j", origin, to, now=NOW, reason="after")
                else:
                    with pytest.raises(IllegalMove, match=f"{origin} is never followed by {to}"):
                        repository.move_job(session, "j", origin, to, now=NOW, reason="after")
            assert stored(database, JobRow) == ((to, "after") if to in JOB_MOVES[origin] else (origin, "before"))


def test_a_job_that_is_elsewhere_by_now_is_left_alone(database: Database) -> None:
    for origin in JobState:
        for actual in set(JobState) - {origin}:
            put(database, JobRow, actual)
            with database.write.begin() as session:
                assert not repository.update_job(session, "j", origin, reason="after")
                for to in JOB_MOVES[origin]:
                    assert not repository.move_job(session, "j", origin, to, now=NOW, reason="after")
            assert stored(database, JobRow) == (actual, "before")


def test_an_attempt_moves_as_its_table_says_and_only_under_its_own_lease(database: Database) -> None:
    def move(to: AttemptState, lease: str | None) -> bool:
        with database.write.begin() as session:
            if to is AttemptState.RUNNING:
                return repository.start_attempt(session, "j.0.1", lease=lease)
            return repository.end_attempt(session, "j.0.1", to, lease=lease, now=NOW, reason="after")

    for origin in AttemptState:
        for to in set(AttemptState) - {AttemptState.STARTING}:
            put(database, AttemptRow, origin)
            assert not move(to, "another's")
            assert not move(to, None)
            assert stored(database, AttemptRow) == (origin, "before")
            is_legal = to in ATTEMPT_MOVES[origin]
            assert move(to, "mine") is is_legal
            assert stored(database, AttemptRow)[0] == (to if is_legal else origin)


def test_nothing_leads_back_to_the_start_of_an_attempt(database: Database) -> None:
    with database.write.begin() as session, pytest.raises(IllegalMove, match="STARTING follows no other"):
        repository.end_attempt(session, "j.0.1", AttemptState.STARTING, lease="mine", now=NOW)


def test_the_database_itself_refuses_a_second_live_attempt_at_the_same_task(database: Database) -> None:
    with pytest.raises(IntegrityError), database.write.begin() as session:
        session.add(attempt("j.0.2"))
    with database.write.begin() as session:  # another task, another trial, or after the first has ended
        session.add(attempt("j.0.3", kind=AttemptKind.EVALUATE))
        session.add(attempt("j.1.1", trial_number=1))
        assert repository.end_attempt(session, "j.0.1", AttemptState.LOST, lease="mine", now=NOW)
        session.add(attempt("j.0.2"))
