"""What tells the slots of one build from those of another."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, make_dataclass
from enum import StrEnum

from pydantic import BaseModel, create_model

from worker.protocol import digest_of, protocol_of
from worker.slot import Slot

KNOWN = "from worker.protocol import protocol_of; from worker.slot import Slot; print(protocol_of(Slot))"


def test_processes_of_one_build_say_the_same() -> None:
    said = {
        subprocess.run(
            [sys.executable, "-c", KNOWN], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert said == {protocol_of(Slot)}


def test_a_slot_introduces_itself_in_builtin_types_alone() -> None:
    from worker.contracts import Resources

    told = Slot(Resources(2.0, 1.0, ranks=2)).introduce(1)
    assert told["protocol"] == protocol_of(Slot)
    assert told["resources"] == {"cpus": 2.0, "gpus": 1.0, "ranks": 2, "nodes": 1}
    assert told["attempt_id"] is None
    flat = [*told.values(), *told["resources"].values()]
    assert {type(each) for each in flat} <= {str, int, float, dict, type(None)}


class Kind(StrEnum):
    A = "a"


class LaterKind(StrEnum):
    A = "a"
    B = "b"


class Report(BaseModel):
    epoch: int


@dataclass
class Task:
    report: Report
    kinds: tuple[Kind, ...] = ()


def slot_with(task: type, **more: type) -> type:
    def start(self: object, task: object) -> None: ...

    start.__annotations__ = {"task": task, "return": type(None), **more}
    return type("Slot", (), {"start": start, "_private": lambda _self: None})


def renamed(kind: type, like: type) -> type:
    """A type that only its fields tell from another."""
    kind.__module__, kind.__qualname__ = like.__module__, like.__qualname__
    return kind


def test_a_field_a_type_or_a_member_however_deep_makes_another_protocol() -> None:
    ours = digest_of(slot_with(Task))
    same = renamed(make_dataclass("Task", [("report", Report), ("kinds", tuple[Kind, ...])]), Task)
    assert digest_of(slot_with(same)) == ours
    deeper = renamed(create_model("Report", epoch=(int, ...), loss=(float, 0.0)), Report)
    other_type = renamed(create_model("Report", epoch=(float, ...)), Report)
    later = renamed(LaterKind, Kind)
    others = [
        renamed(make_dataclass("Task", [("report", deeper), ("kinds", tuple[Kind, ...])]), Task),
        renamed(make_dataclass("Task", [("report", other_type), ("kinds", tuple[Kind, ...])]), Task),
        renamed(make_dataclass("Task", [("report", Report), ("kinds", tuple[later, ...])]), Task),  # type: ignore[valid-type]
        renamed(make_dataclass("Task", [("report", Report)]), Task),
    ]
    found = [digest_of(slot_with(each)) for each in others] + [digest_of(slot_with(Task, term=int))]
    assert len({ours, *found}) == 6
