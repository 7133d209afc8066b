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
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, NodeDiedError, RayActorError, RayError

from worker.contracts import Cancelled, Failed, FailureKind, Resources, Task, Update
from worker.slot import Claimed, News, Slot, SlotTaken

__all__ = ["RayBackend"]

# Tasks and reports are a few kilobytes; images never pass through Ray's object store.
_OBJECT_STORE_BYTES = 100 * 2**20

_NODES_SECONDS = 1.0
_POLL_SECONDS = 2.0
_POLLS = "polls"
"""They wait beside a slot's other calls: its owner's, and for a while that of one whose time is over."""
_CLAIM_SECONDS = 10.0


@dataclass(slots=True)
class _SlotHandle:
    """A slot as its owner knows it.

    Attributes:
        told: How many reports of the attempt have been handed over.
        stored: How many of them were acknowledged.
        ended: Whether its outcome has been handed over.
    """

    name: str
    actor: Any  # Ray's handles know their methods only at run time
    resources: Resources
    attempt_id: str | None = None
    started: ray.ObjectRef[None] | None = None
    pending_poll: ray.ObjectRef[News | None] | None = None
    told: int = 0
    stored: int = 0
    ended: bool = False

    def take(self, attempt_id: str | None) -> None:
        """Begins with another attempt, or none."""
        self.attempt_id, self.started, self.pending_poll = attempt_id, None, None
        self.told, self.stored, self.ended = 0, 0, False


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
    _nodes: tuple[Resources, ...] = field(default=(), init=False)
    _nodes_until: float = field(default=0.0, init=False)
    _strays: dict[ray.ObjectRef[Claimed], Any] = field(default_factory=dict, init=False)
    _sweep_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # By default Ray hides all GPUs from an actor that asks for none; say so explicitly, as its warning asks.
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
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
        """Claims every slot that is found, idle ones too; one that does not answer in time is killed."""
        self._term = term
        self._slots.clear()
        self._news.clear()
        self._strays.clear()
        claims = {actor.claim.remote(term): (name, actor) for name, actor in self._find_slots().items()}
        answered, silent = (
            ray.wait(list(claims), num_returns=len(claims), timeout=_CLAIM_SECONDS) if claims else ([], [])
        )
        for ref in answered:
            name, actor = claims[ref]
            try:
                claimed = ray.get(ref)
            except SlotTaken:
                continue
            except RayError:  # it is dead, or of a version that cannot be talked to
                ray.kill(actor, no_restart=True)
                continue
            self._slots.append(_SlotHandle(name, actor, claimed.resources, claimed.attempt_id))
        for ref in silent:
            ray.kill(claims[ref][1], no_restart=True)
        return {slot.attempt_id: slot.resources for slot in self._slots if slot.attempt_id is not None}

    def trouble(self) -> str | None:
        """None: whoever needs to know holds this in a process of its own, :mod:`worker.backend_process`."""
        return None

    def capacity(self) -> Resources:
        """All CPUs and GPUs that the cluster has, as of a second ago."""
        return Resources.together(self.nodes())

    def nodes(self) -> Sequence[Resources]:
        """Those of each node that is alive, as of a second ago."""
        if self.clock() >= self._nodes_until:
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
            self._nodes = tuple(Resources(cpus=each.get("CPU", 0.0), gpus=each.get("GPU", 0.0)) for each in alive)
            self._nodes_until = self.clock() + _NODES_SECONDS
        return self._nodes

    def start(self, task: Task, resources: Resources) -> None:
        """Starts a task on a warm slot of that size, or on a new one."""
        slot = self._idle_slot(resources) or self._new_slot(resources)
        slot.take(task.attempt_id)
        slot.started = slot.actor.start.remote(task, self._term)

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
                if name not in known:
                    self._strays[actor.claim.remote(self._term)] = actor
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
                ray.get(slot.started)  # finished before the poll could be; raises if the task could not be started
                slot.started = None
            news = ray.get(slot.pending_poll)
        except SlotTaken as error:
            self._slots.remove(slot)
            self._news.append(Update(slot.attempt_id, outcome=Failed(FailureKind.OUTAGE, str(error))))
            return
        except RayError as error:
            if isinstance(error, ActorUnavailableError) and slot.started is None:
                slot.pending_poll = None  # if it is lost, a later poll says so
                return
            self._news.append(Update(slot.attempt_id, outcome=_lost(error)))
            self._kill(slot)
            return
        slot.pending_poll = None
        if news is None:
            return
        reports = news.reports[max(0, slot.told - news.skipped) :]
        slot.told = news.skipped + len(news.reports)
        slot.ended = news.outcome is not None
        if reports or news.outcome is not None:
            self._news.append(Update(news.attempt_id, reports, news.outcome))

    def _slot_of(self, attempt_id: str) -> _SlotHandle | None:
        return next((slot for slot in self._slots if slot.attempt_id == attempt_id), None)

    def _idle_slot(self, resources: Resources) -> _SlotHandle | None:
        return next((slot for slot in self._slots if slot.attempt_id is None and slot.resources == resources), None)

    def _new_slot(self, resources: Resources) -> _SlotHandle:
        self._make_room(resources)
        name = f"slot-{secrets.token_hex(8)}"
        kept: dict[str, Any] = {"concurrency_groups": {_POLLS: 2}}
        if self._outlived:
            kept |= {"name": name, "lifetime": "detached"}
        actor_class = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0, **kept)(Slot)
        patience = self.patience_seconds if self._outlived else None
        actor = actor_class.remote(resources, patience_seconds=patience, owns_process=True)
        slot = _SlotHandle(name, actor, resources)
        self._slots.append(slot)
        return slot

    def _make_room(self, resources: Resources) -> None:
        """Lets go of idle slots of other sizes until the new one fits; of all where each may hold another node's."""
        nodes = self.nodes()
        for slot in [slot for slot in self._slots if slot.attempt_id is None]:
            held = Resources.together(other.resources for other in self._slots)
            if len(nodes) == 1 and (held + resources).fits_in(nodes[0]):
                return
            self._kill(slot)

    def _kill(self, slot: _SlotHandle) -> None:
        self._slots.remove(slot)
        if ray.is_initialized():
            ray.kill(slot.actor, no_restart=True)


def _lost(error: RayError) -> Failed:
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = FailureKind.OUTAGE if _is_of_the_node(error) else FailureKind.RETRYABLE
    return Failed(kind, f"the worker was lost: {message}", str(error))


def _is_of_the_node(error: RayError) -> bool:
    """Whether the node died, was preempted or cut off. Ray tells of a dead one in words only (``ActorDiedError``)."""
    if isinstance(error, ActorUnavailableError):
        return True
    if isinstance(error, RayActorError):
        return bool(error.preempted) or "node has died" in str(error)
    return isinstance(error, NodeDiedError)
