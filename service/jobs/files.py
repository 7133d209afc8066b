"""The files of jobs, as a server finds them: in its state folder, or in the object store that nodes keep them in."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from fixnorm_core.artifacts import Artifacts, ArtifactStore, code_name, log_name
from fixnorm_core.buckets import is_url, safe_parts
from fixnorm_core.code import digest_of, has_code, keep_code
from fixnorm_core.data.store import Pace
from fixnorm_core.errors import DataError
from fixnorm_core.reports import RECORD_NAME
from fixnorm_core.spec import JobSpec
from service.jobs.folders import open_own, trial_folder
from worker.contracts import log_path

__all__ = ["JobFiles", "LogFile", "best_name", "job_name", "trial_name"]

_BEST = "best"


@dataclass(frozen=True, slots=True)
class LogFile:
    """What an attempt has logged.

    Attributes:
        path: Where it lies if server and nodes share a folder, and what the server itself adds.
        below: The state folder that is in.
        store: Where it is looked for if it does not lie there; None for nowhere.
        name: Its name there.
        last_words: What the server has to say of the attempt's end, which comes after what is in the store.
    """

    path: Path
    below: Path
    store: ArtifactStore | None = None
    name: str = ""
    last_words: bytes = b""

    def size(self) -> int | None:
        """Its bytes; None if there is nothing of it.

        Raises:
            BucketDown: If the store does not answer.
        """
        if (store := self._store()) is None:
            try:
                with open_own(self.path, below=self.below) as file:
                    return os.fstat(file.fileno()).st_size
            except FileNotFoundError:
                return None
        stored = store.size(self.name)
        return (stored or 0) + len(self.last_words) if stored is not None or self.last_words else None

    def read(self, offset: int, most: int) -> bytes:
        """At most so many bytes from an offset on; empty at its end, and where there is nothing of it.

        Raises:
            BucketDown: As above.
        """
        if (store := self._store()) is None:
            try:
                with open_own(self.path, below=self.below) as file:
                    file.seek(offset)
                    return file.read(most)
            except FileNotFoundError:  # its worker has not begun
                return b""
        stored = store.size(self.name) or 0
        if offset < stored:
            return store.read(self.name, start=offset, end=min(stored, offset + most)) or b""
        return self.last_words[offset - stored :][:most]

    def _store(self) -> ArtifactStore | None:
        """None where the folder has it: of an attempt before there was a store, say."""
        return None if self.store is None or self.path.exists() else self.store


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Tells where files are, and fetches them.

    Attributes:
        state_dir: The server's own folder, which nodes see too where there is no store.
        store: Where nodes keep what they leave; None where they share that folder.
        scratch: The folder of each node that trials work in then; None for the account's cache.
    """

    state_dir: Path
    store: ArtifactStore | None = None
    scratch: str | None = None

    def artifacts(self, job_id: str, number: int, attempt_id: str) -> Artifacts | None:
        """Where an attempt at a trial keeps its files, if not in the folder."""
        if self.store is None:
            return None
        count = int(attempt_id.rpartition(".")[2])
        return Artifacts(self.store.url, trial_name(job_id, number), count, self.scratch)

    def log(self, job_id: str, number: int, attempt_id: str, *, last_words: str = "") -> LogFile:
        """The log of an attempt."""
        path = log_path(trial_folder(self.state_dir, job_id, number), attempt_id)
        name = f"{trial_name(job_id, number)}/{log_name(attempt_id)}"
        return LogFile(path, self.state_dir, self.store, name, last_words.encode())

    def record(self, job_id: str, number: int, weights: str | None) -> bytes:
        """What a finished run has left beside its weights.

        Raises:
            OSError: If it is not there, or cannot be read.
            DataError: If the store refuses, or does not answer.
        """
        if weights is None or not is_url(weights):
            own = trial_folder(self.state_dir, job_id, number) / RECORD_NAME
            with open_own(own, below=self.state_dir) as file:
                return file.read()
        name = str(PurePosixPath(self.name_of(weights)).parent / RECORD_NAME)
        if (content := self._needed.read(name)) is None:
            raise FileNotFoundError(f"there is no {name} in the store")
        return content

    def store_of(self, url: str) -> tuple[ArtifactStore, str]:
        """The store that holds an address, and the object's name there.

        Raises:
            DataError: If it is in none that this server knows.
        """
        return self._needed, self.name_of(url)

    def name_of(self, url: str) -> str:
        """The name of an object in the store.

        Raises:
            DataError: If it is in none that this server knows.
        """
        root = f"{self._needed.url}/"
        if not url.startswith(root):
            raise DataError(
                f"{url} is not below {root}, where this server keeps files of jobs",
                "Set FIXNORM_ARTIFACTS to the address that the job was run with",
            )
        return url[len(root) :]

    def is_of(self, url: str, job_id: str, number: int) -> bool:
        """Whether an address is one of a trial's files.

        Raises:
            DataError: If this server knows of no store.
        """
        name = url.removeprefix(f"{self._needed.url}/")
        return name.startswith(f"{trial_name(job_id, number)}/") and safe_parts(name) is not None

    def copy(self, weights: str, url: str) -> None:
        """Has the store copy weights to where they stay.

        Raises:
            NotThere: If they are gone.
            BucketDown: If the store does not answer, or refuses what it is asked for.
        """
        self._patient.copy(self.name_of(weights), self.name_of(url))

    def write(self, url: str, text: str) -> None:
        """Puts a text there.

        Raises:
            BucketDown: As above.
        """
        self._patient.write(self.name_of(url), text.encode())

    def read(self, url: str) -> str | None:
        """A text from there; None if it is there no more.

        Raises:
            DataError: As above.
        """
        content = self._needed.read(self.name_of(url))
        return content.decode() if content is not None else None

    def keep_code(self, text: str, *, folder: Path) -> None:
        """Keeps a Python file that came with a job, where its workers find it.

        Raises:
            OSError: If there is no room, say.
            DataError: As above.
        """
        digest = keep_code(text, folder=folder)
        if self.store is not None and self.store.size(code_name(digest)) is None:
            self.store.write(code_name(digest), text.encode())

    def have_code(self, spec: JobSpec, *, folder: Path) -> None:
        """Fetches the Python files that a stored job names, if they came to another server.

        Raises:
            DataError: As above.
        """
        if self.store is None:
            return
        for name in (spec.model.name, spec.data.name):
            if (digest := digest_of(name)) is not None and not has_code(digest, folder=folder):
                content = self.store.read(code_name(digest))
                if content is not None and sha256(content).hexdigest() == digest:  # else it is not what came
                    keep_code(content.decode(), folder=folder)

    @property
    def _patient(self) -> ArtifactStore:
        """The store where a job's end waits for it: what has to be copied may be large, and what is refused mended."""
        return ArtifactStore(self._needed.url, pace=Pace.SLOW, excused=True)

    @property
    def _needed(self) -> ArtifactStore:
        if self.store is None:
            raise DataError(
                "files of the job are in an object store, and this server knows of none",
                "Set FIXNORM_ARTIFACTS to the address that the job was run with",
            )
        return self.store


def job_name(job_id: str) -> str:
    """What the names of all objects of a job begin with."""
    return f"jobs/{job_id}"


def trial_name(job_id: str, number: int) -> str:
    """Likewise of a trial."""
    return f"{job_name(job_id)}/trials/{number:04d}"


def best_name(job_id: str) -> str:
    """Likewise of what a user takes away."""
    return f"{job_name(job_id)}/{_BEST}"
