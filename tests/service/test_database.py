"""The database: migrations and models agree, readers cannot write, writers take turns."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import OperationalError

from service.database.engine import Database
from service.database.migrate import VERSION_TABLE, upgrade
from service.database.rows import Base, JobRow
from service.studies.storage import open_reading_storage, open_writing_storage


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'x.db'}"
    upgrade(url)
    return url


def a_job(job_id: str) -> JobRow:
    return JobRow(id=job_id, name="x", reason="", spec={}, created_at=datetime.now(UTC))


def test_the_migrations_make_exactly_what_the_models_say(url: str) -> None:
    with create_engine(url).connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, Base.metadata) == []


def test_upgrading_again_changes_nothing_and_optunas_tables_live_beside_ours(url: str) -> None:
    open_writing_storage(url).remove_session()
    upgrade(url)
    tables = set(inspect(create_engine(url)).get_table_names())
    assert {"jobs", "attempts", "studies", "trials", VERSION_TABLE, "alembic_version"} <= tables


def test_a_reading_session_cannot_write(url: str) -> None:
    database = Database.open(url)
    with pytest.raises(OperationalError, match="readonly"), database.read.begin() as session:
        session.add(a_job("a"))
    database.close()


def test_times_come_back_in_utc(url: str) -> None:
    database = Database.open(url)
    job = a_job("a")
    with database.write.begin() as session:
        session.add(job)
    with database.read() as session:
        stored = session.get(JobRow, "a")
    assert stored is not None
    assert stored.created_at == job.created_at
    assert stored.created_at.tzinfo is UTC
    database.close()


def test_the_dashboards_storage_sees_everything_and_cannot_write(url: str) -> None:
    writer, reader = open_writing_storage(url), open_reading_storage(url)
    study = optuna.create_study(storage=writer, study_name="x", direction="maximize")
    study.tell(study.ask(), 0.5)
    assert [trial.value for trial in reader.get_all_trials(study._study_id)] == [0.5]
    with pytest.raises(StorageInternalError):
        reader.delete_study(study._study_id)
    assert len(study.trials) == 1


def test_two_threads_never_get_the_same_queued_trial_and_only_one_result_counts(url: str) -> None:
    storage = open_writing_storage(url)
    study = optuna.create_study(storage=storage, study_name="x", direction="maximize")
    for value in range(40):
        study.enqueue_trial({"x": value})
    got: list[int] = []
    won: list[int] = []

    def work() -> None:
        mine = optuna.load_study(study_name="x", storage=storage)
        for _ in range(20):
            got.append(mine.ask().number)

    def race(number: int, trial_id: int) -> None:
        if storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.1]):
            won.append(number)

    def both_tell() -> None:
        for trial in study.get_trials(deepcopy=False):
            try:
                race(trial.number, trial._trial_id)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue

    for target in (work, both_tell):
        threads = [threading.Thread(target=target) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(got) == list(range(40))
    assert sorted(won) == list(range(40))
