"""``/api/v1/queue``: who holds what, and who waits for it."""

from __future__ import annotations

from fastapi import APIRouter

from service.nodes.views import node_views
from service.queue.places import Place, find_places
from service.queue.schemas import Amount, QueueEntry, QueueView
from service.runtime import Running
from worker.contracts import Resources

__all__ = ["router"]

router = APIRouter(tags=["queue"])


@router.get("/queue")
def show_queue(running: Running) -> QueueView:
    """All jobs that have not ended: those that wait for room in their order and why, then the others."""
    with running.database.read() as session:
        places = find_places(session, layout=running.layout(), rules=running.rules, now=running.now())
        nodes = node_views(session, running.present, now=running.now())
    held = Resources.together(place.claim.held for place in places)
    return QueueView(
        capacity=_amount(running.capacity), held=_amount(held), jobs=tuple(map(_entry, places)), nodes=nodes
    )


def _entry(place: Place) -> QueueEntry:
    standing, claim = place.standing, place.claim
    return QueueEntry(
        id=standing.job_id,
        name=standing.name,
        state=standing.state,
        reason=place.reason,
        user=standing.share.user,
        weight=standing.share.weight,
        priority=standing.share.priority,
        held=_amount(claim.held),
        needed=_amount(claim.needed),
        waiting_since=claim.waiting_since if place.number is not None else None,
        place=place.number,
    )


def _amount(resources: Resources) -> Amount:
    return Amount(cpus=round(resources.cpus, 9), gpus=round(resources.gpus, 9))
