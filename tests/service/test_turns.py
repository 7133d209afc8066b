"""Fair share as rules over many made-up clusters: what must hold after every decision, and what in the long run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from fixnorm_core.spec import ShareSpec
from service.queue.share import UNLIMITED, Claim, Rules, Turns
from worker.contracts import NOTHING, Node, Place, Resources
from worker.room import Room

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@dataclass
class Cluster:
    """Jobs that always want another trial, and trials of random lengths around a minute; time goes from end to end."""

    claims: list[Claim]
    capacity: Resources
    rules: Rules = field(default_factory=Rules)
    random: Random = field(default_factory=lambda: Random(0))
    parallel: int = 10**6
    now: datetime = BEGIN
    nodes: Sequence[Node] = ()
    running: list[tuple[datetime, str, Place | None]] = field(default_factory=list)
    starts: list[tuple[datetime, str]] = field(default_factory=list)
    held_for: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.nodes = self.nodes or (Node("node", self.capacity),)

    def run(self, decisions: int) -> Iterator[None]:
        """Decides, then lets the next trial end; yields after each decision."""
        for _ in range(decisions):
            self.decide()
            yield
            before = self.now
            self.running.sort(key=lambda each: each[:2])
            self.now, ended, _ = self.running.pop(0)
            for job_id in [*(job_id for _, job_id, _ in self.running), ended]:
                self.held_for[job_id] += (self.now - before).total_seconds()
            self.change(ended, held=self.job(ended).held - self.job(ended).needed)

    def decide(self) -> None:
        turns = Turns(self.claims, self.nodes, self.rules, self.now)
        while (claim := turns.pop()) is not None:
            if self.count(claim.job_id) >= self.parallel:
                continue
            free = self.free()
            if turns.obstacle(claim, free=free) is not None:
                self.change(claim.job_id, waiting_since=claim.waiting_since or self.now)
                continue
            node = turns.nodes_for(claim, free=free)[0]
            place = Place(node, free.gpus_for(claim.needed, node))
            turns.start(claim)
            self.running.append((self.now + MINUTE * self.random.uniform(0.5, 1.5), claim.job_id, place))
            self.starts.append((self.now, claim.job_id))
            self.change(claim.job_id, held=claim.held + claim.needed, served_at=self.now, waiting_since=None)

    def free(self) -> Room:
        room = Room.of(self.nodes)
        for _, job_id, place in self.running:
            room.take(self.job(job_id).needed, place)
        return room

    def job(self, job_id: str) -> Claim:
        return next(claim for claim in self.claims if claim.job_id == job_id)

    def count(self, job_id: str) -> int:
        return sum(each == job_id for _, each, _ in self.running)

    def change(self, job_id: str, **values: object) -> None:
        self.claims = [replace(claim, **values) if claim.job_id == job_id else claim for claim in self.claims]  # type: ignore[arg-type]

    def held_by(self, user: str | None) -> Resources:
        return Resources.together(claim.held for claim in self.claims if claim.share.user == user)


def claim(job_id: str, *, gpus: float = 1.0, cpus: float = 1.0, held: int = 0, age: float = 0, **more: object) -> Claim:
    """A job that was submitted so many minutes before the first, and holds so many trials."""
    times = {name: more.pop(name) for name in ("served_at", "waiting_since") if name in more}
    needed = Resources(cpus, gpus)
    return Claim(
        job_id,
        BEGIN - age * MINUTE,
        ShareSpec.model_validate(more),
        needed,
        Resources(held * cpus, held * gpus),
        **times,  # type: ignore[arg-type]
    )


def whole(capacity: Resources) -> Sequence[Node]:
    """A cluster of one node."""
    return (Node("node", capacity),)


def free(left: Resources, *, of: Resources) -> Room:
    """What is left of one node, in whole GPUs."""
    room = Room.of(whole(of))
    room.take(of - left, Place("node", tuple(str(number) for number in range(round(of.gpus - left.gpus)))))
    return room


def order(claims: Sequence[Claim], *, now: datetime = BEGIN, capacity: Resources | None = None) -> list[str]:
    turns = Turns(claims, whole(capacity or Resources(64.0, 8.0)), Rules(), now)
    return [each.job_id for each in iter(turns.pop, None)]


@pytest.mark.parametrize(
    "claims",
    [
        [claim("a", age=1), claim("b")],
        [claim("a"), claim("b", held=1, age=9)],
        [claim("a", held=3, weight=2), claim("b", held=2)],
        [claim("a", held=9, priority=1), claim("b")],
        [claim("a", held=1, cpus=8), claim("b", held=2, age=9)],
        [claim("a", age=9, served_at=BEGIN - 2 * MINUTE), claim("b", age=8, served_at=BEGIN - MINUTE)],
        [claim("a", age=9, served_at=BEGIN - MINUTE, weight=3), claim("b", age=2)],
        [claim("a", held=1, user="new"), claim("b", user="big"), claim("c", held=2, user="big")],
        [claim("a", user="x"), claim("b", age=9, user="y", served_at=BEGIN), claim("c", user="y")],
        [claim("a", held=1, weight=0.001, user="x"), claim("b", held=2, weight=999, user="y")],
        [claim("a", gpus=0, cpus=1, held=16), claim("b", held=3)],
    ],
    ids=[
        "the older's",
        "who holds less",
        "who holds less for its weight",
        "the higher priority's",
        "GPUs count, not CPUs, where a trial needs any",
        "ties: who was served longest ago",
        "ties: the time since then counts by weight",
        "the user's who holds less, whatever its jobs do",
        "ties of users: who was served longest ago",
        "weights do not count between users",
        "CPUs and GPUs are compared as parts of all that there are",
    ],
)
def test_the_turn_is(claims: list[Claim]) -> None:
    assert order(claims)[0] == "a"
    assert order(claims[::-1]) == order(claims)


def test_who_was_served_by_a_job_that_has_ended_since_goes_behind_who_was_not() -> None:
    claims = [claim("a", user="x", age=9), claim("b", user="y")]
    turns = Turns(claims, whole(Resources(1.0, 1.0)), Rules(), BEGIN, {("x", True): BEGIN - MINUTE})
    first = turns.pop()
    assert first is not None
    assert first.job_id == "b"


def random_cluster(random: Random) -> Cluster:
    gpus = random.choice([1, 2, 4, 8])
    claims = [
        claim(
            f"{index:03}",
            gpus=random.choice([0, 0.25, 0.5, 1, 1, 1, 2, gpus]) if gpus > 1 else random.choice([0, 0.5, 1]),
            cpus=random.choice([1, 2, 4]),
            weight=random.choice([0.5, 1, 1, 2, 5]),
            user=random.choice([None, "x", "y"]),
        )
        for index in range(random.randint(2, 12))
    ]
    user_max = Resources(random.choice([8.0, 64.0]), random.choice([float(gpus), UNLIMITED.gpus]))
    nodes = [Node("large", Resources(16.0, float(gpus)))]
    nodes += [
        Node(f"small-{index}", Resources(4.0, random.choice([0.0, 1.0, 2.0])))
        for index in range(random.choice([0, 0, 2]))
    ]
    capacity = Resources.together(node.total for node in nodes)
    return Cluster(claims, capacity, Rules(user_max, 5 * MINUTE), random, random.choice([1, 3, 99]), nodes=nodes)


@pytest.mark.parametrize("seed", range(20))
def test_no_decision_gives_more_than_there_is_or_more_than_a_user_may_have_nor_leaves_room_that_a_trial_fits_in(
    seed: int,
) -> None:
    cluster = random_cluster(Random(seed))
    for _ in cluster.run(80):
        assert NOTHING.fits_in(cluster.capacity - Resources.together(each.held for each in cluster.claims))
        assert_no_node_and_no_gpu_has_more_than_it_has(cluster)
        for user in (None, "x", "y"):
            assert cluster.held_by(user).fits_in(cluster.rules.user_max)
        overdue = [c for c in cluster.claims if c.waiting_since and cluster.now - c.waiting_since >= 5 * MINUTE]
        if not overdue:  # else room may be kept
            for each in cluster.claims:
                room = cluster.rules.user_max - cluster.held_by(each.share.user)
                if cluster.count(each.job_id) < cluster.parallel:
                    assert not (cluster.free().fits(each.needed) and each.needed.fits_in(room))


def assert_no_node_and_no_gpu_has_more_than_it_has(cluster: Cluster) -> None:
    cpus: Counter[str] = Counter()
    gpus: Counter[tuple[str, str]] = Counter()
    for _, job_id, place in cluster.running:
        assert place is not None
        needed = cluster.job(job_id).needed
        assert len(place.gpus) == math.ceil(needed.gpus)
        cpus[place.node] += needed.cpus  # type: ignore[assignment]
        gpus.update({(place.node, gpu): min(needed.gpus, 1.0) for gpu in place.gpus})  # type: ignore[arg-type, dict-item]
    for node in cluster.nodes:
        mine = {gpu: held for (name, gpu), held in gpus.items() if name == node.name}
        assert cpus[node.name] <= node.total.cpus
        assert len(mine) <= node.total.gpus
        assert all(held <= 1 + 1e-9 for held in mine.values())


@pytest.mark.parametrize("seed", range(20))
def test_no_trial_waits_for_ever_however_large_it_is_and_whoever_else_wants_room(seed: int) -> None:
    """Trials last 1.5 minutes at most: after the patience of 5, one drain of the cluster for each job before it."""
    cluster = random_cluster(Random(1000 + seed))
    longest = timedelta(0)
    for _ in cluster.run(250):
        waits = [cluster.now - each.waiting_since for each in cluster.claims if each.waiting_since is not None]
        longest = max([longest, *waits])
    heaviest = max(each.share.weight for each in cluster.claims) / min(each.share.weight for each in cluster.claims)
    assert longest < 5 * MINUTE + 2 * MINUTE * len(cluster.claims) * max(1.0, heaviest), longest


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 6, 12])
def test_shares_come_to_be_as_the_weights_to_within_half_a_slot(slots: int) -> None:
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    claims = [claim(name, weight=weight) for name, weight in weights.items()]
    held = average(Cluster(claims, Resources(64.0, float(slots))), slots=slots)
    for name, weight in weights.items():
        assert held[name] == pytest.approx(slots * weight / 6, abs=0.01 if slots % 6 == 0 else 0.51)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_users_hold_alike_whatever_the_number_and_weight_of_their_jobs(slots: int) -> None:
    claims = [claim(f"x{index}", user="x", weight=9) for index in range(10)] + [claim("y", user="y")]
    held = average(Cluster(claims, Resources(64.0, float(slots))), slots=slots)
    assert held["y"] == pytest.approx(slots / 2, abs=0.1)


def average(cluster: Cluster, *, slots: int) -> dict[str, float]:
    """What each job holds on average over many trials."""
    for _ in cluster.run(200 * slots):
        pass
    total = sum(cluster.held_for.values())
    return {job_id: slots * held / total for job_id, held in cluster.held_for.items()}


def test_a_higher_priority_has_all_of_it_while_it_wants_it() -> None:
    cluster = Cluster([claim("low", age=9), claim("high", priority=1)], Resources(64.0, 4.0))
    for _ in cluster.run(100):
        assert cluster.count("low") == 0


def test_a_large_trial_among_small_ones_is_passed_over_for_the_patience_and_then_has_the_room_kept() -> None:
    small = [claim(f"small{index}") for index in range(8)]
    cluster = Cluster([claim("large", gpus=4), *small], Resources(64.0, 4.0), Rules(patience=5 * MINUTE))
    cluster.running = [(BEGIN + MINUTE, "small0", Place("node", ("0",)))]
    cluster.change("small0", held=small[0].needed)
    longest = timedelta(0)
    for _ in cluster.run(100):
        since = cluster.job("large").waiting_since
        waited = cluster.now - since if since is not None else timedelta(0)
        longest = max(longest, waited)
        if 0 * MINUTE < waited < 5 * MINUTE:
            assert cluster.free().total.gpus == 0  # nothing stands idle for it yet
    assert "large" in {job_id for _, job_id in cluster.starts}
    assert 5 * MINUTE <= longest <= 6.5 * MINUTE  # the patience, and the longest trial that ran when it was over


def test_room_is_kept_of_what_is_lacking_only() -> None:
    large = claim("large", gpus=4, cpus=4, waiting_since=BEGIN - 6 * MINUTE, age=9)
    cpu, gpu, greedy = claim("cpu", gpus=0), claim("gpu"), claim("greedy", gpus=0, cpus=9)
    turns = Turns([large, cpu, gpu, greedy], whole(Resources(16.0, 4.0)), Rules(), BEGIN)
    room = free(Resources(12.0, 2.0), of=Resources(16.0, 4.0))
    assert turns.obstacle(large, free=room) is not None
    assert turns.obstacle(cpu, free=room) is None
    assert turns.obstacle(gpu, free=room) is not None  # GPUs are what is lacking
    assert turns.obstacle(greedy, free=room) is not None  # it would take CPUs that are there for the large one


def test_nothing_is_kept_for_a_trial_that_a_shrunken_cluster_cannot_hold() -> None:
    large = claim("large", gpus=8, waiting_since=BEGIN - 60 * MINUTE, age=99)
    turns = Turns([large, claim("small")], whole(Resources(16.0, 4.0)), Rules(), BEGIN)
    room = free(Resources(16.0, 2.0), of=Resources(16.0, 4.0))
    found = turns.obstacle(large, free=room)
    assert found is not None
    assert "the whole cluster has 16 CPUs and 4 GPUs now" in found.now
    assert turns.obstacle(claim("small"), free=room) is None


def test_a_large_trial_of_a_user_at_the_cap_has_the_users_room_kept_and_nobody_elses() -> None:
    rules = Rules(Resources(64.0, 4.0), 5 * MINUTE)
    large = claim("large", gpus=4, user="x", waiting_since=BEGIN - 6 * MINUTE, age=9)
    small, other = claim("small", user="x", held=2), claim("other", user="y")
    turns = Turns([large, small, other], whole(Resources(64.0, 8.0)), rules, BEGIN)
    room = free(Resources(60.0, 6.0), of=Resources(64.0, 8.0))
    found = turns.obstacle(large, free=room)
    assert found is not None
    assert found.reason == "waiting for other trials of user 'x': a user's may hold 4 GPUs and 64 CPUs"
    assert turns.obstacle(small, free=room) is not None
    assert turns.obstacle(other, free=room) is None


def test_a_clock_that_was_set_back_changes_no_order_and_keeps_no_room() -> None:
    claims = [claim("a", age=1, served_at=BEGIN + 60 * MINUTE), claim("b", served_at=BEGIN + 90 * MINUTE)]
    assert order(claims) == ["a", "b"]
    early = claim("c", gpus=8, waiting_since=BEGIN + 60 * MINUTE)
    turns = Turns([early, claim("d")], whole(Resources(64.0, 8.0)), Rules(), BEGIN)
    room = free(Resources(64.0, 7.0), of=Resources(64.0, 8.0))
    assert turns.obstacle(early, free=room) is not None
    assert turns.obstacle(claim("d"), free=room) is None


def test_two_trials_of_0_6_gpu_fill_two_gpus_and_a_third_does_not_fit_in_what_is_left_of_both() -> None:
    nodes = whole(Resources(16.0, 2.0))
    room = Room.of(nodes)
    claims = [claim(name, gpus=0.6) for name in "abc"]
    turns = Turns(claims, nodes, Rules(), BEGIN)
    for each in claims[:2]:
        assert turns.obstacle(each, free=room) is None
        room.take(each.needed, None)
    found = turns.obstacle(claims[2], free=room)
    assert found is not None
    assert found.now == "free: 14 CPUs and 0.8 GPUs, but not on one GPU"
    assert turns.obstacle(claim("d", gpus=0.4), free=room) is None


def test_a_trial_of_two_gpus_does_not_fit_in_one_each_of_two_nodes() -> None:
    nodes = [Node("a", Resources(8.0, 2.0)), Node("b", Resources(8.0, 2.0))]
    room = Room.of(nodes)
    for node in nodes:
        room.take(Resources(1.0, 1.0), Place(node.name, ("0",)))
    two = claim("two", gpus=2)
    turns = Turns([two], nodes, Rules(), BEGIN)
    obstacle = turns.obstacle(two, free=room)
    assert obstacle is not None
    assert obstacle.now == "free: 14 CPUs and 2 GPUs, but not on one node"
    four = claim("four", gpus=4)
    obstacle = Turns([four], nodes, Rules(), BEGIN).obstacle(four, free=room)
    assert obstacle is not None
    assert "no node of it that much: they have 8 CPUs and 2 GPUs" in obstacle.now


def two_nodes(job_id: str, *, gpus: float, **more: object) -> Claim:
    """A claim of trials that are half on one node and half on another."""
    return replace(claim(job_id, **more), needed=Resources(2.0, gpus, ranks=int(gpus), nodes=2))  # type: ignore[arg-type]


def test_a_trial_over_two_nodes_has_room_where_two_have_its_parts_and_holds_them_there() -> None:
    nodes = [Node("a", Resources(8.0, 2.0)), Node("b", Resources(8.0, 2.0)), Node("c", Resources(8.0, 0.0))]
    room = Room.of(nodes)
    four = two_nodes("four", gpus=4)
    turns = Turns([four], nodes, Rules(), BEGIN)
    assert turns.obstacle(four, free=room) is None
    chosen = turns.nodes_for(four, free=room)
    assert sorted(chosen) == ["a", "b"]
    place = room.place_for(four.needed, chosen)
    assert place is not None
    assert place.parts == (Place(chosen[0], ("0", "1")), Place(chosen[1], ("0", "1")))
    room.take(four.needed, place)
    assert (room.total.gpus, room.total.cpus) == (0.0, 22.0)

    room = Room.of(nodes)
    room.take(Resources(1.0, 1.0), Place("a", ("0",)))
    obstacle = turns.obstacle(four, free=room)
    assert obstacle is not None
    assert obstacle.reason == "waiting for room: a trial needs 2 CPUs and 4 GPUs over 2 nodes"
    eight = two_nodes("eight", gpus=8)
    obstacle = Turns([eight], [*nodes, Node("d", Resources(8.0, 4.0))], Rules(), BEGIN).obstacle(eight, free=room)
    assert obstacle is not None
    assert "not 2 nodes of it 1 CPU and 4 GPUs each" in obstacle.now
    two = two_nodes("two", gpus=2)
    room.take(Resources(1.0, 1.0), Place("a", ("1",)))
    obstacle = Turns([two], nodes, Rules(), BEGIN).obstacle(two, free=room)
    assert obstacle is not None
    assert obstacle.now == "free: 22 CPUs and 2 GPUs, but not on 2 nodes, 1 CPU and 1 GPU on each"
    assert not Room.of(nodes[1:]).could_hold(two.needed)


def test_room_for_a_trial_over_two_nodes_is_kept_on_the_two_that_will_have_it_soonest() -> None:
    nodes = [Node(name, Resources(8.0, 2.0)) for name in "abc"]
    room = Room.of(nodes)
    room.take(Resources(2.0, 2.0), Place("a", ("0", "1")))
    room.take(Resources(1.0, 1.0), Place("b", ("0",)))
    large = two_nodes("large", gpus=4, waiting_since=BEGIN - 6 * MINUTE, age=9)
    small = claim("small")
    turns = Turns([large, small], nodes, Rules(), BEGIN)
    assert turns.obstacle(large, free=room) is not None  # c has room, and b will soonest
    assert turns.obstacle(small, free=room) is not None
    room = Room.of(nodes)
    room.take(Resources(1.0, 1.0), Place("b", ("0",)))
    room.take(Resources(1.0, 1.0), Place("c", ("0",)))
    assert turns.obstacle(small, free=room) is None
    assert set(turns.nodes_for(small, free=room)) < {"b", "c"}


def test_room_is_kept_on_one_node_and_the_others_are_everybodys() -> None:
    nodes = [Node("a", Resources(8.0, 2.0)), Node("b", Resources(8.0, 2.0))]
    room = Room.of(nodes)
    room.take(Resources(1.0, 1.0), Place("a", ("0",)))
    room.take(Resources(2.0, 2.0), Place("b", ("0", "1")))
    large = claim("large", gpus=2, waiting_since=BEGIN - 6 * MINUTE, age=9)
    small = claim("small")
    turns = Turns([large, small], nodes, Rules(), BEGIN)
    assert turns.obstacle(large, free=room) is not None  # two of a are nearest
    assert turns.obstacle(small, free=room) is not None
    later = Room.of(nodes)
    later.take(Resources(1.0, 1.0), Place("a", ("0",)))
    later.take(Resources(1.0, 1.0), Place("b", ("0",)))
    assert turns.obstacle(small, free=later) is None
    assert turns.nodes_for(small, free=later) == ("b",)
