"""When a node is taken out of use, for how long, and what it may do then: pure functions of what ended there.

A node is condemned when trials are lost there again and again: at least three different ones within an hour, and at
least half of all that ended there. It is out of use for a while, four times as long each further time, and then on
probation: it takes one trial at a time until one ends well, and a single loss condemns it again. What a job loses on
several nodes alike, while nothing of it ends well anywhere, is the job's own doing and counts against none.

No trial waits for ever: where no other node in use could stand in for a condemned one, it is on probation at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from worker.contracts import Node

__all__ = ["WINDOW", "End", "Sentence", "Standing", "condemn", "sentence", "stand"]

WINDOW = timedelta(hours=1)
"""What ended longer ago counts no more."""

_TRIALS = 3
_GROWTH = 4
_LONGEST = timedelta(hours=6)
_FORGOTTEN = timedelta(hours=24)
"""A node that has been well for so long begins with the shortest time again."""


@dataclass(frozen=True, slots=True)
class End:
    """An attempt that ended by itself on a node.

    Attributes:
        lost: Whether its worker, node or GPU failed it; else it ended well.
        reason: Why, if so.
    """

    node: str
    job_id: str
    trial: int
    at: datetime
    lost: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Sentence:
    """What a node was last condemned to.

    Attributes:
        reason: Why, for a person.
        until: When it is on probation.
        times: How often in a row it was.
        lifted_at: When a trial ended well there; None while none has.
    """

    node: str
    reason: str
    since: datetime
    until: datetime
    times: int
    lifted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a node stands that is not simply in use.

    Attributes:
        is_out: Whether nothing starts there; else one trial at a time does.
        until: When that changes by itself; None on probation.
        says: All of it as a sentence.
    """

    is_out: bool
    until: datetime | None
    says: str


def condemn(node: str, ends: Iterable[End], *, on_probation: bool, since: datetime | None, now: datetime) -> str | None:
    """Why a node is to be condemned after what was lost there last; None if it is not.

    Args:
        node: Its name.
        ends: What ended, on all nodes, oldest first.
        on_probation: Whether it was.
        since: When it was condemned last: what it has atoned for is not held against it again.
        now: The time.
    """
    recent = [end for end in ends if end.at > now - WINDOW]
    here = [end for end in recent if end.node == node and (since is None or end.at > since)]
    lost = [end for end in here if end.lost and not _is_the_jobs_own(end.job_id, recent)]
    trials = {(end.job_id, end.trial) for end in lost}
    if not lost or (len(trials) < _TRIALS and not on_probation):
        return None
    if 2 * len(lost) < len(here):
        return None
    what = "1 trial was" if len(trials) == 1 else f"{len(trials)} trials were"
    return f"{what} lost there within an hour, the last one with: {lost[-1].reason}"


def sentence(node: str, reason: str, *, earlier: Sentence | None, first: timedelta, now: datetime) -> Sentence:
    """What a condemned node gets.

    Args:
        node: Its name.
        reason: Why.
        earlier: What it was condemned to before.
        first: How long it is out of use the first time.
        now: The time.
    """
    times = 1
    if earlier is not None and now < (earlier.lifted_at or earlier.until) + _FORGOTTEN:
        times = earlier.times + 1
    lasts = min(first * _GROWTH ** min(times - 1, 10), max(_LONGEST, first))
    return Sentence(node, reason, now, now + lasts, times)


def stand(nodes: Sequence[Node], sentences: Mapping[str, Sentence], *, now: datetime) -> Mapping[str, Standing]:
    """How those of the nodes stand that are not simply in use, by name."""
    bound = {name: each for name, each in sentences.items() if each.lifted_at is None}
    out = [node for node in nodes if node.name in bound and now < bound[node.name].until]
    usable = [node for node in nodes if node not in out]
    found = {}
    for node in usable:
        if node.name in bound:
            says = f"{node.name} takes one trial at a time until one ends well: {bound[node.name].reason}"
            found[node.name] = Standing(False, None, says)
    for node in sorted(out, key=lambda each: bound[each.name].until):
        told = bound[node.name]
        if any(other.total.gpus > 0 or node.total.gpus == 0 for other in usable):
            says = f"{node.name} is out of use until {told.until:%H:%M:%S} UTC: {told.reason}"
            found[node.name] = Standing(True, told.until, says)
        else:
            usable.append(node)
            other = "other node with a GPU" if node.total.gpus > 0 else "other node"
            says = f"{node.name} takes one trial at a time, as no {other} is in use, until one ends well: {told.reason}"
            found[node.name] = Standing(False, None, says)
    return found


def _is_the_jobs_own(job_id: str, recent: Sequence[End]) -> bool:
    mine = [end for end in recent if end.job_id == job_id]
    return all(end.lost for end in mine) and len({end.node for end in mine}) > 1
