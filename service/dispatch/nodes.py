"""The nodes as the dispatcher sees them: which there are, what is held on them, and which are out of use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from service.database.engine import Database
from service.dispatch.lease import Lease
from service.dispatch.live import Live, LiveAttempt
from service.events.records import record
from service.nodes.quarantine import WINDOW, End, Sentence, Standing, condemn, sentence, stand
from service.nodes.records import lift, load_sentences, store
from service.schemas import EventKind
from worker.contracts import NODE_FAILURES, Backend, Evaluated, Failed, Node, Stopped, Trained, Update
from worker.room import Layout, Room

__all__ = ["Nodes"]

_LOOK_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Nodes:
    """Written by the dispatcher's thread; its attributes may be read by any.

    Attributes:
        backend: Where trials run.
        database: Ours.
        lease: What makes this server the one that dispatches.
        now: The wall clock, in UTC.
        first: How long a node is out of use the first time; zero for never.
        clock: Seconds that only grow.
        present: Those that are there, as of the last look.
        known: These and all that were, since the server's start.
        layout: What is held on them, as of the last look.
    """

    backend: Backend
    database: Database
    lease: Lease
    now: Callable[[], datetime]
    first: timedelta
    clock: Callable[[], float] = time.monotonic
    present: Sequence[Node] = field(default=(), init=False)
    known: Mapping[str, Node] = field(default_factory=dict, init=False)
    layout: Layout = field(default_factory=Layout, init=False)
    _look_at: float = field(default=0.0, init=False)
    _ends: list[End] = field(default_factory=list, init=False)
    _sentences: Mapping[str, Sentence] = field(default_factory=dict, init=False)
    _changes_at: datetime | None = field(default=None, init=False)
    _room_of: Layout = field(default_factory=Layout, init=False)
    _room: Room = field(default_factory=Room, init=False)

    def __post_init__(self) -> None:
        self.have_changed()

    def have_changed(self) -> bool:
        """Looks at them, once a second at most; returns whether they are others than before."""
        if self.clock() < self._look_at:
            return False
        self._look_at = self.clock() + _LOOK_SECONDS
        found = tuple(self.backend.nodes())
        if found == self.present:
            return False
        self.present = found
        self.known = {**self.known, **{node.name: node for node in found}}
        self.layout = Layout(found, self.layout.held, self.layout.shut)
        return True

    @property
    def is_due(self) -> bool:
        """Whether one may be used again by now."""
        return self._changes_at is not None and self.now() >= self._changes_at

    def room(self, live: Live) -> Room:
        """What is free where something may be started; the same object as long as nothing has changed."""
        layout = self.lay_out(live)
        if layout != self._room_of:
            self._room_of, self._room = layout, layout.room()
        return self._room

    def lay_out(self, live: Live) -> Layout:
        """What is held where now, and where nothing more may start."""
        places = self.backend.places()
        held = [(attempt.resources, places.get(attempt.id)) for attempt in live.values()]
        busy = {part.node for _, place in held if place is not None for part in place.parts}
        standings = self._standings()
        shut = {name: each.says for name, each in standings.items() if each.is_out or name in busy}
        self._changes_at = min((each.until for each in standings.values() if each.until is not None), default=None)
        self.layout = Layout(self.present, held, shut)
        return self.layout

    def load(self) -> bool:
        """Reads what is stored of them: another server may have written it; returns whether it is another."""
        with self.database.read() as session:
            found = load_sentences(session)
        if found == self._sentences:
            return False
        pardoned = self._sentences.keys() - found.keys()
        self._ends = [end for end in self._ends if end.node not in pardoned]
        self._sentences = found
        return True

    def note(self, attempt: LiveAttempt, update: Update) -> None:
        """Takes in how an attempt has ended where it ran, and takes a node out of use, or in, if that follows.

        What was lost of an attempt on several nodes counts against the one that it was on, and against none if that is
        not known.
        """
        place, outcome = update.place, update.outcome
        lost = outcome if isinstance(outcome, Failed) and outcome.kind in NODE_FAILURES else None
        if lost is not None:
            self._look_at = 0.0  # its node may be gone with it
        if place is None or not self.first or not (lost or isinstance(outcome, Trained | Evaluated | Stopped)):
            return
        for part in place.parts:
            if lost is None or lost.node == part.node or not place.others:
                self._note(attempt, part.node, lost)

    def _note(self, attempt: LiveAttempt, node: str, lost: Failed | None) -> None:
        now = self.now()
        end = End(node, attempt.job_id, attempt.trial_number, now, lost is not None, lost.message if lost else "")
        self._ends = [*(each for each in self._ends if each.at > now - WINDOW), end]
        earlier, standing = self._sentences.get(node), self._standings().get(node)
        if standing is not None and standing.is_out:
            return  # it was begun before
        if lost is not None:
            since = earlier.since if earlier is not None else None
            reason = condemn(node, self._ends, on_probation=standing is not None, since=since, now=now)
            if reason is not None:
                self._condemn(sentence(node, reason, earlier=earlier, first=self.first, now=now), attempt)
        elif standing is not None:
            with self.lease.writing() as session:
                lift(session, node, now=now)
            self.load()
            log.info("node.in_use", node=node)

    def _condemn(self, told: Sentence, attempt: LiveAttempt) -> None:
        says = stand(self.present, {**self._sentences, told.node: told}, now=self.now())
        reason = says[told.node].says if told.node in says else told.reason  # it may be away by now
        with self.lease.writing() as session:
            store(session, told)
            event = {"node": told.node, "trial": attempt.trial_number, "reason": reason}
            record(session, attempt.job_id, EventKind.NODE_QUARANTINED, event)
        self.load()
        attempt.log.warning("node.quarantined", node=told.node, reason=reason)

    def _standings(self) -> Mapping[str, Standing]:
        return stand(self.present, self._sentences, now=self.now()) if self._sentences else {}
