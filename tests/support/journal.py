"""Everything that happens in a database, in order, and whether it may: DESIGN's invariants, after every change.

Triggers note each change in the transaction that makes it, so nothing escapes that is committed, and nothing is noted
that is not. On SQLite and on PostgreSQL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from sqlalchemy import Engine, create_engine, text

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptState
from service.jobs.states import ATTEMPT_MOVES, JOB_MOVES
from service.schemas import TERMINAL_STATES, JobState

# Each: when, on what, under which condition, and the values of what, job, id, before, after
_NOTED = (
    ("UPDATE OF state", "jobs", "OLD.state <> NEW.state", "'job', NEW.id, '', OLD.state, NEW.state"),
    ("INSERT", "attempts", "1 = 1", "'attempt', NEW.job_id, {attempt}, NULL, NEW.state"),
    ("UPDATE OF state", "attempts", "OLD.state <> NEW.state", "'attempt', NEW.job_id, {attempt}, OLD.state, NEW.state"),
    (
        "UPDATE OF state",
        "trials",
        "OLD.state <> NEW.state",
        "'trial', (SELECT study_name FROM studies WHERE study_id = NEW.study_id), CAST(NEW.number AS TEXT),"
        " CAST(OLD.state AS TEXT), CAST(NEW.state AS TEXT)",
    ),
    ("INSERT", "events", "1 = 1", "'event', NEW.job_id, CAST(NEW.number AS TEXT), NULL, NEW.kind"),
    (
        "UPDATE OF value",
        "trial_values",
        "OLD.value <> NEW.value",
        "'value', '', CAST(NEW.trial_id AS TEXT), CAST(OLD.value AS TEXT), CAST(NEW.value AS TEXT)",
    ),
)
_ATTEMPT = "NEW.id || '/' || NEW.kind || '/' || NEW.trial_number"

_FINISHED = ("COMPLETE", "PRUNED")


class Journal:
    """Reads what has happened since the last look, and objects to what must not."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        _install(self._engine)
        self._step = 0
        self._budget: dict[str, int] = {}
        self._job: dict[str, str] = {}
        self._live: dict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        self._taken: dict[str, dict[str, str]] = defaultdict(dict)
        self._finished: dict[str, set[str]] = defaultdict(set)
        self._events: dict[str, int] = defaultdict(int)
        self.changes = 0

    def expect(self, job_id: str, *, max_trials: int) -> None:
        """Tells of a job before its first change."""
        self._budget[job_id] = max_trials
        self._job[job_id] = JobState.QUEUED

    def expect_more(self, job_id: str, trials: int) -> None:
        """Tells of an extension before it is asked for."""
        self._budget[job_id] += trials

    def live(self) -> set[str]:
        """The attempts that are live as of the last look."""
        return {attempt for attempts in self._live.values() for attempt in attempts.values()}

    def state(self, job_id: str) -> JobState:
        """A job's, as of the last look."""
        return JobState(self._job[job_id])

    def look(self) -> None:
        """Checks all changes since the last look, one by one."""
        query = text("SELECT step, what, job, id, before, after FROM journal WHERE step > :step ORDER BY step")
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"step": self._step}).all()
        for step, what, job, name, before, after in rows:
            self._step = step
            self.changes += 1
            where = f"step {step}: {what} {name} of {job} from {before} to {after}"
            getattr(self, f"_{what}_changed")(job, name, before, after, where)

    def close(self) -> None:
        self._engine.dispose()

    def left_open(self) -> list[tuple[str, int, str]]:
        """The trials of ended jobs that Optuna believes unfinished."""
        query = text(
            "SELECT study_name, number, CAST(state AS TEXT) FROM trials JOIN studies USING (study_id)"
            " WHERE state IN ('RUNNING', 'WAITING')"
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query).all()
        return [(job, number, state) for job, number, state in rows if self._job[job] in TERMINAL_STATES]

    def told(self, job_id: str) -> Mapping[int, tuple[str, float | None]]:
        """State and value of a job's trials, from Optuna's tables."""
        query = text(
            "SELECT number, CAST(state AS TEXT), value FROM trials JOIN studies USING (study_id)"
            " LEFT JOIN trial_values USING (trial_id) WHERE study_name = :job"
        )
        with self._engine.connect() as connection:
            rows = connection.execute(query, {"job": job_id}).all()
        return {number: (state, value) for number, state, value in rows}

    def taken(self, job_id: str) -> Mapping[int, str]:
        """State of the attempt whose result was taken, by trial."""
        return {int(number): state for number, state in self._taken[job_id].items()}

    def _job_changed(self, job: str, _name: str, before: str, after: str, where: str) -> None:
        assert self._job[job] == before, where
        assert JobState(after) in JOB_MOVES[JobState(before)], where
        self._job[job] = after
        if after in TERMINAL_STATES:
            assert not self._live[job], f"{where}: {self._live[job]} still live"

    def _attempt_changed(self, job: str, name: str, before: str | None, after: str, where: str) -> None:
        attempt, kind, number = name.split("/")
        task = (kind, number)
        if before is None:
            assert self._job[job] not in TERMINAL_STATES, where
            assert task not in self._live[job], f"{where}: {self._live[job][task]} is live"
            assert kind != "train" or number not in self._taken[job], f"{where}: its result was taken"
            self._live[job][task] = attempt
            return
        assert AttemptState(after) in ATTEMPT_MOVES[AttemptState(before)], where
        if after in LIVE_ATTEMPT_STATES:
            return
        assert self._live[job].pop(task) == attempt, where
        if after in _FINISHED and kind == "train":
            assert number not in self._taken[job], f"{where}: taken twice"
            self._taken[job][number] = after
            assert len(self._taken[job]) <= self._budget[job], f"{where}: over the budget of {self._budget[job]}"

    def _trial_changed(self, job: str, name: str, before: str, after: str, where: str) -> None:
        assert before in ("RUNNING", "WAITING"), f"{where}: it had finished"
        if after in _FINISHED:
            assert self._taken[job].get(name) == after, f"{where}: no attempt of ours says so"
            self._finished[job].add(name)
            assert len(self._finished[job]) <= self._budget[job], f"{where}: over the budget of {self._budget[job]}"

    def _event_changed(self, job: str, name: str, _before: None, _after: str, where: str) -> None:
        assert int(name) == self._events[job] + 1, f"{where}: the last was {self._events[job]}"
        self._events[job] = int(name)

    def _value_changed(self, _job: str, _name: str, _before: str, _after: str, where: str) -> None:
        raise AssertionError(f"{where}: a result was told twice")


def _install(engine: Engine) -> None:
    """The table and its triggers, on a database that has ours and Optuna's tables."""
    on_postgres = engine.dialect.name == "postgresql"
    key = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY" if on_postgres else "INTEGER PRIMARY KEY"
    with engine.begin() as connection:
        run = connection.exec_driver_sql
        run(f"CREATE TABLE journal (step {key}, what TEXT, job TEXT, id TEXT, before TEXT, after TEXT)")
        for number, (when, table, condition, values) in enumerate(_NOTED):
            note = f"INSERT INTO journal (what, job, id, before, after) VALUES ({values.format(attempt=_ATTEMPT)});"
            trigger = f"CREATE TRIGGER note_{number} AFTER {when} ON {table} FOR EACH ROW WHEN ({condition})"
            if on_postgres:
                body = f"BEGIN {note} RETURN NULL; END"
                run(f"CREATE FUNCTION note_{number}() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$")
                run(f"{trigger} EXECUTE FUNCTION note_{number}()")
            else:
                run(f"{trigger} BEGIN {note} END")
