"""The other ranks of a slot: Ray actors that train its trials together with it, on its node or on several.

The slot is rank 0 and starts them; they are its own, so Ray ends them when it ends, however that happens. So whoever
holds the slot holds all of them, and a server that adopts it adopts them with it (docs/adr/0026-ranks.md).
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from worker.contracts import (
    LOST_TOUCH,
    NODE_FAILURES,
    NOWHERE,
    Failed,
    FailureKind,
    Outcome,
    Place,
    Resources,
    TrainTask,
)
from worker.meeting import Meeting, Seat, convened, join
from worker.protocol import OtherBuild, protocol_of, require_same
from worker.ray_facts import lost, where
from worker.run_task import DataCache, Join, run_task
from worker.slot import NotFormed

__all__ = ["Companion", "RayTeam", "form_team"]

log = logging.getLogger(__name__)

_START_SECONDS = 300.0
_LOOK_SECONDS = 40.0
"""Longer than Ray takes to notice that a node is gone, whose connections break before."""
_END_SECONDS = 60.0
"""How long the others may take to end once rank 0 has, after which they have nothing left to do."""
_LOOKS = "looks"
"""They are answered beside the training."""


class Companion:
    """A rank but the first. Runs its part of one trial at a time, and stays warm between them."""

    def __init__(self, rank: int, count: int) -> None:
        """Begins idle."""
        self._rank, self._count = rank, count
        self._cache = DataCache()

    def look(self, protocol: str | None = None) -> Place:
        """Where it is; answering says that it lives.

        Args:
            protocol: Whose words the caller speaks; None for this build's.

        Raises:
            OtherBuild: If those are not its own.
        """
        require_same(protocol, own_protocol())
        return where()

    def train(self, task: TrainTask, meeting: Meeting, seat: Seat) -> Outcome:
        """Trains its part of a trial, to the end that rank 0 tells it.

        Args:
            task: What to train.
            meeting: Where the ranks meet.
            seat: Its own among those of its node.
        """
        return run_task(
            task,
            cache=self._cache,
            report=lambda _report: None,  # rank 0 speaks for all
            owns_process=True,
            join=join(meeting, seat, rank=self._rank, count=self._count),
            rank=self._rank,
        )


class RayTeam:
    """The companions of one slot."""

    def __init__(
        self,
        begin: Callable[[int], Any],
        *,
        count: int,
        own: Place = NOWHERE,
        nodes: Sequence[str] = (),
        end_seconds: float = _END_SECONDS,
    ) -> None:
        """Starts the companions, and waits until they are there.

        Args:
            begin: Starts the actor of a rank, from 1.
            count: Ranks, with the slot's own.
            own: Where the slot is.
            nodes: Those that the ranks are started on, as :func:`form_team` has them.
            end_seconds: How long companions may take to end once rank 0 has.

        Raises:
            NotFormed: If one does not start, or not in time.
        """
        self._begin, self._count, self._end_seconds, self._on = begin, count, end_seconds, nodes
        self._companions: dict[int, Any] = {}
        self._place_of = {0: own}
        self._complete()

    @property
    def place(self) -> Place:
        """Where all ranks are, the slot's own too."""
        return Place.of_parts([Place(node, self._gpus_on(node)) for node in self._nodes])

    @property
    def _nodes(self) -> tuple[str, ...]:
        """In the order of the ranks that are on them."""
        return tuple(dict.fromkeys(self._place_of[rank].node for rank in range(self._count)))

    def _gpus_on(self, node: str) -> tuple[str, ...]:
        places = [self._place_of[rank] for rank in range(self._count)]
        return tuple(gpu for place in places if place.node == node for gpu in place.gpus)

    def _seat(self, rank: int) -> Seat:
        node = self._place_of[rank].node
        before = sum(self._place_of[other].node == node for other in range(rank))
        return Seat(before, self._gpus_on(node))

    def train(self, task: TrainTask, run: Callable[[Join], Outcome]) -> Outcome:
        """Trains with all ranks; the first failure is the outcome, and leaves the others for the end of the slot.

        Once rank 0 has ended well its outcome counts, whatever becomes of the others: one that fails then, or does not
        end, is killed, and another takes its place at the next trial.
        """
        try:
            self._complete()
        except NotFormed as error:
            return error.failed
        with ExitStack() as stack:
            try:
                meeting = stack.enter_context(convened(count=self._count, across_nodes=len(self._nodes) > 1))
            except (OSError, RuntimeError) as error:
                return Failed(FailureKind.RETRYABLE, f"the ranks could not meet: {error}", traceback.format_exc())
            return self._train(task, run, meeting)

    def _train(self, task: TrainTask, run: Callable[[Join], Outcome], meeting: Meeting) -> Outcome:
        ended: SimpleQueue[tuple[int, Outcome]] = SimpleQueue()
        own = join(meeting, self._seat(0), rank=0, count=self._count)
        refs = {
            actor.train.remote(task, meeting.told, self._seat(rank)): rank for rank, actor in self._companions.items()
        }
        for work in (lambda: self._watch(refs, ended), lambda: ended.put((0, run(own)))):
            threading.Thread(target=work, daemon=True).start()
        busy = set(range(self._count))
        while 0 in busy:
            rank, outcome = ended.get()
            if isinstance(outcome, Failed):
                return self._cause(rank, outcome)
            busy.remove(rank)
        self._dismiss(busy - self._ended_well(busy, ended))
        return outcome

    def _ended_well(self, busy: Set[int], ended: SimpleQueue[tuple[int, Outcome]]) -> set[int]:
        """Which of the companions that are still busy end without a failure in the time that they have."""
        well: set[int] = set()
        until = time.monotonic() + self._end_seconds
        with suppress(Empty):
            for _ in busy:
                rank, outcome = ended.get(timeout=max(0.0, until - time.monotonic()))
                if not isinstance(outcome, Failed):
                    well.add(rank)
        return well

    def _dismiss(self, ranks: Set[int]) -> None:
        for rank in ranks:
            log.warning("rank %d of %d failed or did not end after rank 0 had, and is killed", rank, self._count)
            ray.kill(self._companions.pop(rank), no_restart=True)

    def _complete(self) -> None:
        """Starts the companions that are not there, or no more."""
        for rank, _ in self._dead():
            del self._companions[rank]
        begun = {rank: self._begin(rank) for rank in range(1, self._count) if rank not in self._companions}
        until = time.monotonic() + _START_SECONDS
        for rank, look in {rank: actor.look.remote(own_protocol()) for rank, actor in begun.items()}.items():
            try:
                self._place_of[rank] = ray.get(look, timeout=max(0.0, until - time.monotonic()))
            except OtherBuild as error:
                why = str(getattr(error, "cause", error))  # whose own words have a traceback
                node = _node_of(rank, self._on, self._count)
                raise NotFormed(
                    Failed(FailureKind.OUTAGE, f"rank {rank} of {self._count}: {why}", node=node)
                ) from error
            except RayError as error:
                what, node = f"rank {rank} of {self._count}, which was starting,", _node_of(rank, self._on, self._count)
                failed = lost(error, what=what, node=node)
                if isinstance(error, GetTimeoutError):
                    failed = replace(failed, kind=FailureKind.OUTAGE)
                raise NotFormed(failed) from error
        self._companions |= begun

    def _dead(self) -> Iterator[tuple[int, RayError]]:
        """The companions that are found to be lost, as they are; one that does not answer in time is taken to live."""
        looks = {
            actor.look.options(concurrency_group=_LOOKS).remote(): rank for rank, actor in self._companions.items()
        }
        until = time.monotonic() + _LOOK_SECONDS
        while looks:
            ready, _ = ray.wait(list(looks), num_returns=1, timeout=max(0.0, until - time.monotonic()))
            if not ready:
                return
            rank = looks.pop(ready[0])
            try:
                ray.get(ready[0])
            except RayError as error:
                yield rank, error

    def _watch(self, refs: dict[Any, int], ended: SimpleQueue[tuple[int, Outcome]]) -> None:
        while refs:
            (ref,), _ = ray.wait(list(refs), num_returns=1)
            rank = refs.pop(ref)
            try:
                outcome: Outcome = ray.get(ref)
            except RayError as error:
                outcome = self._loss(rank, error)
            ended.put((rank, outcome))

    def _cause(self, rank: int, failed: Failed) -> Failed:
        """A rank whose peer is gone fails of the broken connection; then the peer is what there is to tell of."""
        if failed.node is not None:  # this one is
            return failed
        for other, error in self._dead():
            return self._loss(other, error)
        if failed.kind in NODE_FAILURES and not failed.message.startswith(LOST_TOUCH):
            failed = replace(failed, node=self._place_of[rank].node)
        return failed if rank == 0 else replace(failed, message=f"rank {rank} of {self._count}: {failed.message}")

    def _loss(self, rank: int, error: RayError) -> Failed:
        return lost(error, what=f"rank {rank} of {self._count}", node=self._place_of[rank].node)


def form_team(part: Resources, *, count: int, nodes: Sequence[str] = ()) -> RayTeam:
    """Starts the companions of the slot that this is called in, and waits until they are there.

    Args:
        part: What each rank holds.
        count: Ranks, with the slot's own.
        nodes: Ray's ids of those that they are on, the slot's first; as many on each, the first ranks on the first. The
            slot's if none are given.

    Raises:
        NotFormed: If one does not start, or not in time.
    """
    own = where()
    on = nodes or [own.node]
    options: dict[str, Any] = {"concurrency_groups": {_LOOKS: 1}}
    actor_class = ray.remote(num_cpus=part.cpus, num_gpus=part.gpus, max_restarts=0, **options)(Companion)

    def begin(rank: int) -> Any:
        strategy = NodeAffinitySchedulingStrategy(_node_of(rank, on, count) or own.node, soft=False)
        return actor_class.options(scheduling_strategy=strategy).remote(rank, count)

    return RayTeam(begin, count=count, own=own, nodes=on)


def own_protocol() -> str:
    """Whose words the companions of this build speak."""
    return protocol_of(Companion)


def _node_of(rank: int, nodes: Sequence[str], count: int) -> str | None:
    return nodes[rank * len(nodes) // count] if nodes else None
