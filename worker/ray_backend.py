"""The Ray backend: warm slots as Ray actors, one per running trial.

Ray places actors and tells of their death; nothing else of it is used. It has no fairness between jobs and its word on
job states is not reliable after a restart of its head, so the service decides what runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayActorError, RayError

from worker.contracts import Cancelled, Failed, FailureKind, Resources, Task, Update
from worker.slot import Slot

__all__ = ["RayBackend"]

# Tasks and reports are a few kilobytes; images never pass through Ray's object store.
_OBJECT_STORE_BYTES = 100 * 2**20


@dataclass(slots=True)
class _SlotHandle:
    actor: Any  # Ray's handles know their methods only at run time
    resources: Resources
    attempt_id: str | None = None
    started: ray.ObjectRef[None] | None = None
    pending_poll: ray.ObjectRef[Update | None] | None = None


@dataclass(slots=True)
class RayBackend:
    """Runs tasks on a Ray cluster.

    Attributes:
        address: Of an existing cluster (``RAY_ADDRESS``); None starts Ray on this machine.
        cpus: CPU cores given to a Ray started here; None takes all.
        gpus: Likewise GPUs.
    """

    address: str | None = None
    cpus: float | None = None
    gpus: float | None = None
    _slots: list[_SlotHandle] = field(default_factory=list, init=False)
    _news: list[Update] = field(default_factory=list, init=False)

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
            namespace="fixnorm-tune",
            include_dashboard=None if self.address else False,
            log_to_driver=False,
            **local,
        )

    def capacity(self) -> Resources:
        """All CPUs and GPUs that the cluster has now."""
        total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return Resources(cpus=total.get("CPU", 0.0), gpus=total.get("GPU", 0.0))

    def start(self, task: Task, resources: Resources) -> None:
        """Starts a task on a warm slot of that size, or on a new one."""
        slot = self._idle_slot(resources) or self._new_slot(resources)
        slot.attempt_id = task.attempt_id
        slot.started = slot.actor.start.remote(task)

    def poll(self) -> Sequence[Update]:
        """News from every busy slot. Never waits for one: each has at most one poll under way."""
        busy = [slot for slot in self._slots if slot.attempt_id is not None]
        for slot in busy:
            if slot.pending_poll is None:
                slot.pending_poll = slot.actor.poll.remote()
        by_ref = {slot.pending_poll: slot for slot in busy}
        if by_ref:
            ready, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
            for ref in ready:
                self._collect(by_ref[ref])
        news, self._news = self._news, []
        return news

    def cancel(self, attempt_id: str) -> None:
        """Kills the slot of the attempt: an epoch may be long, and a killed process holds no GPU."""
        for slot in self._slots:
            if slot.attempt_id == attempt_id:
                self._kill(slot)
                self._news.append(Update(attempt_id, outcome=Cancelled()))
                return

    def stop(self, attempt_id: str) -> None:
        """Tells the slot of the attempt, which stays warm; a slot that is lost is noticed by its next poll."""
        for slot in self._slots:
            if slot.attempt_id == attempt_id:
                slot.actor.stop.remote(attempt_id)

    def release(self) -> None:
        """Kills every slot, the warm ones too: another server may need their room."""
        for slot in list(self._slots):
            self._kill(slot)
        self._news.clear()

    def close(self) -> None:
        """Kills every slot; shuts Ray down if it was started here, else leaves the cluster."""
        self.release()
        if ray.is_initialized():
            ray.shutdown()

    def _collect(self, slot: _SlotHandle) -> None:
        assert slot.attempt_id is not None
        assert slot.pending_poll is not None
        try:
            if slot.started is not None:
                ray.get(slot.started)  # finished before the poll could be; raises if the task could not be started
            update: Update | None = ray.get(slot.pending_poll)
        except RayError as error:
            self._news.append(Update(slot.attempt_id, outcome=_lost(error)))
            self._kill(slot)
            return
        slot.pending_poll = None
        if update is None:
            return
        if update.outcome is not None:
            slot.attempt_id = slot.started = None
            if isinstance(update.outcome, Failed):
                self._kill(slot)  # whatever failed may have left the process, or its CUDA context, unusable
        if update.reports or update.outcome is not None:
            self._news.append(update)

    def _idle_slot(self, resources: Resources) -> _SlotHandle | None:
        return next((slot for slot in self._slots if slot.attempt_id is None and slot.resources == resources), None)

    def _new_slot(self, resources: Resources) -> _SlotHandle:
        self._make_room(resources)
        actor_class = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0)(Slot)
        slot = _SlotHandle(actor_class.remote(), resources)
        self._slots.append(slot)
        return slot

    def _make_room(self, resources: Resources) -> None:
        """Lets go of idle slots of other sizes until the new one fits."""
        capacity = self.capacity()
        for slot in [slot for slot in self._slots if slot.attempt_id is None]:
            held = Resources.together(other.resources for other in self._slots)
            if (held + resources).fits_in(capacity):
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
    """Whether the node died or was preempted. Ray tells of a dead node in words only (its ``ActorDiedError``)."""
    if isinstance(error, RayActorError):
        return bool(error.preempted) or "node has died" in str(error)
    return isinstance(error, NodeDiedError)
