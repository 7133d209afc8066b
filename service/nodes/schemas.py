"""What the API tells of nodes. Shared by server, client and CLI, as :mod:`service.schemas`."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["NodeState", "NodeView"]


class NodeState(StrEnum):
    """What may be started on a node."""

    IN_USE = "in use"
    ON_PROBATION = "on probation"
    """One trial at a time."""

    OUT_OF_USE = "out of use"


class NodeView(BaseModel):
    """A node that trials run on.

    Attributes:
        cpus: All that it has.
        gpus: Likewise.
        state: What may be started there.
        reason: Why no more than that; empty where all may.
        until: When that changes by itself; None where it does not.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    cpus: float
    gpus: float
    state: NodeState
    reason: str = ""
    until: datetime | None = None
