"""What Ray tells of its nodes and of actors that are lost, in this software's terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, ActorUnschedulableError, NodeDiedError, RayActorError, RayError

from worker.contracts import Failed, FailureKind, Place, Resources

__all__ = ["lost", "names_of", "total_of", "where"]


def where() -> Place:
    """The node, by Ray's id, and the GPUs of the actor that this is called in."""
    context = ray.get_runtime_context()
    return Place(context.get_node_id(), tuple(context.get_accelerator_ids().get("GPU", ())))


def total_of(resources: Mapping[str, float]) -> Resources:
    """What trials can hold of what Ray says that a node has."""
    return Resources(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))


def names_of(nodes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, str]:
    """What a person calls each node, by its id: as ``ray start --node-name`` says, or its address.

    Unlike its id that is the same when it comes back. Of several that are called alike the id tells more.
    """
    called = Counter(node["NodeName"] for node in nodes.values())
    return {
        node_id: node["NodeName"] if called[node["NodeName"]] == 1 else f"{node['NodeName']}-{node_id[:6]}"
        for node_id, node in nodes.items()
    }


def lost(error: RayError, *, what: str = "the worker", node: str | None = None) -> Failed:
    """The outcome of an attempt one of whose actors, on that node, does not answer any more."""
    message = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    kind = FailureKind.OUTAGE if _is_of_the_node(error) else FailureKind.RETRYABLE
    return Failed(kind, f"{what} was lost: {message}", str(error), node)


def _is_of_the_node(error: RayError) -> bool:
    """Whether the node died, was preempted or cut off. Ray tells of a dead one in words only (``ActorDiedError``)."""
    if isinstance(error, (ActorUnavailableError, ActorUnschedulableError)):
        return True
    if isinstance(error, RayActorError):
        return bool(error.preempted) or "node has died" in str(error)
    return isinstance(error, NodeDiedError)
