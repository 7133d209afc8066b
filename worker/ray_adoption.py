"""Slots that an earlier server has left on a cluster: those that can be talked to are claimed, all others ended.

A slot of another build is asked for nothing but who it is, in words that every build understands, and then ended: what
it says would be read wrong. Its attempt is told of as an outage, so that it goes on from its checkpoint, uncharged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import ray
from ray.exceptions import RayError

from worker.contracts import NOTHING, Failed, FailureKind, Resources, Update
from worker.slot import Claimed, SlotTaken, own_protocol

__all__ = ["Adoption", "adopt_slots", "introduced"]

_CLAIM_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Adoption:
    """What has become of the slots that were found.

    Attributes:
        claimed: Those of this server now: name, actor, and what it has said.
        ended: What attempts held whose slots were of another build, by their ids.
        news: Of those.
    """

    claimed: list[tuple[str, Any, Claimed]]
    ended: dict[str, Resources]
    news: list[Update]


def adopt_slots(actors: Mapping[str, Any], term: int) -> Adoption:
    """Claims slots, idle ones too, and kills those that do not answer in time or are of another build.

    Args:
        actors: Those that were found, by name.
        term: The caller's; slots that one with a later term has are left alone.
    """
    result = Adoption([], {}, [])
    asked = {name: introduced(actor, term) for name, actor in actors.items()}
    claims = {name: actors[name].claim.remote(term) for name, who in asked.items() if who is not None}
    if claims:
        ray.wait(list(claims.values()), num_returns=len(claims), timeout=_CLAIM_SECONDS)
    for name, actor in actors.items():
        try:
            told = ray.get(asked[name], timeout=0) if asked[name] is not None else {}
            if is_ours := told.get("protocol") == own_protocol():
                result.claimed.append((name, actor, ray.get(claims[name], timeout=0)))
        except SlotTaken:
            continue
        except RayError:  # it is dead, starting or stuck
            ray.kill(actor, no_restart=True)
            continue
        if not is_ours:
            ray.kill(actor, no_restart=True)
            _tell(result, **told)
    return result


def introduced(actor: Any, term: int) -> Any:
    """What a slot introduces itself with, once it does; None if it is of a build that does not know how to."""
    return actor.introduce.remote(term) if hasattr(actor, "introduce") else None


def _tell(
    result: Adoption, *, attempt_id: str | None = None, version: str = "", resources: Any = None, **_more: Any
) -> None:
    if attempt_id is None:  # it was idle
        return
    known = {each.name for each in fields(Resources)}
    held = {name: value for name, value in (resources or {}).items() if name in known}
    result.ended[attempt_id] = replace(NOTHING, **held)
    why = f"its worker was of another build ({version}) than the server that has taken over, and was ended"
    result.news.append(Update(attempt_id, outcome=Failed(FailureKind.OUTAGE, why)))
