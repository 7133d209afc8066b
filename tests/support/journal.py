"""Everything that happens in a database, in order, and whether it may: DESIGN's invariants, after every change.

Triggers note each change in the transaction that makes it, so nothing escapes that is committed, and nothing is noted
that is not. On SQLite.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from service.database.rows import LIVE_ATTEMPT_STATES, AttemptState
from service.jobs.states import ATTEMPT_MOVES, JOB_MOVES
from service.schemas import TERMINAL_STATES, JobState

_TRIGGERS = """
CREATE TABLE IF NOT EXISTS journal (step INTEGER PRIMARY KEY, what TEXT, job TEXT, id TEXT, before TEXT, after TEXT);
CREATE TRIGGER IF NOT EXISTS j1 AFTER UPDATE OF state ON jobs WHEN old.state <> new.state BEGIN
  INSERT INTO journal (what, job, id, before, after) VALUES ('job', new.id, '', old.state, new.state); END;
CREATE TRIGGER IF NOT EXISTS j2 AFTER INSERT ON attempts BEGIN
  INSERT INTO journal (what, job, id, before, after)
  VALUES ('attempt', new.job_id, new.id || '/' || new.kind || '/' || new.trial_number, NULL, new.state); END;
CREATE TRIGGER IF NOT EXISTS j3 AFTER UPDATE OF state ON attempts WHEN old.state <> new.state BEGIN
  INSERT INTO journal (what, job, id, before, after)
  VALUES ('attempt', new.job_id, new.id || '/' || new.kind || '/' || new.trial_number, old.state, new.state); END;
CREATE TRIGGER IF NOT EXISTS j4 AFTER UPDATE OF state ON trials WHEN old.state <> new.state BEGIN
  INSERT INTO journal (what, job, id, before, after)
  SELECT 'trial', study_name, new.number, old.state, new.state FROM studies WHERE study_id = new.study_id; END;
CREATE TRIGGER IF NOT EXISTS j5 AFTER INSERT ON events BEGIN
  INSERT INTO journal (what, job, id, before, after) VALUES ('event', new.job_id, new.number, NULL, new.kind); END;
CREATE TRIGGER IF NOT EXISTS j6 AFTER UPDATE OF value ON trial_values WHEN old.value <> new.value BEGIN
  INSERT INTO journal (what, job, id, before, after) VALUES ('value', '', new.trial_id, old.value, new.value); END;
"""

_FINISHED = ("COMPLETE", "PRUNED")


class Journal:
    """Reads what has happened since the last look, and objects to what must not."""

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file)
        self._connection.executescript(_TRIGGERS)
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

    def live(self) -> set[str]:
        """The attempts that are live as of the last look."""
        return {attempt for attempts in self._live.values() for attempt in attempts.values()}

    def finished(self, job_id: str) -> int:
        """How many trials of a job count against its budget."""
        return len(self._finished[job_id])

    def look(self) -> None:
        """Checks all changes since the last look, one by one."""
        rows = self._connection.execute(
            "SELECT step, what, job, id, before, after FROM journal WHERE step > ? ORDER BY step", (self._step,)
        ).fetchall()
        for step, what, job, name, before, after in rows:
            self._step = step
            self.changes += 1
            where = f"step {step}: {what} {name} of {job} from {before} to {after}"
            getattr(self, f"_{what}_changed")(job, name, before, after, where)

    def close(self) -> None:
        self._connection.close()

    def left_open(self) -> list[tuple[str, int, str]]:
        """The trials of ended jobs that Optuna believes unfinished."""
        ended = [job for job, state in self._job.items() if state in TERMINAL_STATES]
        rows = self._connection.execute(
            "SELECT study_name, number, state FROM trials JOIN studies USING (study_id)"
            " WHERE state IN ('RUNNING', 'WAITING')"
        )
        return [row for row in rows if row[0] in ended]

    def told(self, job_id: str) -> Mapping[int, tuple[str, float | None]]:
        """State and value of a job's trials, from Optuna's tables."""
        rows = self._connection.execute(
            "SELECT number, state, value FROM trials JOIN studies USING (study_id) LEFT JOIN trial_values"
            " USING (trial_id) WHERE study_name = ?",
            (job_id,),
        )
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
