"""The database, SQLite's and PostgreSQL's: tables as the models say, readers that cannot write, writers in turn."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import DBAPIError

from fixnorm_core.reports import RoleNames, TrialOutcome, TrialResult
from service.cli.serve import SettingsError, _settings
from service.composition import build
from service.database.engine import Database
from service.database.migrate import VERSION_TABLE, check, upgrade
from service.database.rows import AttemptKind, AttemptRow, AttemptState, JobRow
from service.jobs import repository
from service.jobs.views import result_of
from service.opening import CannotStart
from service.settings import BackendName, Settings
from service.studies.storage import close_storage, open_reading_storage, open_writing_storage

pytestmark = pytest.mark.both_databases


@pytest.fixture
def url(database_url: str) -> str:
    upgrade(database_url)
    return database_url


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url)
    yield database
    database.close()


@pytest.fixture
def storage(url: str) -> Iterator[BaseStorage]:
    storage = open_writing_storage(url)
    yield storage
    close_storage(storage)


def a_job(job_id: str, **values: object) -> JobRow:
    return JobRow(**{"id": job_id, "name": "x", "reason": "", "spec": {}, "created_at": datetime.now(UTC)} | values)


def test_the_migrations_make_exactly_what_the_models_say(url: str) -> None:
    check(url)


def test_upgrading_again_changes_nothing_and_optunas_tables_live_beside_ours(url: str) -> None:
    close_storage(open_writing_storage(url))
    upgrade(url)
    check(url)
    engine = create_engine(url)
    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    assert {"jobs", "attempts", "studies", "trials", VERSION_TABLE, "alembic_version"} <= tables


def test_a_reading_session_cannot_write(database: Database) -> None:
    with pytest.raises(DBAPIError, match=r"readonly|read-only"), database.read.begin() as session:
        session.add(a_job("a"))


def test_times_come_back_in_utc(database: Database) -> None:
    job = a_job("a")
    with database.write.begin() as session:
        session.add(job)
    with database.read() as session:
        stored = session.get(JobRow, "a")
    assert stored is not None
    assert stored.created_at == job.created_at
    assert stored.created_at.tzinfo is UTC


def test_words_that_no_database_can_hold_do_not_lose_what_they_came_with(database: Database) -> None:
    with database.write.begin() as session:
        session.add(a_job("a", name="a\0b", reason="no such file: caf\udce9.jpg"))
    with database.read() as session:
        stored = repository.find_job(session, "a")
        assert repository.find_job(session, "a\0") is None
    assert stored is not None
    assert (stored.name, stored.reason) == ("a\ufffdb", "no such file: caf?.jpg")


def test_the_losses_of_a_diverged_run_come_back_as_they_were(database: Database) -> None:
    result = TrialResult(
        outcome=TrialOutcome.DIVERGED,
        validation_accuracy=0.1,
        validation_loss=math.nan,
        validation_examples=359,
        classes=10,
        epochs=1,
        seconds=math.inf,
        weights=None,
        roles=RoleNames(scale_invariant=(), head=(), free=()),
        device="cpu",
        versions={},
    )
    row = AttemptRow(id="a.0.1", job_id="a", kind=AttemptKind.TRAIN, trial_number=0, created_at=datetime.now(UTC))
    with database.write.begin() as session:
        session.add(a_job("a"))
        session.flush()
        session.add(row)
    with database.write.begin() as session:
        repository.end_attempt(
            session,
            row.id,
            AttemptState.COMPLETE,
            lease=None,
            now=datetime.now(UTC),
            result=result.model_dump(mode="json"),
        )
    with database.read() as session:
        stored = result_of(0, attempts=repository.attempts_of(session, ["a"]))
    assert stored is not None
    assert math.isnan(stored.validation_loss)
    assert stored.model_copy(update={"validation_loss": 0.0}) == result.model_copy(update={"validation_loss": 0.0})


def test_the_dashboards_storage_sees_everything_and_cannot_write(url: str, storage: BaseStorage) -> None:
    reader = open_reading_storage(url)
    study = optuna.create_study(storage=storage, study_name="x", direction="maximize")
    study.tell(study.ask(), 0.5)
    assert [trial.value for trial in reader.get_all_trials(study._study_id)] == [0.5]
    with pytest.raises(StorageInternalError):
        reader.delete_study(study._study_id)
    assert len(study.trials) == 1
    close_storage(reader)


def test_two_threads_never_get_the_same_queued_trial_and_only_one_result_counts(
    storage: BaseStorage,
) -> None:
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


def test_servers_that_start_at_once_on_an_empty_database_do_not_get_in_each_others_way(
    postgres_url: str, tmp_path: Path
) -> None:
    errors: list[BaseException] = []

    def start(name: str) -> None:
        try:
            build(Settings(state_dir=tmp_path / name, database_url=postgres_url, backend=BackendName.SIMULATOR)).close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(f"server{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("written", ["postgres://u:secret@h/d", "postgresql://u:secret@h/d"])
def test_postgresql_is_reached_by_its_own_driver_however_it_is_written(written: str) -> None:
    assert Settings(database_url=written).url == "postgresql+psycopg://u:secret@h/d"


@pytest.mark.parametrize("written", ["mysql://u:secret@h/d", "postgresql+psycopg2://u:secret@h/d", "secret"])
def test_another_database_is_refused_with_what_to_write_and_without_its_password(written: str) -> None:
    with pytest.raises(SettingsError, match="postgresql://user:password@host/database") as raised:
        _settings(Settings, {"database_url": written})
    assert "secret" not in str(raised.value)


def test_without_postgresqls_driver_the_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)  # as if it were not installed
    with pytest.raises(CannotStart, match="needs the package 'psycopg'") as raised:
        build(Settings(state_dir=tmp_path, database_url="postgresql://u:secret@127.0.0.1:1/d"))
    assert "'.[postgres]'" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path) -> None:
    away = Settings(state_dir=tmp_path, database_url="postgresql://u:secret@127.0.0.1:1/d")
    with pytest.raises(CannotStart, match=r"127\.0\.0\.1:1/d") as raised:
        build(away)
    assert "secret" not in str(raised.value)
    assert "FIXNORM_DATABASE_URL" in str(raised.value)
