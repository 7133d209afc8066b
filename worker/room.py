"""What is free where: trials are placed on one node or several, and on GPUs as Ray does. Pure, but for its memory.

A trial of whole GPUs needs that many which nobody uses; one of a fraction needs a GPU of which that much is left, and
takes the fullest such. So two trials of 0.6 fill two GPUs, and a third does not fit in the 0.8 that are left of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from worker.contracts import Node, Place, Resources

__all__ = ["Layout", "Room"]

_ROUNDING = 1e-9


@dataclass(slots=True)
class _Left:
    """Of one node: its CPUs, and each of its GPUs by name. Names are made up until somebody tells them."""

    total: Resources
    cpus: float
    gpus: dict[str, float]
    unnamed: list[str]

    @classmethod
    def all_of(cls, total: Resources) -> Self:
        whole = int(total.gpus + _ROUNDING)
        gpus = {str(number): 1.0 for number in range(whole)}
        if (rest := total.gpus - whole) > _ROUNDING:
            gpus[str(whole)] = rest
        return cls(total, total.cpus, gpus, list(gpus))

    def copy(self) -> _Left:
        return _Left(self.total, self.cpus, dict(self.gpus), list(self.unnamed))

    def choose(self, needed: Resources) -> tuple[str, ...] | None:
        """The GPUs for a trial; None if it has no room here."""
        if needed.cpus > self.cpus + _ROUNDING:
            return None
        if needed.gpus < 1:
            if needed.gpus <= 0:
                return ()
            left = [name for name, free in self.gpus.items() if needed.gpus <= free + _ROUNDING]
            return (min(left, key=lambda name: self.gpus[name]),) if left else None
        count, whole = round(needed.gpus), [name for name, free in self.gpus.items() if free >= 1 - _ROUNDING]
        return tuple(whole[:count]) if len(whole) >= count else None

    def take(self, held: Resources, gpus: Iterable[str]) -> None:
        self.cpus -= held.cpus
        for name in gpus:
            known = self._named(name)
            if known is not None:
                self.gpus[known] = max(0.0, self.gpus[known] - min(held.gpus, 1.0))

    def keep(self, needed: Resources) -> None:
        """Takes away what a trial that waits here will need, as far as it is free."""
        self.cpus = max(0.0, self.cpus - needed.cpus)
        freest = sorted(self.gpus, key=lambda name: -self.gpus[name])
        for name in freest[: max(1, round(needed.gpus)) if needed.gpus > 0 else 0]:
            self.gpus[name] = max(0.0, self.gpus[name] - min(needed.gpus, 1.0))

    def lacking(self, needed: Resources) -> tuple[float, float]:
        """How far a trial is from having room here: GPUs, then CPUs."""
        freest = sorted(self.gpus.values(), reverse=True)[: max(1, round(needed.gpus))]
        short = sum(max(0.0, min(needed.gpus, 1.0) - free) for free in freest)
        return short, max(0.0, needed.cpus - self.cpus)

    def _named(self, name: str) -> str | None:
        if name in self.unnamed:
            self.unnamed.remove(name)
        elif name not in self.gpus:
            if not self.unnamed:
                return None
            self.gpus[name] = self.gpus.pop(self.unnamed.pop())
        return name


@dataclass(slots=True)
class Room:
    """What is free on some nodes. Not safe between threads.

    Attributes:
        notes: Why nothing may start on those that were closed.
    """

    _left: dict[str, _Left] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _places: dict[Resources, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    _kept: dict[Resources, Room] = field(default_factory=dict)

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Self:
        """All that some nodes have."""
        return cls({node.name: _Left.all_of(node.total) for node in nodes})

    @property
    def total(self) -> Resources:
        """The sum of what is free, which no trial may fit in."""
        return Resources(
            round(sum(left.cpus for left in self._left.values()), 9),
            round(sum(sum(left.gpus.values()) for left in self._left.values()), 9),
        )

    def take(self, held: Resources, place: Place | None) -> None:
        """Notes what a trial holds; one whose place is not known is where it fits best, if it fits anywhere."""
        if place is None:
            place = self.place_for(held, self.nodes_for(held))
        for part in place.parts if place is not None else ():
            if (left := self._left.get(part.node)) is not None:
                left.take(held.on_one_node, part.gpus)
        self._forget()

    def close(self, node: str, why: str) -> None:
        """Takes a node out of it."""
        self._left.pop(node, None)
        self.notes.append(why)
        self._forget()

    def fits(self, needed: Resources) -> bool:
        """Whether a trial has room somewhere."""
        return bool(self._find(needed))

    def could_hold(self, needed: Resources) -> bool:
        """Whether it would have if nothing ran."""
        return len(self._able(needed)) >= needed.nodes

    def nodes_for(self, needed: Resources) -> tuple[str, ...]:
        """The nodes on which a trial has room, the fullest first; for one without GPUs those with the fewest.

        One of several nodes has room where its parts have, if there are that many.
        """

        def order(node: str) -> tuple[float, float]:
            left = self._left[node]
            return (sum(left.gpus.values()) if needed.gpus > 0 else left.total.gpus), left.cpus

        return tuple(sorted(self._find(needed), key=order))

    def place_for(self, needed: Resources, nodes: Sequence[str]) -> Place | None:
        """Where on some nodes, the best first, a trial would be; None if these are too few."""
        if len(nodes) < needed.nodes:
            return None
        return Place.of_parts([Place(node, self.gpus_for(needed, node)) for node in nodes[: needed.nodes]])

    def gpus_for(self, needed: Resources, node: str) -> tuple[str, ...]:
        """The GPUs of a node that a trial would get; none if it has no room there."""
        return self._find(needed).get(node, ())

    def without(self, needed: Resources) -> Room:
        """What is left for others while room is kept for a trial that has none: on the nodes where it will have soonest
        (most need one), what it needs none of and what is left beside it; of all other nodes everything.
        """
        if needed not in self._kept:
            others = Room({name: left.copy() for name, left in self._left.items()}, self.notes)
            part, able = needed.on_one_node, others._able(needed)
            for left in sorted(able, key=lambda left: left.lacking(part))[: needed.nodes]:
                left.keep(part)
            self._kept[needed] = others
        return self._kept[needed]

    def _able(self, needed: Resources) -> list[_Left]:
        """Those of which one could hold a trial's part if nothing ran."""
        part = needed.on_one_node
        return [left for left in self._left.values() if _Left.all_of(left.total).choose(part) is not None]

    def _find(self, needed: Resources) -> Mapping[str, tuple[str, ...]]:
        if needed not in self._places:
            chosen = {name: left.choose(needed.on_one_node) for name, left in self._left.items()}
            found = {name: gpus for name, gpus in chosen.items() if gpus is not None}
            self._places[needed] = found if len(found) >= needed.nodes else {}
        return self._places[needed]

    def _forget(self) -> None:
        self._places.clear()
        self._kept.clear()


@dataclass(frozen=True, slots=True)
class Layout:
    """Which nodes there are, and what is held on them: what room follows from, safe to pass between threads.

    Attributes:
        nodes: All that are there.
        held: What each attempt holds, and where; None where that is not known.
        shut: Nodes on which nothing more is to start now, by name, with why.
    """

    nodes: Sequence[Node] = ()
    held: Sequence[tuple[Resources, Place | None]] = ()
    shut: Mapping[str, str] = field(default_factory=dict)

    def room(self) -> Room:
        """What is free where something may be started."""
        room = Room.of(self.nodes)
        for held, place in sorted(self.held, key=lambda each: each[1] is None):  # those without a place last
            room.take(held, place)
        for name, why in self.shut.items():
            room.close(name, why)
        return room
