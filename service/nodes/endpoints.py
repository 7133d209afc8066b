"""``/api/v1/nodes``: an operator's word on a node."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.answers import PROBLEM
from service.nodes.records import load_sentences, pardon
from service.nodes.schemas import NodeView
from service.nodes.views import node_views
from service.problems import NotFound
from service.runtime import Running

__all__ = ["router"]

router = APIRouter(prefix="/nodes", tags=["queue"])

_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: PROBLEM}


@router.get("")
def list_nodes(running: Running) -> tuple[NodeView, ...]:
    """The nodes that trials run on, with what may be started on each, and why no more than that."""
    with running.database.read() as session:
        return node_views(session, running.present, now=running.now())


@router.post("/{name}/release", responses=_NOT_FOUND)
def release_node(name: str, running: Running) -> tuple[NodeView, ...]:
    """Takes a node that is out of use, or on probation, into use again; one that is in use stays so."""
    with running.database.write.begin() as session:
        known = {node.name for node in running.present} | set(load_sentences(session))
        if name not in known:
            raise NotFound(f"there is no node {name!r}", "`fixnorm-tune queue -o json` names all nodes")
        pardon(session, name)
    running.wake()
    return list_nodes(running)
