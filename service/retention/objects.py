"""What of a job's objects in a store goes with what of its files."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.buckets import is_url
from service.jobs.files import best_name, job_name
from service.retention.former import is_former
from service.retention.policy import EndedJob, Pruned, What

__all__ = ["Objects"]

_PATTERNS = {What.CHECKPOINTS: "trials/*/*/checkpoint-*", What.LOGS: "trials/*/logs/*"}


@dataclass(slots=True)
class Objects:
    """The objects of jobs.

    Attributes:
        store: Where they are; None where nodes keep nothing in one.
        keep_best: Whether a removed job's best weights, report and job file stay.
    """

    store: ArtifactStore | None
    keep_best: bool
    _looked: set[tuple[str, datetime, What]] = field(default_factory=set, init=False)

    def find(self, job_id: str, what: What, *, named: Collection[str] | None = None) -> Mapping[str, int]:
        """The names of what would be removed, with bytes.

        Args:
            job_id: Of the job.
            what: What of it.
            named: The paths and addresses in its result; None if that is not known any more.

        Raises:
            DataError: If the store refuses, or does not answer.
        """
        if self.store is None:
            return {}
        best = f"{best_name(job_id)}/"

        def may_go(name: str) -> bool:
            if not name.startswith(best) or named is None:
                return False
            return is_former(name.removeprefix(best), named=[place for place in named if is_url(place)])

        if what is What.SCRATCH:  # nothing is half-written in a store
            return {name: size for name, size in self.store.find(best_name(job_id)).items() if may_go(name)}
        found = self.store.find(job_name(job_id))
        if what is What.JOB:
            keep = self.keep_best
            return {
                name: size for name, size in found.items() if not (keep and name.startswith(best) and not may_go(name))
            }
        pattern = f"{job_name(job_id)}/{_PATTERNS[what]}"
        return {name: size for name, size in found.items() if PurePosixPath(name).match(pattern)}

    def find_once(self, job: EndedJob, what: What) -> Mapping[str, int]:
        """As :meth:`find`, once in this process: what an attempt that was cut off leaves later goes with its job.

        Raises:
            DataError: As there.
        """
        key = (job.id, job.ended_at, what)
        if self.store is None or key in self._looked:
            return {}
        found = self.find(job.id, what, named=job.named)
        if not found:
            self._looked.add(key)
        return found

    def remove(self, job_id: str, what: What, names: Mapping[str, int]) -> Pruned:
        """Removes what was found.

        Raises:
            DataError: As there.
        """
        if self.store is not None and names:
            self.store.remove(names)
        return Pruned(job_id, what, len(names), sum(names.values()))
