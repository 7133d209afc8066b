"""What keeps a trial's files where another attempt, on another node, and the server find them.

Where server and nodes share a folder, its files are there already. Elsewhere an attempt works in a scratch folder of
its own: it fetches what the attempts before it have left in an object store, and after each epoch puts there what is
new. Each attempt writes below its own number, so that one which goes on without its server, after a later one has
begun, can spoil nothing of that one's. What is put comes before what is told: a result names weights that are there.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from fixnorm_core.artifacts import Artifacts, ArtifactStore, Damaged, attempt_folder, code_name, log_name
from fixnorm_core.code import digest_of
from fixnorm_core.data.store import Pace, open_store
from fixnorm_core.disk import full_disk
from fixnorm_core.errors import DataError, FixNormError, WeightsError
from fixnorm_core.reports import RECORD_NAME, TrialResult
from fixnorm_core.spec import TrialSpec
from worker.contracts import EvaluateTask, Task, log_path
from worker.kept_log import KeptLog, put_what_is_left

__all__ = ["Keeper", "NodeUnfit", "prepared", "with_code"]

log = logging.getLogger("fixnorm_core")

_OURS = re.compile(r"job-\w+\.\d+\.\d+(\.rank-\d+)?\.lock")
"""Locks of scratch folders: the name of an attempt, and perhaps of a rank."""

_SCRATCH = (
    "Have the operator set FIXNORM_SCRATCH to a folder that the account of the workers may write to, on every node"
)

_WEIGHTS, _BEST, _CHECKPOINTS = "weights.safetensors", "best.safetensors", "checkpoint-*.pt"


class NodeUnfit(DataError):
    """This node lacks what a trial of any job needs there, which another may have."""


class Keeper(Protocol):
    """Keeps the files of one attempt."""

    def begin(self, trial: TrialSpec) -> None:
        """Fetches what the attempt goes on from."""

    def keep(self) -> None:
        """Puts away what is new. What is told afterwards is not lost with this node."""

    def located(self, result: TrialResult) -> TrialResult:
        """The result, with the places of files by which a server finds them."""

    def keep_log(self) -> None:
        """Puts the log away as it is now; one that cannot be is no reason to fail."""


class _InPlace:
    """Nothing to do: the folder is the server's too, or this is not the first rank, which speaks for all."""

    def begin(self, trial: TrialSpec) -> None:
        pass

    def keep(self) -> None:
        pass

    def located(self, result: TrialResult) -> TrialResult:
        return result

    def keep_log(self) -> None:
        pass


@dataclass(slots=True)
class _InStore:
    """Keeps them in an object store.

    Attributes:
        store: Where.
        artifacts: What of it is the trial's.
        task: What is done, in its scratch folder.
        log: Its log.
        rank: Of this process; only the first keeps more than its log.
    """

    store: ArtifactStore
    artifacts: Artifacts
    task: Task
    log: KeptLog
    rank: int = 0
    _there: set[str] = field(default_factory=set, init=False)
    _known: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _refused: set[str] = field(default_factory=set, init=False)

    def begin(self, trial: TrialSpec) -> None:
        if self.rank:
            return
        start = len(self.artifacts.folder) + 1
        names = {name[start:] for name in self.store.find(self.artifacts.folder)}
        self._there = {name for name in names if name <= f"{self._own}/~" and name.startswith("attempt-")}
        if isinstance(self.task, EvaluateTask):
            if self._fetch_newest(_WEIGHTS) is None:
                raise DataError(
                    f"there are no whole weights of the trial in {self.store.url}/{self.artifacts.folder}",
                    "Look who removes or changes objects there; 'fixnorm-tune retry' evaluates them once they are back",
                )
        elif not self._fetch_finished(trial) and (attempt := self._fetch_checkpoint(trial)) is not None:
            # The best of the epochs that the checkpoint tells of: another attempt's may be of another run
            self._get(f"{attempt}/{_BEST}") or self._fetch_newest(_BEST)
        self.keep_log()

    def keep(self) -> None:
        if self.rank:
            return
        # Weights before the record that tells of them, that before checkpoints go
        present = [path for name in (_BEST, _WEIGHTS, RECORD_NAME) if (path := self._folder / name).is_file()]
        checkpoints = sorted(self._folder.glob(_CHECKPOINTS))
        put = {path.name for path in (*present, *checkpoints) if self._put(path)}
        if put - {_BEST}:  # there is more to go on from than what was fetched
            self._remove_outdated({path.name for path in (*present, *checkpoints)})
        self.keep_log()

    def located(self, result: TrialResult) -> TrialResult:
        places = {"weights": result.weights, "best_weights": result.best_weights}
        urls = {
            what: f"{self.store.url}/{self._key(f'{self._own}/{Path(path).name}')}"
            for what, path in places.items()
            if path is not None
        }
        return result.model_copy(update=urls)

    def keep_log(self) -> None:
        self.log.put()

    @property
    def _folder(self) -> Path:
        return Path(self.task.folder)

    @property
    def _own(self) -> str:
        return attempt_folder(self.artifacts.attempt)

    def _key(self, name: str) -> str:
        return f"{self.artifacts.folder}/{name}"

    def _put(self, path: Path) -> bool:
        """Puts a file there unless that has been done, or it was a checkpoint that came from there."""
        facts = path.stat()
        signature = (facts.st_mtime_ns, facts.st_size)
        if self._known.get(path.name) == signature:
            return False
        name = f"{self._own}/{path.name}"
        self.store.put(path, self._key(name))
        self._there.add(name)
        self._known[path.name] = signature
        return True

    def _remove_outdated(self, local: set[str]) -> None:
        """Of this attempt's and earlier ones' objects those that are here no more, or that this one has put anew."""
        outdated = set()
        for name in self._there - self._refused:
            attempt, _, file = name.rpartition("/")
            if attempt == self._own:
                is_outdated = file not in local
            else:
                is_outdated = f"{self._own}/{file}" in self._there or file not in local
            if is_outdated:
                outdated.add(name)
        with _noting("outdated objects are left in the store"):
            self.store.remove([self._key(name) for name in outdated])
            self._there -= outdated

    def _fetch_newest(self, file: str) -> str | None:
        """Fetches a file from the last attempt that has left one; tells which, or None if there is none."""
        for name in sorted(self._there, reverse=True):
            if PurePosixPath(name).name == file and name not in self._refused and self._get(name):
                return str(PurePosixPath(name).parent)
        return None

    def _get(self, name: str) -> bool:
        """Fetches an attempt's file; one that is damaged is told of, left alone, and as good as none."""
        try:
            return self.store.get(self._key(name), self._folder / PurePosixPath(name).name)
        except Damaged as error:
            log.warning("%s", error.rule)
            self._refused.add(name)
            return False

    def _fetch_finished(self, trial: TrialSpec) -> bool:
        """Fetches a finished run with its weights, of an attempt that ended before its server had heard of that."""
        from fixnorm_core.training.record import read_finished

        if (attempt := self._fetch_newest(RECORD_NAME)) is None:
            return False
        for file in (_WEIGHTS, _BEST):
            self._get(f"{attempt}/{file}")
        if read_finished(self._folder, fingerprint=_fingerprint(trial)) is not None:
            return True
        for file in (RECORD_NAME, _WEIGHTS, _BEST):
            (self._folder / file).unlink(missing_ok=True)
            self._refused.add(f"{attempt}/{file}")
        return False

    def _fetch_checkpoint(self, trial: TrialSpec) -> str | None:
        """Fetches the newest one that is whole and of this run, and tells whose; others are told of and left alone."""
        from fixnorm_core.training.checkpoint import load_checkpoint

        own = _fingerprint(trial)
        found = [name for name in self._there if PurePosixPath(name).match(_CHECKPOINTS)]
        for name in sorted(found, key=lambda name: (PurePosixPath(name).name, name), reverse=True):
            path = self._folder / PurePosixPath(name).name
            if not self._get(name):
                continue
            try:
                load_checkpoint(path, fingerprint=own)
            except WeightsError as error:
                log.warning("not resuming from %s/%s: %s", self.store.url, self._key(name), error.rule)
                self._refused |= {name, str(PurePosixPath(name).with_name(_BEST))}
                path.unlink()
                continue
            facts = path.stat()
            self._known[path.name] = (facts.st_mtime_ns, facts.st_size)
            self._refused.discard(str(PurePosixPath(name).with_name(_BEST)))
            return str(PurePosixPath(name).parent)
        return None


def _fingerprint(trial: TrialSpec) -> str:
    from fixnorm_core.training.device import pick_device
    from fixnorm_core.training.record import fingerprint

    return fingerprint(trial, device=pick_device(trial.training.device))


@contextmanager
def _noting(what: str) -> Iterator[None]:
    """Logs that a store refused what can be done later, or need not be done."""
    try:
        yield
    except FixNormError as error:
        log.warning("%s: %s", what, error)


@contextmanager
def prepared(task: Task, *, rank: int = 0) -> Iterator[tuple[Task, Keeper]]:
    """The task as it is done here, and who keeps its files. Without a store that is the task itself.

    With one it is done in a scratch folder, which goes when the block ends; what a killed process left of such folders
    on this machine goes when the next one begins.

    Raises:
        NodeUnfit: If the extra ``s3`` is not installed, or the scratch folder cannot be made.
        OSError: If the disk is full.
    """
    artifacts = task.artifacts
    if artifacts is None:
        yield task, _InPlace()
        return
    try:
        open_store(artifacts.url)  # else nobody would say what is not installed
    except DataError as error:
        raise NodeUnfit(error.rule, error.way_out) from error
    with _scratch(_root(artifacts), f"{task.attempt_id}{f'.rank-{rank}' if rank else ''}") as folder:
        store = ArtifactStore(artifacts.url, artifacts.patience_seconds, Pace.TRANSFER, excused=True)
        here = replace(task, folder=str(folder))
        name = f"{artifacts.folder}/{log_name(task.attempt_id, rank=rank)}"
        kept = KeptLog(artifacts.url, name, log_path(here.folder, task.attempt_id), folder)
        with kept.following():
            yield here, _InStore(store, artifacts, here, kept, rank)


def with_code(task: Task) -> Task:
    """The task with the Python files that came with its job, fetched to where it reads them.

    Raises:
        BucketDown: If the store does not answer.
    """
    artifacts, reach = task.artifacts, task.reach
    digests = {digest_of(name) for name in (task.trial.model.name, task.trial.data.name)} - {None}
    if artifacts is None or reach.code is None or not digests:
        return task
    store = ArtifactStore(artifacts.url, artifacts.patience_seconds, excused=True)
    folder = Path(task.folder) / "code"
    for digest in digests:
        assert digest is not None
        store.get(code_name(digest), folder / f"{digest}.py")  # one that is missing is told of where it is imported
    return replace(task, reach=replace(reach, code=str(folder)))


@contextmanager
def _scratch(root: Path, name: str) -> Iterator[Path]:
    """A folder that is this process' alone as long as the block runs."""
    from filelock import FileLock

    folder = root / name
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _require_own(root)
        _sweep(root)
        lock = FileLock(f"{folder}.lock")  # the system lets go of it when this process dies
        with suppress(NotImplementedError, OSError):  # a file system without locks; nothing is swept there
            lock.acquire()
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if full_disk(error) is not None:
            raise
        raise NodeUnfit(f"trials cannot work in {root}: {error.strerror}", _SCRATCH) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _require_own(root: Path) -> None:
    """Refuses a folder that another account made first, where all may make some: it could lead what is written away."""
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & stat.S_IWOTH:
        raise NodeUnfit(
            f"trials cannot work in {root}: it is a link, another account's, or others may write to it", _SCRATCH
        )
    if found.st_mode & stat.S_IWGRP:  # as Kubernetes makes it, which gives a volume to a pod's group
        root.chmod(0o700)


def _sweep(root: Path) -> None:
    """Removes folders whose process is gone: their locks are free. Whatever else is there is somebody's."""
    from filelock import FileLock

    for path in root.glob("*.lock"):
        if _OURS.fullmatch(path.name) is None:
            continue
        lock = FileLock(path)
        try:
            lock.acquire(blocking=False)
        except (OSError, NotImplementedError):  # Timeout, which is one: somebody works there
            continue
        put_what_is_left(path.with_suffix(""))
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)
        path.unlink(missing_ok=True)
        lock.release()


def _root(artifacts: Artifacts) -> Path:
    """Where this account's scratch folders are, and nothing else: an operator may name a folder that has other uses."""
    if artifacts.scratch is not None:
        return Path(artifacts.scratch) / f"fixnorm-tune-trials-{os.getuid()}"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fixnorm-tune" / "trials"
    except RuntimeError as error:
        raise NodeUnfit(f"the account {os.getuid()} of the workers has no home folder to work in", _SCRATCH) from error
