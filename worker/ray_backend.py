"""The Ray backend: warm slots as Ray actors, one per running trial.

Ray places actors and tells of their death; nothing else of it is used. It has no fairness between jobs and its word on
job states is not reliable after a restart of its head, so the service decides what runs.

On a cluster that was there before, slots outlive their server: they are named and detached, in a namespace of their
own, so that the server finds them when it is back. On a Ray that the server has started, they end with it.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from worker.contracts import NOWHERE, Cancelled, Failed, FailureKind, Node, Place, Resources, Task, Update
from worker.protocol import OtherBuild
from worker.ray_adoption import adopt_slots, introduced
from worker.ray_facts import lost, names_of, total_of, where
from worker.ray_team import form_team
from worker.room import Room
from worker.slot import News, Slot, SlotTaken, own_protocol

__all__ = ["RayBackend"]

# Tasks and reports are a few kilobytes; images never pass through Ray's object store.
_OBJECT_STORE_BYTES = 100 * 2**20

_NODES_SECONDS = 1.0
_POLL_SECONDS = 2.0
_POLLS = "polls"
"""They wait beside a slot's other calls: its owner's, and for a while that of one whose time is over."""


@dataclass(slots=True)
class _SlotHandle:
    """A slot as its owner knows it.

    Attributes:
        place: With Ray's ids of nodes, and the GPUs that it is expected to get until it tells them.
        told: How many reports of the attempt have been handed over.
        stored: How many of them were acknowledged.
        ended: Whether its outcome has been handed over.
        waits: Whether it was told last that it waits for an object store.
    """

    name: str
    actor: Any  # Ray's handles know their methods only at run time
    resources: Resources
    place: Place
    attempt_id: str | None = None
    started: ray.ObjectRef[Place] | None = None
    pending_poll: ray.ObjectRef[News | None] | None = None
    told: int = 0
    stored: int = 0
    ended: bool = False
    waits: bool = False

    def take(self, attempt_id: str | None) -> None:
        """Begins with another attempt, or none."""
        self.attempt_id, self.started, self.pending_poll = attempt_id, None, None
        self.told, self.stored, self.ended, self.waits = 0, 0, False, False


@dataclass(slots=True)
class RayBackend:
    """Runs tasks on a Ray cluster.

    Attributes:
        address: Of an existing cluster (``RAY_ADDRESS``); None starts Ray on this machine.
        cpus: CPU cores given to a Ray started here; None takes all.
        gpus: Likewise GPUs.
        namespace: Of the slots on an existing cluster. Servers adopt what they find in theirs.
        patience_seconds: How long a slot there waits for a server before it ends itself.
        sweep_seconds: Pause between two looks there for slots that nobody knows.
        clock: Seconds that only grow.
    """

    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    namespace: str = "fixnorm-tune"
    patience_seconds: float = 3600.0
    sweep_seconds: float = 30.0
    clock: Callable[[], float] = time.monotonic
    _slots: list[_SlotHandle] = field(default_factory=list, init=False)
    _news: list[Update] = field(default_factory=list, init=False)
    _term: int = field(default=0, init=False)
    _nodes: tuple[Node, ...] = field(default=(), init=False)
    _names: dict[str, str] = field(default_factory=dict, init=False)
    _ids: dict[str, str] = field(default_factory=dict, init=False)
    _nodes_until: float = field(default=0.0, init=False)
    _strays: dict[Any, Any] = field(default_factory=dict, init=False)
    _sweep_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # By default Ray hides all GPUs from an actor that asks for none; say so explicitly, as its warning asks.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        # By default Ray starts a process for every CPU before anything is asked of it; slots are all that ever is.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        local: dict[str, Any] = (
            {}
            if self.address
            else {"num_cpus": self.cpus, "num_gpus": self.gpus, "object_store_memory": _OBJECT_STORE_BYTES}
        )
        ray.init(
            address=self.address,
            namespace=self.namespace,
            include_dashboard=None if self.address else False,
            log_to_driver=False,
            **local,
        )

    def adopt(self, term: int) -> Mapping[str, Resources]:
        """Claims every slot that is found, idle ones too; one that does not answer in time is killed.

        So is one of another build, whose attempt is found, and then told of as an outage.
        """
        self._term = term
        self._slots.clear()
        self._news.clear()
        self._strays.clear()
        found = adopt_slots(self._find_slots(), term)
        self._news.extend(found.news)
        for name, actor, claimed in found.claimed:
            self._slots.append(_SlotHandle(name, actor, claimed.resources, claimed.place, claimed.attempt_id))
        busy = {slot.attempt_id: slot.resources for slot in self._slots if slot.attempt_id is not None}
        return found.ended | busy

    def trouble(self) -> str | None:
        """None: whoever needs to know holds this in a process of its own, :mod:`worker.backend_process`."""
        return None

    def capacity(self) -> Resources:
        """All CPUs and GPUs that the cluster has, as of a second ago."""
        return Resources.together(node.total for node in self.nodes())

    def nodes(self) -> Sequence[Node]:
        """Those that are alive, as of a second ago."""
        if self.clock() >= self._nodes_until:
            alive = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}  # type: ignore[no-untyped-call]
            self._names.update(names_of(alive))  # and those of the dead, which what was lost there is told of with
            self._nodes = tuple(Node(self._names[each], total_of(node["Resources"])) for each, node in alive.items())
            self._ids = {self._names[each]: each for each in alive}
            self._nodes_until = self.clock() + _NODES_SECONDS
        return self._nodes

    def places(self) -> Mapping[str, Place]:
        """Those of the busy slots."""
        return {slot.attempt_id: self._called(slot.place) for slot in self._slots if slot.attempt_id is not None}

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        """Starts a task on a warm slot of that size, or on a new one."""
        known = [self._ids[name] for name in nodes or [node.name for node in self.nodes()] if name in self._ids]
        if len(known) < resources.nodes and resources.nodes > 1:
            why = f"it needs {resources.nodes} nodes, and of those that it was to run on {len(known)} are left"
            self._news.append(Update(task.attempt_id, outcome=Failed(FailureKind.OUTAGE, why)))
            return
        slot = self._idle_slot(resources, known) or self._new_slot(resources, known[: resources.nodes])
        slot.take(task.attempt_id)
        slot.started = slot.actor.start.remote(task, self._term, own_protocol())

    def poll(self) -> Sequence[Update]:
        """News from every busy slot. Never waits for one: each has at most one poll under way."""
        if self._outlived:
            self.nodes()  # a cluster whose head is gone does not answer, and that is noticed by
            self._sweep()
        busy = self._ask()
        by_ref = {slot.pending_poll: slot for slot in busy}
        if by_ref:
            ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
            for ref in ready:
                self._collect(by_ref[ref])
        news, self._news = self._news, []
        return news

    def wait(self, seconds: float) -> None:
        """Until a busy slot answers: each has a poll under way, which it answers when it has news."""
        if self._news:
            return
        if polls := [slot.pending_poll for slot in self._ask()]:
            ray.wait(polls, num_returns=1, timeout=seconds)
        else:
            time.sleep(seconds)

    def acknowledge(self, update: Update) -> None:
        """Has the slot forget the news. After an outcome it is warm and idle, unless the attempt has failed."""
        if (slot := self._slot_of(update.attempt_id)) is None:  # it was lost
            return
        slot.stored += len(update.reports)
        if isinstance(update.outcome, Failed):
            self._kill(slot)  # whatever failed may have left the process, or its CUDA context, unusable
        elif update.outcome is not None:
            slot.actor.free.remote(update.attempt_id, self._term)
            slot.take(None)

    def cancel(self, attempt_id: str) -> None:
        """Kills the slot of the attempt: an epoch may be long, and a killed process holds no GPU."""
        if (slot := self._slot_of(attempt_id)) is not None:
            self._kill(slot)
            self._news.append(Update(attempt_id, outcome=Cancelled()))

    def stop(self, attempt_id: str) -> None:
        """Tells the slot of the attempt, which stays warm; a slot that is lost is noticed by its next poll."""
        if (slot := self._slot_of(attempt_id)) is not None:
            slot.actor.stop.remote(attempt_id, self._term)

    def release(self) -> None:
        """Leaves slots that outlive the server to the next; kills others, the warm ones too, to make room."""
        if self._outlived:
            self._slots.clear()
        for slot in list(self._slots):
            self._kill(slot)
        self._news.clear()

    def close(self) -> None:
        """Kills idle slots; busy ones too if Ray was started here, which ends with them. Else leaves the cluster."""
        for slot in list(self._slots):
            if slot.attempt_id is None:
                self._kill(slot)
        self.release()
        if ray.is_initialized():
            ray.shutdown()

    @property
    def _outlived(self) -> bool:
        """Whether slots outlive the server."""
        return self.address is not None

    def _find_slots(self) -> dict[str, Any]:
        if not self._outlived:
            return {}
        found = {}
        for name in ray.util.list_named_actors():
            try:
                found[name] = ray.get_actor(name)
            except ValueError:  # it has ended meanwhile
                continue
        return found

    def _sweep(self) -> None:
        """Kills slots that nobody knows: one that was starting when its server died, or when another took over."""
        if self.clock() >= self._sweep_at:
            self._sweep_at = self.clock() + self.sweep_seconds
            known = {slot.name for slot in self._slots}
            for name, actor in self._find_slots().items():
                if name in known:
                    continue
                if (who := introduced(actor, self._term)) is None:
                    ray.kill(actor, no_restart=True)
                else:
                    self._strays[who] = actor
        if not self._strays:
            return
        for ref in ray.wait(list(self._strays), num_returns=len(self._strays), timeout=0)[0]:
            actor = self._strays.pop(ref)
            try:
                ray.get(ref)
            except RayError:  # it is dead, or a server that took over has claimed it
                continue
            ray.kill(actor, no_restart=True)

    def _ask(self) -> list[_SlotHandle]:
        """Has a poll be under way on every busy slot; returns them."""
        busy = [slot for slot in self._slots if slot.attempt_id is not None and not slot.ended]
        for slot in busy:
            if slot.pending_poll is None:
                poll = slot.actor.poll_of.options(concurrency_group=_POLLS)
                slot.pending_poll = poll.remote(
                    slot.attempt_id, slot.told, slot.stored, self._term, seconds=_POLL_SECONDS
                )
        return busy

    def _collect(self, slot: _SlotHandle) -> None:
        assert slot.attempt_id is not None
        assert slot.pending_poll is not None
        try:
            if slot.started is not None:
                # Finished before the poll could be; raises if the task could not be started
                slot.place = ray.get(slot.started)
                slot.started = None
            news = ray.get(slot.pending_poll)
        except SlotTaken as error:
            self._slots.remove(slot)
            self._news.append(Update(slot.attempt_id, outcome=Failed(FailureKind.OUTAGE, str(error))))
            return
        except OtherBuild as error:  # of its node, which is soon out of use for it
            outage = Failed(FailureKind.OUTAGE, str(getattr(error, "cause", error)))  # whose own words have a traceback
            self._news.append(Update(slot.attempt_id, outcome=outage, place=self._called(slot.place)))
            self._kill(slot)
            return
        except RayError as error:
            if isinstance(error, ActorUnavailableError) and slot.started is None:
                slot.pending_poll = None  # if it is lost, a later poll says so
                return
            failed = lost(error, node=self._names.get(slot.place.node))
            self._news.append(Update(slot.attempt_id, outcome=failed, place=self._called(slot.place)))
            self._nodes_until = 0.0  # its node may be gone with it
            self._kill(slot)
            return
        slot.pending_poll = None
        if news is None:
            return
        reports = news.reports[max(0, slot.told - news.skipped) :]
        slot.told = news.skipped + len(news.reports)
        slot.ended = news.outcome is not None
        began_or_ended, slot.waits = slot.waits is (news.waits is None), news.waits is not None
        if reports or news.outcome is not None or began_or_ended:
            place, outcome = self._called(slot.place) if slot.ended else None, news.outcome
            if isinstance(outcome, Failed) and outcome.node is not None:
                outcome = replace(outcome, node=self._names.get(outcome.node))
            self._news.append(Update(news.attempt_id, reports, outcome, place, news.waits, news.ended_seconds_ago))

    def _slot_of(self, attempt_id: str) -> _SlotHandle | None:
        return next((slot for slot in self._slots if slot.attempt_id == attempt_id), None)

    def _idle_slot(self, resources: Resources, nodes: Sequence[str]) -> _SlotHandle | None:
        idle = [slot for slot in self._slots if slot.attempt_id is None and slot.resources == resources]
        there = [slot for slot in idle if all(part.node in nodes for part in slot.place.parts)]
        return min(there, key=lambda slot: nodes.index(slot.place.node), default=None)

    def _new_slot(self, resources: Resources, nodes: Sequence[str]) -> _SlotHandle:
        """A slot on as many nodes as it needs; where Ray likes if none is known."""
        name = f"slot-{secrets.token_hex(8)}"
        options: dict[str, Any] = {"concurrency_groups": {_POLLS: 2}}
        place = NOWHERE
        if nodes:
            place = Place.of_parts([Place(node, self._make_room(resources.on_one_node, node)) for node in nodes])
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(place.node, soft=False)
        if self._outlived:
            options |= {"name": name, "lifetime": "detached"}
        own = resources.of_one_rank
        actor_class = ray.remote(num_cpus=own.cpus, num_gpus=own.gpus, max_restarts=0, **options)(Slot)
        actor = actor_class.remote(
            resources,
            patience_seconds=self.patience_seconds if self._outlived else None,
            owns_process=True,
            where=where,
            form_team=partial(form_team, own, count=resources.ranks, nodes=nodes) if resources.ranks > 1 else None,
        )
        slot = _SlotHandle(name, actor, resources, place)
        self._slots.append(slot)
        return slot

    def _make_room(self, part: Resources, node: str) -> tuple[str, ...]:
        """Lets go of idle slots on a node until part of a new one fits; returns the GPUs that it is expected to get."""
        there = [slot for slot in self._slots if any(each.node == node for each in slot.place.parts)]
        idle = [slot for slot in there if slot.attempt_id is None]
        while True:
            room = Room.of(Node(node, each.total) for each in self.nodes() if self._ids[each.name] == node)
            for slot in there:
                room.take(slot.resources, slot.place)
            if room.fits(part) or not idle:
                return room.gpus_for(part, node)
            there.remove(idle[0])
            self._kill(idle.pop(0))

    def _called(self, place: Place) -> Place:
        """A place with the names of nodes."""
        others = tuple(map(self._called, place.others))
        return replace(place, node=self._names.get(place.node, place.node), others=others)

    def _kill(self, slot: _SlotHandle) -> None:
        self._slots.remove(slot)
        if ray.is_initialized():
            ray.kill(slot.actor, no_restart=True)
