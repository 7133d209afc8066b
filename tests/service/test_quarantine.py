"""A node on which trials are lost again and again is taken out of use for a while, and it is said why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from byhand import put, server, state_of
from prometheus_client.parser import text_string_to_metric_families
from serving import serving
from typer.testing import CliRunner

from fixnorm_core.spec import JobSpec, ResourceSpec
from service.cli.main import app
from service.client import Client
from service.composition import Service
from service.database.rows import AttemptState
from service.events.records import events_after
from service.jobs import repository
from service.nodes.quarantine import End, Sentence, condemn, sentence, stand
from service.nodes.records import load_sentences
from service.queue.places import find_places
from service.schemas import EventKind, JobState
from service.settings import Settings
from worker.contracts import Failed, FailureKind, Node, Resources, Task, Update
from worker.recording import Recording
from worker.simulator import SimulatorBackend

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def end(node: str = "a", job: str = "j", trial: int = 0, *, minute: float = 0, lost: bool = True) -> End:
    return End(node, job, trial, NOON + minute * MINUTE, lost, "the worker was lost" if lost else "")


def found(ends: Sequence[End], *, on_probation: bool = False, since: datetime | None = None) -> str | None:
    return condemn("a", ends, on_probation=on_probation, since=since, now=NOON + 10 * MINUTE)


@pytest.mark.parametrize(
    ("ends", "is_condemned"),
    [
        ([end(trial=0), end(trial=1), end(trial=2)], True),
        ([end(trial=0), end(trial=1)], False),
        ([end(trial=0), end(trial=0), end(trial=0), end(trial=0)], False),
        ([end(job="x"), end(job="y"), end(job="z")], True),
        ([end(trial=0, minute=-60), end(trial=1), end(trial=2)], False),
        ([end(trial=0, node="b"), end(trial=1), end(trial=2)], False),
        ([*(end(trial=n, lost=False) for n in range(4)), *(end(trial=n) for n in range(4, 7))], False),
        ([*(end(trial=n, lost=False) for n in range(3)), *(end(trial=n) for n in range(4, 7))], True),
        ([*(end(trial=n) for n in range(3)), end(node="b", trial=3)], False),
        ([*(end(trial=n) for n in range(3)), end(node="b", trial=3), end(node="b", trial=4, lost=False)], True),
    ],
    ids=[
        "three different trials",
        "two",
        "one trial as often as it likes",
        "three jobs' trials of the same number",
        "what was lost an hour ago counts no more",
        "what was lost elsewhere does not count",
        "most end well",
        "half end well",
        "a job that is lost on other nodes alike is to blame itself",
        "unless it ends well on another",
    ],
)
def test_a_node_is_condemned_for(ends: list[End], is_condemned: bool) -> None:
    reason = found(ends)
    assert (reason is not None) is is_condemned
    if reason is not None:
        assert reason == "3 trials were lost there within an hour, the last one with: the worker was lost"


def test_on_probation_a_single_loss_condemns_and_what_was_atoned_for_is_not_held_against_it_again() -> None:
    lost = [end(trial=n, minute=-30) for n in range(3)]
    assert found(lost, since=NOON) is None
    assert found([*lost, end(trial=4, minute=1)], since=NOON) is None
    assert found([*lost, end(trial=4, minute=1)], since=NOON, on_probation=True) is not None
    assert found([end(lost=False)], on_probation=True) is None


def test_each_time_is_four_times_as_long_as_the_one_before_up_to_six_hours_until_a_day_has_gone_well() -> None:
    told, lasts = None, []
    now = NOON
    for _ in range(5):
        told = sentence("a", "why", earlier=told, first=10 * MINUTE, now=now)
        lasts.append((told.until - now) / MINUTE)
        now = told.until + MINUTE
    assert lasts == [10, 40, 160, 360, 360]
    assert told is not None
    well = replace(told, lifted_at=now)
    assert sentence("a", "why", earlier=well, first=10 * MINUTE, now=now + timedelta(hours=23)).times == 6
    assert sentence("a", "why", earlier=well, first=10 * MINUTE, now=now + timedelta(hours=24)).times == 1


def node(name: str, gpus: float = 0.0) -> Node:
    return Node(name, Resources(4.0, gpus))


def bound(name: str, *, minutes: float = 10) -> Sentence:
    return Sentence(name, "3 trials were lost there", NOON, NOON + minutes * MINUTE, 1)


def test_how_nodes_stand() -> None:
    three = [node("a"), node("b"), node("c")]
    assert stand(three, {}, now=NOON) == {}
    out = stand(three, {"a": bound("a"), "gone": bound("gone")}, now=NOON)
    assert out["a"].is_out
    assert out["a"].says == "a is out of use until 12:10:00 UTC: 3 trials were lost there"
    assert out.keys() == {"a"}
    later = stand(three, {"a": bound("a")}, now=NOON + 10 * MINUTE)["a"]
    assert (later.is_out, later.until) == (False, None)
    assert later.says == "a takes one trial at a time until one ends well: 3 trials were lost there"
    assert stand(three, {"a": replace(bound("a"), lifted_at=NOON)}, now=NOON) == {}


def test_the_last_node_and_the_last_with_a_gpu_stay_in_use_for_one_trial_at_a_time_and_say_so() -> None:
    all_bound = {name: bound(name, minutes=minutes) for name, minutes in (("a", 30), ("b", 20))}
    found = stand([node("a"), node("b")], all_bound, now=NOON)
    assert (found["a"].is_out, found["b"].is_out) == (True, False)  # the one that would be back first
    assert "as no other node is in use" in found["b"].says
    found = stand([node("gpu", 8), node("head")], {"gpu": bound("gpu")}, now=NOON)
    assert "as no other node with a GPU is in use" in found["gpu"].says
    assert stand([node("gpu", 8), node("head")], {"head": bound("head")}, now=NOON)["head"].is_out


class Sick(SimulatorBackend):
    """Loses everything that runs on some of its machines."""

    sick: frozenset[str] = frozenset()
    knows_where: bool = True

    def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
        super().start(task, resources, nodes)
        lost = [part.node for part in self._places[task.attempt_id].parts if part.node in self.sick]
        if lost:
            del self._replays[task.attempt_id]
            failed = Failed(FailureKind.RETRYABLE, "the worker was lost", node=lost[0] if self.knows_where else None)
            self._news.append(Update(task.attempt_id, outcome=failed))


def sick(*nodes: str, of: Sequence[str] = ("a", "b")) -> Sick:
    backend = Sick(Recording.packaged(), machines=[node(name) for name in of])
    backend.sick = frozenset(nodes)
    return backend


class Clock:
    time = NOON

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def spec(job: dict[str, Any]) -> JobSpec:
    budget = {"max_trials": 12, "parallel_trials": 6, "confirm_runs": 0, "stop_early": False}
    return JobSpec.model_validate(job | {"budget": budget})


def ends_on(service: Service, job_id: str) -> list[str]:
    with service.runtime.database.read() as session:
        events = events_after(session, job_id, 0, limit=1000)
    return [event.reason or "" for event in events if event.kind is EventKind.NODE_QUARANTINED]


def tick(service: Service, clock: Clock, times: int = 1) -> None:
    for _ in range(times):
        clock.time += timedelta(seconds=1)
        service.dispatcher.wake()
        service.dispatcher.tick()


@pytest.mark.both_databases
def test_nothing_is_placed_on_a_node_that_loses_its_trials_and_the_job_ends_well_on_the_other(
    settings: Settings, spec: JobSpec
) -> None:
    backend, clock = sick("a"), Clock()
    with server(settings, backend=backend, now=clock) as service:
        job_id = put(service, spec)
        tick(service, clock, 3)
        (said,) = ends_on(service, job_id)
        assert said.startswith("a is out of use until 12:10:")
        assert "3 trials were lost there within an hour" in said
        before = set(backend._held)
        for _ in range(200):
            tick(service, clock)
            assert {backend._places[each].node for each in set(backend._held) - before} <= {"b"}
            if state_of(service, job_id) is JobState.SUCCEEDED:
                break
        assert state_of(service, job_id) is JobState.SUCCEEDED


@pytest.mark.parametrize("knows_where", [True, False])
def test_what_is_lost_of_a_trial_over_two_nodes_counts_against_the_one_that_it_was_on_if_that_is_known(
    knows_where: bool, settings: Settings, spec: JobSpec
) -> None:
    backend, clock = sick("b", of="abc"), Clock()
    backend.knows_where = knows_where
    apart = ResourceSpec(cpus_per_trial=2, ranks_per_trial=2, nodes_per_trial=2)
    with server(settings, backend=backend, now=clock) as service:
        job_id = put(service, spec.model_copy(update={"resources": apart}))
        for _ in range(200):
            tick(service, clock)
            if state_of(service, job_id) in (JobState.SUCCEEDED, JobState.FAILED):
                break
        out = [reason.split(" is out of use")[0] for reason in ends_on(service, job_id)]
        assert out == (["b"] if knows_where else [])
        assert state_of(service, job_id) is (JobState.SUCCEEDED if knows_where else JobState.FAILED)


def test_it_is_out_of_use_over_a_restart_comes_back_for_one_trial_and_is_in_use_when_that_ends_well(
    settings: Settings, spec: JobSpec
) -> None:
    clock = Clock()
    large = spec.model_copy(update={"budget": spec.budget.model_copy(update={"max_trials": 40, "parallel_trials": 8})})
    with server(settings, backend=sick("a"), now=clock) as service:
        job_id = put(service, large)
        tick(service, clock, 3)
        assert len(ends_on(service, job_id)) == 1
    backend = sick("a")
    with server(settings, backend=backend, now=clock) as service:
        tick(service, clock, 5)
        assert {place.node for place in backend.places().values()} == {"b"}
        clock.time = NOON + 11 * MINUTE
        backend.epoch_seconds = 1e6  # from now on all lasts
        tick(service, clock, 3)
        (again,) = ends_on(service, job_id)[1:]
        assert "1 trial was lost there" in again
        assert "out of use until 12:51:" in again
        assert [each.node for each in backend.places().values()].count("a") == 0
        backend.sick = frozenset()
        clock.time = NOON + 60 * MINUTE
        tick(service, clock, 3)
        assert [each.node for each in backend.places().values()].count("a") == 1
        backend.epoch_seconds = 0
        tick(service, clock, 12)
        with service.runtime.database.read() as session:
            assert load_sentences(session)["a"].lifted_at is not None
        tick(service, clock)
        assert [each.node for each in backend.places().values()].count("a") > 1


def test_the_only_node_takes_one_trial_at_a_time_and_a_waiting_job_says_so(settings: Settings, spec: JobSpec) -> None:
    backend, clock = sick("a", of=["a"]), Clock()
    with server(settings.model_copy(update={"retry_seconds": 60}), backend=backend, now=clock) as service:
        job_id = put(service, spec)
        tick(service, clock, 2)
        assert ["as no other node is in use" in said for said in ends_on(service, job_id)] == [True]
        backend.sick, backend.epoch_seconds = frozenset(), 1e6
        other = put(service, spec)
        tick(service, clock, 5)
        assert len(backend.places()) == 1
        with service.runtime.database.read() as session:
            told = service.runtime
            waiting = [
                p for p in find_places(session, layout=told.layout(), rules=told.rules, now=told.now()) if p.number
            ]
        assert "a takes one trial at a time, as no other node is in use" in waiting[0].reason
        backend.epoch_seconds = 0
        for _ in range(300):
            tick(service, clock)
            if {state_of(service, each) for each in (job_id, other)} == {JobState.SUCCEEDED}:
                break
        assert {state_of(service, each) for each in (job_id, other)} == {JobState.SUCCEEDED}


def test_a_node_is_released_by_an_operator_and_queue_metrics_and_doctor_say_which_is_out_of_use(
    settings: Settings, spec: JobSpec
) -> None:
    backend, clock = sick("a"), Clock()
    with server(settings, backend=backend, now=clock) as service:
        job_id = put(service, spec)
        tick(service, clock, 3)
        assert len(ends_on(service, job_id)) == 1
        with serving(service.app) as url, Client(url) as client:
            state = {each.name: (each.state, each.until is not None) for each in client.queue().nodes}
            assert state == {"a": ("out of use", True), "b": ("in use", False)}
            text = httpx.get(f"{url}/metrics").text
            samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
            nodes = {s.labels["state"]: s.value for s in samples if s.name == "fixnorm_tune_nodes"}
            assert nodes == {"in_use": 1, "on_probation": 0, "out_of_use": 1}
            said = CliRunner().invoke(app, ["queue", "--server", url], catch_exceptions=False).stdout
            assert "node a is out of use until 12:10:" in said
            said = CliRunner().invoke(app, ["doctor", "--server", url], catch_exceptions=False).stdout
            assert "'fixnorm-tune release a' takes it into use again" in said
            unknown = CliRunner().invoke(app, ["release", "c", "--server", url])
            assert (unknown.exit_code, "there is no node 'c'" in unknown.stderr) == (4, True)
            said = CliRunner().invoke(app, ["release", "a", "--server", url], catch_exceptions=False).stdout
            assert said == "node a is in use\n"
            assert {each.state for each in client.queue().nodes} == {"in use"}


def test_what_is_no_fault_of_the_node_condemns_none(settings: Settings, spec: JobSpec) -> None:
    class Full(Sick):
        def start(self, task: Task, resources: Resources, nodes: Sequence[str] = ()) -> None:
            super().start(task, resources, nodes)
            self._news = [
                replace(each, outcome=Failed(FailureKind.CRASHED, "it raised")) if each.outcome else each
                for each in self._news
            ]

    backend = Full(Recording.packaged(), machines=[node("a"), node("b")])
    backend.sick = frozenset({"a"})
    clock = Clock()
    with server(settings, backend=backend, now=clock) as service:
        job_id = put(service, spec)
        tick(service, clock, 5)
        with service.runtime.database.read() as session:
            rows = repository.attempts_of(session, [job_id])
            assert load_sentences(session) == {}
        assert sum(row.state == AttemptState.FAILED for row in rows) >= 3
        assert ends_on(service, job_id) == []
