"""What docker-compose.yml starts, without Docker: a database, a head, two nodes, two servers. Some die."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from topology import Topology, submit
from waiting import wait_until

from service.client import Client
from service.schemas import TERMINAL_STATES, JobState, TrialState, TrialView

pytestmark = pytest.mark.ray

TRIALS = 2
JOB = (
    "--dataset=digits",
    "--epochs=50",
    f"--trials={TRIALS}",
    "--parallel=1",  # so that either job holds one of the two nodes
    "--set=model.options.width=8",
    "--set=data.train_limit=400",
    "--set=budget.confirm_runs=0",
    "--set=budget.stop_early=false",
)


@pytest.fixture
def topology(postgres_url: str, tmp_path: Path) -> Iterator[Topology]:
    topology = Topology(postgres_url, tmp_path)
    try:
        yield topology
    finally:
        topology.remove()


def test_jobs_end_with_their_budgets_though_a_node_and_the_server_that_ran_them_are_killed(topology: Topology) -> None:
    with ThreadPoolExecutor() as threads:  # two hosts at once, while the cluster starts
        topology.start("ray-head", "head")
        said = list(threads.map(topology.run, ["migrate"] * 2))
        assert sorted(said) == ["the database is up to date now\n", "the database was up to date\n"]
        topology.wait_for_node("ray-head", "head")
        topology.wait("ray-head", "head")
        for name in ("worker-1", "worker-2"):  # one after the other: a node that is slow to start gives up
            topology.start("ray-worker", name)
            topology.wait_for_node("ray-worker", name)
        for number in (0, 1):
            topology.start("server", f"server-{number}", server=number)
        for number in (0, 1):
            topology.wait_for_node("server", f"server-{number}", server=number)
            topology.wait("server", f"server-{number}", server=number)

    urls = [topology.url(number) for number in (0, 1)]
    assert {httpx.get(f"{url}/api/v1/jobs").status_code for url in urls} == {401}
    made = topology.run("server", "fixnorm-tune", "token", "create", "ann", "--scope=submit", "--output=json")
    token = json.loads(made)["token"]
    leader = next(n for n, url in enumerate(urls) if httpx.get(f"{url}/healthz").json()["dispatching"])
    standby = 1 - leader
    with Client(urls[standby], token=token) as client:
        nodes = {node.name: node.cpus for node in client.queue().nodes}
        assert {name: cpus for name, cpus in nodes.items() if cpus} == {"worker-1": 1, "worker-2": 1}
        jobs = [submit(topology, url, token, *JOB) for url in urls]
        wait_until(lambda: all(running(client, job) for job in jobs) and any(trains(client, job) for job in jobs))
        topology.kill("worker-2")
        topology.kill(f"server-{leader}")
        wait_until(lambda: bool(httpx.get(f"{urls[standby]}/healthz").json()["dispatching"]))
        wait_until(lambda: all(client.job(job).state in TERMINAL_STATES for job in jobs), seconds=300)
        for job in jobs:
            view = client.job(job)
            assert view.state is JobState.SUCCEEDED, view.reason
            assert view.progress.finished == TRIALS
            trials = client.trials(job)
            assert [trial.number for trial in trials] == list(range(TRIALS))
            assert {trial.state for trial in trials} == {TrialState.COMPLETE}
            assert client.best(job).test is not None

    server = topology.process(f"server-{standby}")
    family = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0, topology.log(f"server-{standby}")
    assert not psutil.wait_procs(family, timeout=30)[1]  # its Ray node has ended with it


def running(client: Client, job: str) -> list[TrialView]:
    return [trial for trial in client.trials(job) if trial.state is TrialState.RUNNING]


def trains(client: Client, job: str) -> bool:
    """Whether a trial of it has told of an epoch."""
    return any(trial.curve for trial in running(client, job))
