"""Who has what and who waits for it, in which order and why: worked out when it is asked for, from stored rows.

So every server can tell, and nothing has to be written for all that wait whenever one of them goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from service.queue.share import Claim, Obstacle, Rules, Turns
from service.queue.standing import MEMORY, Standing, count_running, last_served, load_standings
from worker.contracts import Node, Resources
from worker.room import Layout

__all__ = ["Place", "find_places", "ordinal"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where one job stands.

    Attributes:
        standing: What its row says.
        claim: What it holds and wants.
        number: Its place among those that wait, from 1; None when it does not wait.
        obstacle: What keeps a trial of it from starting; None when nothing does, or it does not wait.
    """

    standing: Standing
    claim: Claim
    number: int | None = None
    obstacle: Obstacle | None = None

    @property
    def reason(self) -> str:
        """Why it waits, down to what is free now; what its row says if it does not wait."""
        if self.number is None:
            return self.standing.reason
        if self.obstacle is None:
            return "there is room: it starts at the next look"
        return f"{self.obstacle.reason}; {self.obstacle.now}"


def find_places(
    session: Session, *, layout: Layout | Sequence[Node], rules: Rules, now: datetime, newcomer: Standing | None = None
) -> list[Place]:
    """Of all jobs that have not ended: those that wait, in their order, then the others, oldest first.

    Args:
        session: A reading session.
        layout: What is held on which node; where that is not known, the nodes: it is taken to be packed well then.
        rules: The operator's.
        now: The time.
        newcomer: One more, which has not been submitted.
    """
    known_here = [*load_standings(session), *([] if newcomer is None else [newcomer])]
    standings = {each.job_id: each for each in known_here}
    running = count_running(session)
    claims = {
        job_id: each.claim(Resources.together([each.needed] * running.get(job_id, 0)))
        for job_id, each in standings.items()
    }
    if not isinstance(layout, Layout):
        trials = [standings[job_id].needed for job_id in claims for _ in range(running.get(job_id, 0))]
        layout = Layout(layout, [(needed, None) for needed in trials])
    free = layout.room()
    turns = Turns(claims.values(), layout.nodes, rules, now, last_served(session, after=now - MEMORY))
    waiting: list[Place] = []
    while (claim := turns.pop()) is not None:
        standing = standings[claim.job_id]
        if standing.waits:
            waiting.append(Place(standing, claim, len(waiting) + 1, turns.obstacle(claim, free=free)))
    known = {place.standing.job_id for place in waiting}
    others = [Place(standings[job_id], claim) for job_id, claim in claims.items() if job_id not in known]
    return waiting + others


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
