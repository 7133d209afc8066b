"""Removes what the policy lets go.

Where nodes keep files in an object store, what is there goes with what is in the folder, and after it.

A job is looked at again under a lock on its row, which `retry` and `extend` take too, so that none is reopened while
its files are removed. A whole job goes in an order that a crash at any point leaves something to go on from: its folder
is marked, its rows go in one transaction, then its study, its files, and the mark last. A file that cannot be
removed is told of and keeps nothing else: the next call tries it again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from optuna.storages import BaseStorage
from optuna.storages._rdb.models import StudyModel, TrialModel
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.buckets import is_url
from fixnorm_core.errors import DataError, FixNormError
from service.database.engine import Database
from service.database.rows import DeliveryRow, JobRow, TrackedRow
from service.jobs import repository
from service.jobs.folders import best_folder, is_own, job_folder
from service.retention.former import is_former
from service.retention.objects import Objects
from service.retention.policy import Decision, EndedJob, Policy, Pruned, What, decide
from service.schemas import TERMINAL_STATES
from service.settings import Settings
from service.studies.storage import close_storage

__all__ = ["Pruner", "PruningAlready", "policy_of"]

_MARK = ".removing"
_PATTERNS = {
    What.SCRATCH: ("trials/*/.*.partial", "best/.*.partial", "best/*/.*.partial"),
    What.CHECKPOINTS: ("trials/*/checkpoint-*.pt", "trials/*/checkpoint-*.unused"),
    What.LOGS: ("trials/*/logs/*",),
}


class ForeignFolder(FixNormError):
    """The state folder holds nothing of the database's jobs: their rows would go, and their files stay elsewhere."""

    code = "foreign_state_folder"


class PruningAlready(FixNormError):
    """Another process prunes the same state folder."""

    code = "pruning_already"


def policy_of(settings: Settings) -> Policy:
    """What a server's settings say."""
    days = (settings.keep_checkpoints_days, settings.keep_logs_days, settings.keep_jobs_days)
    checkpoints, logs, jobs = (timedelta(days=each) if each is not None else None for each in days)
    return Policy(checkpoints, logs, jobs, settings.keep_jobs, settings.keep_best)


@dataclass(frozen=True, slots=True)
class Pruner:
    """Removes what a policy lets go.

    Attributes:
        database: Ours.
        open_storage: Opens Optuna's, to delete studies; called only when a job goes.
        state_dir: Where the files of jobs are.
        policy: How long what is kept.
        now: The wall clock, in UTC.
        trackers: Names of those that are told of jobs; a job of which one has not been told all stays.
        store: Where nodes keep files of jobs, if not in the folder.
    """

    database: Database
    open_storage: Callable[[], BaseStorage]
    state_dir: Path
    policy: Policy
    now: Callable[[], datetime]
    trackers: Sequence[str] = ()
    store: ArtifactStore | None = None
    _objects: Objects = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_objects", Objects(self.store, self.policy.keep_best))

    def plan(self) -> list[Pruned]:
        """What :meth:`prune` would remove now.

        Raises:
            ForeignFolder: If jobs would go of which the state folder knows nothing.
            DataError: If the store refuses, or does not answer.
        """
        found = []
        for decision in self._decide():
            for what in decision.what:
                job = decision.job
                files, objects = self._files(job, what), self._objects.find(job.id, what, named=job.named)
                if files or objects or what is What.JOB:
                    size = sum(map(_size, files)) + sum(objects.values())
                    found.append(Pruned(decision.job.id, what, len(files) + len(objects), size))
        return found

    def prune(self, *, is_over: Callable[[], bool] = lambda: False) -> Iterator[Pruned]:
        """Removes it, job by job, and what an earlier call has not come to the end of.

        Args:
            is_over: Asked before each job whether to leave the rest to a later call.

        Raises:
            PruningAlready: If another process does the same now.
            ForeignFolder: As :meth:`plan`.
            OSError: If the state folder cannot be read or locked.
        """
        with self._alone():
            for folder in sorted(path.parent for path in (self.state_dir / "jobs").glob(f"*/{_MARK}")):
                if is_over():
                    return
                yield from _trying(folder.name, What.JOB, partial(self._go_on, folder.name))
            for decision in self._decide():
                if is_over():
                    return
                remove = self._remove_job if What.JOB in decision.what else self._remove_parts
                yield from _trying(decision.job.id, decision.what[-1], partial(remove, decision))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(self.state_dir / "prune.lock", thread_local=False)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise PruningAlready(
                f"another process prunes {self.state_dir} now", "Wait until it has ended; a server does it every hour"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _decide(self) -> list[Decision]:
        with self.database.read() as session:
            decisions = decide(self.policy, _ended_jobs(session, self.trackers), now=self.now())
        if self.store is None and not (self.state_dir / "jobs").is_dir():
            self._require_no_job(decisions)
        return decisions

    def _require_no_job(self, decisions: Sequence[Decision]) -> None:
        going = sum(What.JOB in decision.what for decision in decisions)
        if going and not self.database.is_below(self.state_dir):
            raise ForeignFolder(
                f"{going} job{'s'[: going != 1]} would be removed from the database, and the state folder "
                f"{self.state_dir} holds nothing of any job",
                "Name the folder in which the server works: --state-dir, or FIXNORM_STATE_DIR; if the files are gone, "
                f"make an empty folder {self.state_dir / 'jobs'}",
            )

    def _remove_parts(self, decision: Decision) -> list[Pruned]:
        done = self._remove_files(decision)
        for what in decision.what:
            try:
                found = self._objects.find_once(decision.job, what)
                if not found:
                    continue
                with self.database.write.begin() as session:  # not held over a store's answers
                    is_still = _is_still(session, decision.job)
                if is_still:  # a job that is reopened now begins new trials, of which none was found
                    done.append(self._objects.remove(decision.job.id, what, found))
            except DataError as error:
                done.append(Pruned(decision.job.id, what, 0, 0, str(error)))
        return done

    def _remove_files(self, decision: Decision) -> list[Pruned]:
        job = decision.job
        if not any(self._files(job, what) for what in decision.what):  # most often, and no lock is needed
            return []
        with self.database.write.begin() as session:
            if not _is_still(session, job):
                return []
            found = [(what, self._files(job, what)) for what in decision.what]
            return [_remove(job.id, what, files) for what, files in found if files]

    def _remove_job(self, decision: Decision) -> list[Pruned]:
        job = decision.job
        folder = job_folder(self.state_dir, job.id)
        with self.database.write.begin() as session:
            if not _is_still(session, job):
                return []
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _MARK).touch()  # under the lock, as it is taken off: nobody takes this one's off
            session.execute(delete(JobRow).where(JobRow.id == job.id))  # attempts, events and deliveries go with it
        return [self._finish(job.id, job.named)]

    def _go_on(self, job_id: str) -> list[Pruned]:
        """Brings the removal of a marked job to its end; of one whose rows are there nothing had gone yet."""
        with self.database.write.begin() as session:
            if repository.take_job(session, job_id) is not None:
                (job_folder(self.state_dir, job_id) / _MARK).unlink(missing_ok=True)
                return []
        return [self._finish(job_id)]

    def _finish(self, job_id: str, named: Collection[str] | None = None) -> Pruned:
        storage = self.open_storage()
        try:
            storage.delete_study(storage.get_study_id_from_name(job_id))
        except KeyError:  # it never had one, or it is gone already
            pass
        finally:
            close_storage(storage)
        done = _remove(job_id, What.JOB, self._all_files(job_id, named))
        try:
            objects = self._objects.remove(job_id, What.JOB, self._objects.find(job_id, What.JOB, named=named))
            done = replace(done, files=done.files + objects.files, bytes=done.bytes + objects.bytes)
        except DataError as error:
            done = replace(done, kept=done.kept or str(error))
        if done.kept is not None:  # the mark stays
            return done
        try:
            self._remove_folders(job_id)
        except OSError as error:
            return replace(done, kept=str(error))
        return done

    def _remove_folders(self, job_id: str) -> None:
        folder, best = job_folder(self.state_dir, job_id), best_folder(self.state_dir, job_id)
        if folder.is_symlink():  # what it leads to is nobody's to remove
            return
        for path in folder.iterdir():
            if path == folder / _MARK or (path == best and self.policy.keep_best):
                continue
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (folder / _MARK).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()

    def _files(self, job: EndedJob, what: What) -> list[Path]:
        if what is What.JOB:
            return self._all_files(job.id, job.named)
        folder = job_folder(self.state_dir, job.id)
        found = self._there(path for pattern in _PATTERNS[what] for path in folder.glob(pattern))
        return found + self._former_files(job.id, job.named) if what is What.SCRATCH else found

    def _former_files(self, job_id: str, named: Collection[str]) -> list[Path]:
        best, here = best_folder(self.state_dir, job_id), [place for place in named if not is_url(place)]
        files = self._there(path for pattern in ("*", "*/*") for path in best.glob(pattern))
        return [path for path in files if is_former(path.relative_to(best).as_posix(), named=here)]

    def _there(self, paths: Iterable[Path]) -> list[Path]:
        """Of these the files, and not what links that a worker has made of folders lead to."""
        return [path for path in paths if path.is_file() and is_own(path, below=self.state_dir)]

    def _all_files(self, job_id: str, named: Collection[str] | None) -> list[Path]:
        """Of a job that goes: without those that stay; which are former ones is not known once its rows are gone."""
        folder, best = job_folder(self.state_dir, job_id), best_folder(self.state_dir, job_id)
        files = [path for path in self._there(folder.rglob("*")) if path.name != _MARK]
        if not self.policy.keep_best:
            return files
        former = self._former_files(job_id, named) if named is not None else []
        return [path for path in files if not path.is_relative_to(best)] + former


def _trying(job_id: str, what: What, remove: Callable[[], list[Pruned]]) -> list[Pruned]:
    """What a removal has done; one that the files do not allow holds up no other job."""
    try:
        return remove()
    except OSError as error:
        return [Pruned(job_id, what, 0, 0, str(error))]


def _remove(job_id: str, what: What, files: Sequence[Path]) -> Pruned:
    count = size = 0
    kept = None
    for path in files:
        of_this = _size(path)
        try:
            path.unlink()
        except FileNotFoundError:  # somebody else has removed it
            continue
        except OSError as error:
            kept = kept or str(error)
            continue
        count, size = count + 1, size + of_this
    return Pruned(job_id, what, count, size, kept)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _ended_jobs(session: Session, trackers: Sequence[str]) -> list[EndedJob]:
    untold = select(TrackedRow.job_id).where(TrackedRow.tracker.in_(trackers), TrackedRow.complete.is_(False))
    owed = set(session.scalars(select(DeliveryRow.job_id).where(DeliveryRow.due_at.is_not(None))))
    owed.update(session.scalars(untold))
    newest = _newest_studies(session)
    named = (JobRow.result["weights"].as_string(), JobRow.result["report"].as_string())
    columns = (JobRow.id, JobRow.ended_at, JobRow.study_id, *named)
    rows = session.execute(select(*columns).where(JobRow.state.in_(TERMINAL_STATES)))
    return [
        EndedJob(job_id, ended_at, job_id in owed or study_id in newest, tuple(each for each in places if each))
        for job_id, ended_at, study_id, *places in rows
        if ended_at is not None
    ]


def _newest_studies(session: Session) -> set[int | None]:
    """Those with the highest numbers of a study and of a trial, which SQLite would give to the next one again.

    Servers remember finished trials by these numbers. The job goes once there is a newer one.
    """
    by_trial = select(TrialModel.study_id).where(
        TrialModel.trial_id == select(func.max(TrialModel.trial_id)).scalar_subquery()
    )
    return {session.scalar(select(func.max(StudyModel.study_id))), session.scalar(by_trial)} - {None}


def _is_still(session: Session, job: EndedJob) -> bool:
    """Whether it has ended as it had when that was decided; nobody reopens it before this transaction is over."""
    row = repository.take_job(session, job.id)
    return row is not None and row.state in TERMINAL_STATES and row.ended_at == job.ended_at
