"""Who holds what, who waits, in which order and why: told by any server, from what is stored."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
import pytest
from byhand import put, server
from prometheus_client.parser import text_string_to_metric_families
from serving import serving
from waiting import wait_until

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import Service, build
from service.queue.places import Place, find_places, ordinal
from service.settings import Settings
from worker.contracts import Resources
from worker.recording import Recording
from worker.simulator import SimulatorBackend


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Four CPUs, and trials that last as long as the test."""
    return settings.model_copy(update={"epoch_seconds": 600.0, "poll_interval": timedelta(milliseconds=50)})


def wanting(job: dict[str, Any], name: str, *, cpus: float = 1.0, parallel: int = 4, **share: Any) -> JobSpec:
    budget = {"max_trials": 20, "confirm_runs": 1, "parallel_trials": parallel, "stop_early": False}
    changed = {"name": name, "budget": budget, "resources": {"cpus_per_trial": cpus}, "share": share}
    return JobSpec.model_validate(job | changed)


@pytest.mark.both_databases
def test_the_queue_tells_who_holds_what_and_who_waits_in_which_order_and_why(
    http: httpx.Client, job: dict[str, Any]
) -> None:
    with Client(str(http.base_url)) as client:
        holder = client.submit(wanting(job, "holder", parallel=3)).id
        wait_until(lambda: client.job(holder).progress.running == 3)
        first = client.submit(wanting(job, "first", cpus=2, parallel=2, user="ann", weight=2)).id
        urgent = client.submit(wanting(job, "urgent", cpus=4, priority=1)).id
        wait_until(lambda: all("waiting for room" in client.job(job_id).reason for job_id in (first, urgent)))
        queue = client.queue()
        assert (queue.capacity.cpus, queue.held.cpus) == (4, 3)
        assert [(each.id, each.place) for each in queue.jobs] == [(urgent, 1), (first, 2), (holder, None)]
        second = queue.jobs[1]
        assert (second.user, second.weight, second.priority, second.name) == ("ann", 2, 0, "first")
        assert (second.held.cpus, second.needed.cpus) == (0, 2)
        assert second.waiting_since == client.job(first).created_at
        assert second.reason == "waiting for room: a trial needs 2 CPUs and 0 GPUs; free: 1 CPU and 0 GPUs"
        assert (queue.jobs[2].held.cpus, queue.jobs[2].waiting_since) == (3, None)
        assert client.job(first).place == 2
        assert client.job(first).reason == "waiting for room: a trial needs 2 CPUs and 0 GPUs; 2nd in the queue"
        assert {each.id: each.place for each in client.jobs()} == {urgent: 1, first: 2, holder: None}
        client.pause(urgent)
        assert client.job(first).place == 1  # what is paused waits for nothing
        page = http.get(f"/jobs/{first}").text
        assert "1st in the queue" in page
        samples = [s for f in text_string_to_metric_families(http.get("/metrics").text) for s in f.samples]
        assert [s.value for s in samples if s.name == "fixnorm_tune_jobs_waiting"] == [1]
        client.cancel(holder)
        wait_until(lambda: client.job(first).progress.running == 2)
        assert [each.place for each in client.queue().jobs if each.id == first] == [None]


def test_a_server_that_stands_by_tells_the_same_queue(
    settings: Settings, postgres_url: str, job: dict[str, Any]
) -> None:
    shared = settings.model_copy(update={"database_url": postgres_url})
    with (
        serving(build(shared).app) as first,
        serving(build(shared).app) as second,
        Client(first) as one,
        Client(second) as other,
    ):
        holder = one.submit(wanting(job, "holder")).id
        wait_until(lambda: one.job(holder).progress.running == 4)
        waiting = other.submit(wanting(job, "waiting")).id
        wait_until(lambda: "waiting for room" in one.job(waiting).reason)
        assert other.queue() == one.queue()
        assert [each.place for each in other.queue().jobs] == [1, None]


def test_the_order_that_is_told_is_the_order_in_which_jobs_start(settings: Settings, job: dict[str, Any]) -> None:
    quick = settings.model_copy(update={"epoch_seconds": 0.0})
    backend = SimulatorBackend(Recording.packaged(), total=Resources(cpus=1.0, gpus=0.0))

    def places(service: Service) -> list[Place]:
        with service.runtime.database.read() as session:
            told = service.runtime
            return find_places(session, layout=told.layout(), rules=told.rules, now=told.now())

    with server(quick, backend=backend) as service:
        for share in (
            {},
            {"user": "x"},
            {"user": "x"},
            {"user": "y"},
            {"user": "y"},
        ):  # with weights, orders change in time
            put(service, wanting(job, "one of five", parallel=1, **share))
        starts: list[str] = []
        while len(starts) < 8:
            told = places(service)
            service.dispatcher.tick()
            (holding,) = [place.standing.job_id for place in places(service) if place.claim.held.cpus]
            if holding not in starts[-1:]:
                assert told[0].standing.job_id == holding
                starts.append(holding)
    assert len(set(starts)) >= 4


@pytest.mark.parametrize(
    ("number", "word"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (22, "22nd")]
)
def test_places_are_said_as_people_say_them(number: int, word: str) -> None:
    assert ordinal(number) == word
