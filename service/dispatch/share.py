"""Whose turn it is: a pure function of what the jobs hold and want.

The higher priority first; of equals the job whose share is the smallest: what its trials hold of the resource that it
competes for (GPUs where a trial of it needs any, else CPUs) over its weight. Ties go to the older job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from fixnorm_core.spec import ShareSpec
from worker.contracts import Resources

__all__ = ["Claim", "first_in_turn"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job holds and wants.

    Attributes:
        job_id: The job.
        created_at: When it was submitted.
        share: Its weight and priority.
        needed: What one more trial of it holds.
        held: What its running trials hold together.
    """

    job_id: str
    created_at: datetime
    share: ShareSpec
    needed: Resources
    held: Resources


def first_in_turn(claims: Iterable[Claim]) -> Claim:
    """Whose turn it is.

    Raises:
        ValueError: If there is no claim.
    """
    return min(claims, key=lambda claim: (-claim.share.priority, _share(claim), claim.created_at, claim.job_id))


def _share(claim: Claim) -> float:
    held = claim.held.gpus if claim.needed.gpus > 0 else claim.held.cpus
    return held / claim.share.weight
