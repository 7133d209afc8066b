"""Whose turn it is, and what keeps a trial from starting: pure functions of what the jobs hold and want.

Turns go by priority; of equals to the user who holds the least; of one user's jobs to the one that holds the least for
its weight. What is held is counted in GPUs where a trial needs any, else in CPUs. Ties, of which there are many where
jobs outnumber slots, go to whoever was served longest ago: a user, then a job, whose time counts by its weight.

A trial that does not fit is passed over for a while. Then room is kept for it: nothing behind it takes what it lacks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from fixnorm_core.spec import ShareSpec
from worker.contracts import NOTHING, Node, Resources
from worker.room import Room

__all__ = ["UNLIMITED", "Claim", "Lane", "Obstacle", "Rules", "Turn", "Turns"]

UNLIMITED = Resources(math.inf, math.inf)

_NEVER = datetime.min.replace(tzinfo=UTC)

Lane = tuple[str | None, bool]
"""A user's jobs that compete for GPUs, or that do not: of the two, one does not wait for the other's turn."""

_Key = tuple[int, float, datetime, float, float, datetime, str]


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides.

    Attributes:
        user_max: What the running trials of one user hold together at most.
        patience: How long a trial that does not fit may be passed over.
    """

    user_max: Resources = UNLIMITED
    patience: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a job holds and may want.

    Attributes:
        job_id: The job.
        created_at: When it was submitted.
        share: Its weight, priority and user.
        needed: What one more trial of it holds.
        held: What its running trials hold together.
        served_at: When a trial of it was started last; None before the first.
        waiting_since: Since when a trial of it has wanted to start and could not; None when none has.
    """

    job_id: str
    created_at: datetime
    share: ShareSpec
    needed: Resources
    held: Resources
    served_at: datetime | None = None
    waiting_since: datetime | None = None

    @property
    def lane(self) -> Lane:
        """In whose turn it is."""
        return self.share.user, self.needed.gpus > 0


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a trial cannot start now.

    Attributes:
        reason: For a person; stays the same while others come and go.
        now: The rest of the sentence, which does not.
    """

    reason: str
    now: str


@dataclass(slots=True)
class _User:
    held: Resources = NOTHING
    kept: Claim | None = None


@dataclass(slots=True)
class Turns:
    """The jobs in turn, while trials of them are started.

    Attributes:
        claims: One of each job that has not ended.
        nodes: The machines that trials can run on.
        rules: The operator's.
        now: The time. Nothing has waited longer for a clock that was set back, nor less than not at all.
        served: When a trial of each user was started last, of jobs that have ended since; see :data:`Lane`.
    """

    claims: Iterable[Claim]
    nodes: Sequence[Node]
    rules: Rules
    now: datetime
    served: Mapping[Lane, datetime] = field(default_factory=dict)
    _served: dict[Lane, datetime] = field(default_factory=dict, init=False)
    _users: dict[str | None, _User] = field(default_factory=dict, init=False)
    _heap: list[tuple[_Key, Claim]] = field(default_factory=list, init=False)
    _kept: Claim | None = field(default=None, init=False)
    _capacity: Resources = field(init=False)

    def __post_init__(self) -> None:
        self._capacity = Resources.together(node.total for node in self.nodes)
        claims = list(self.claims)
        self._served.update(self.served)
        for claim in claims:
            self._users.setdefault(claim.share.user, _User()).held += claim.held
            self._note_served(claim.lane, claim.served_at or _NEVER)
        self._heap = [(self._key(claim), claim) for claim in claims]
        heapq.heapify(self._heap)

    def pop(self) -> Claim | None:
        """Whose turn it is, of those that have not had theirs; None when all have."""
        while self._heap:
            key, claim = heapq.heappop(self._heap)
            if (present := self._key(claim)) <= key:
                return claim
            heapq.heappush(self._heap, (present, claim))  # its user has been served since
        return None

    def start(self, claim: Claim) -> None:
        """Notes that a trial of a job has started; the job has another turn."""
        self._users[claim.share.user].held += claim.needed
        self._note_served(claim.lane, self.now)
        claim = replace(claim, held=claim.held + claim.needed, served_at=self.now, waiting_since=None)
        heapq.heappush(self._heap, (self._key(claim), claim))

    def nodes_for(self, claim: Claim, *, free: Room) -> Sequence[str]:
        """Where a trial of a job may be started that has no obstacle, the best first."""
        return self._left(free).nodes_for(claim.needed)

    def obstacle(self, claim: Claim, *, free: Room) -> Obstacle | None:
        """What keeps a trial of a job, whose turn it is, from starting; None if it may. If it has waited long enough,
        room is kept for it from now on.

        Args:
            claim: The job's.
            free: What no trial holds.
        """
        user, total = self._users[claim.share.user], free.total
        now = f"free: {total}"
        has_place = claim.needed.fits_in(_without(self.rules.user_max - user.held, user.kept))
        if has_place and self._left(free).fits(claim.needed):
            return None
        kept_for = self._kept
        if self._is_overdue(claim) and claim.needed.fits_in(self.rules.user_max):
            user.kept = user.kept or claim
            if has_place and free.could_hold(claim.needed):
                self._kept = self._kept or claim
        if not has_place:
            whose = "without a user" if claim.share.user is None else f"of user {claim.share.user!r}"
            return Obstacle(f"waiting for other trials {whose}: {self._cap()}", f"they hold {user.held}")
        part = claim.needed.on_one_node
        if sum(part.fits_in(node.total) for node in self.nodes) < claim.needed.nodes:
            sizes = "; ".join(dict.fromkeys(str(node.total) for node in self.nodes)) or "nothing"
            now = f"the whole cluster has {self._capacity} now"
            few = (
                f"not {claim.needed.nodes} nodes of it {part} each"
                if claim.needed.nodes > 1
                else "no node of it that much"
            )
            now += f", and {few}: they have {sizes}" if claim.needed.fits_in(self._capacity) else ""
        elif kept_for is not None:
            now += f", of which room is kept for {kept_for.job_id}"
        elif self._kept is claim:
            now += ", which is kept for it"
        elif claim.needed.fits_in(total):
            one = f"{claim.needed.nodes} nodes, {part} on each" if claim.needed.nodes > 1 else "one node"
            now += f", but not on {'one GPU' if 0 < claim.needed.gpus < 1 else one}"
        return Obstacle(f"waiting for room: a trial needs {claim.needed}", "; ".join([now, *free.notes]))

    def _left(self, free: Room) -> Room:
        """What is free for others than the one that room is kept for."""
        return free if self._kept is None else free.without(self._kept.needed)

    def _note_served(self, lane: Lane, at: datetime) -> None:
        self._served[lane] = max(at, self._served.get(lane, _NEVER))

    def _is_overdue(self, claim: Claim) -> bool:
        return claim.waiting_since is not None and self.now - claim.waiting_since >= self.rules.patience

    def _cap(self) -> str:
        amounts = {"GPUs": self.rules.user_max.gpus, "CPUs": self.rules.user_max.cpus}
        return "a user's may hold " + " and ".join(f"{n:g} {what}" for what, n in amounts.items() if n < math.inf)

    def _key(self, claim: Claim) -> _Key:
        """Only grows while trials are started, which is why the heap may hold older ones."""
        user, share = self._users[claim.share.user], claim.share
        waited = max(timedelta(0), self.now - (claim.served_at or claim.created_at))
        return (
            -share.priority,
            self._fraction(claim, user.held),
            self._served[claim.lane],
            round(self._fraction(claim, claim.held) / share.weight, 9),
            -waited.total_seconds() * share.weight,
            claim.created_at,
            claim.job_id,
        )

    def _fraction(self, claim: Claim, held: Resources) -> float:
        """Of all that there is of the resource that a job competes for."""
        if claim.lane[1]:
            return round(held.gpus / (self._capacity.gpus or 1.0), 9)
        return round(held.cpus / (self._capacity.cpus or 1.0), 9)


@dataclass(slots=True)
class Turn:
    """The turn of one job.

    Attributes:
        turns: Of all.
        claim: The job's.
        free: Tells what is free by now: the job may have freed some itself.
    """

    turns: Turns
    claim: Claim
    free: Callable[[], Room]
    _room: Room | None = field(default=None, init=False)

    def obstacle(self) -> Obstacle | None:
        """What keeps a trial of it from starting now; None if it may."""
        self._room = self.free()
        return self.turns.obstacle(self.claim, free=self._room)

    def nodes(self) -> Sequence[str]:
        """Where it may be started that had no obstacle when that was asked last, the best first."""
        return self.turns.nodes_for(self.claim, free=self._room or self.free())


def _without(room: Resources, kept: Claim | None) -> Resources:
    """What is left for others: all of what the claim needs none of; of the rest what it leaves."""
    if kept is None:
        return room
    return Resources(_less(room.cpus, kept.needed.cpus), _less(room.gpus, kept.needed.gpus))


def _less(room: float, kept: float) -> float:
    return max(0.0, room - kept) if kept > 0 else room
