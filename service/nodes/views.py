"""Nodes as the API shows them, on any server: what is there, and what of it is stored to be out of use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from service.nodes.quarantine import stand
from service.nodes.records import load_sentences
from service.nodes.schemas import NodeState, NodeView
from worker.contracts import Node

__all__ = ["node_views"]


def node_views(session: Session, nodes: Sequence[Node], *, now: datetime) -> tuple[NodeView, ...]:
    """All nodes that are there, with how they stand."""
    standings = stand(nodes, load_sentences(session), now=now)
    found = []
    for node in nodes:
        standing = standings.get(node.name)
        state = NodeState.IN_USE
        if standing is not None:
            state = NodeState.OUT_OF_USE if standing.is_out else NodeState.ON_PROBATION
        view = NodeView(name=node.name, cpus=node.total.cpus, gpus=node.total.gpus, state=state)
        if standing is not None:
            view = view.model_copy(update={"reason": standing.says, "until": standing.until})
        found.append(view)
    return tuple(found)
