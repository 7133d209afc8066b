"""What Prometheus is told agrees with what ran."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import serving
from waiting import wait_until

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.spec import JobSpec
from service.client import Client
from service.composition import build
from service.metrics import store
from service.metrics.meters import Meters
from service.settings import Settings


def scrape(http: httpx.Client) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, which come by name."""
    answer = http.get("/metrics")
    assert answer.status_code == 200
    samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


@pytest.mark.both_databases
def test_a_job_that_ran_is_counted_with_its_attempts(http: httpx.Client, job: dict[str, Any]) -> None:
    before = scrape(http)
    assert before["fixnorm_tune_jobs", "succeeded"] == 0
    assert before["fixnorm_tune_resources", "cpu"] == 4
    with Client(str(http.base_url)) as client:
        spec = JobSpec.model_validate(job | {"budget": {"max_trials": 5, "confirm_runs": 0, "stop_early": False}})
        client.trials(client.wait(client.submit(spec).id).id)  # while it runs, the dispatcher remembers them
    after = scrape(http)
    assert after["fixnorm_tune_jobs", "succeeded"] == 1
    assert after["fixnorm_tune_jobs", "running"] == 0
    assert after["fixnorm_tune_attempts_ended_total", "complete", "train"] == 5
    assert after["fixnorm_tune_attempts_ended_total", "complete", "evaluate"] == 1
    assert after["fixnorm_tune_suggestion_seconds_count",] == 5
    assert (
        after["fixnorm_tune_dispatch_gap_seconds_count",] == 5
    )  # from each training to the next, and to the evaluation
    assert after["fixnorm_tune_resources_held", "cpu"] == 0
    assert after["fixnorm_tune_dispatching",] == 1
    for tables, mode in (("jobs", "write"), ("jobs", "read"), ("studies", "write"), ("studies", "read")):
        assert after["fixnorm_tune_database_seconds_count", mode, tables] > 0
        assert after["fixnorm_tune_database_seconds_sum", mode, tables] > 0
    assert after["process_resident_memory_bytes",] > 10 * 2**20
    assert after["fixnorm_tune_build_info", httpx.get(f"{http.base_url}/healthz").json()["version"]] == 1


def test_a_server_that_stands_by_tells_of_the_shared_jobs(
    settings: Settings, postgres_url: str, job: dict[str, Any]
) -> None:
    shared = settings.model_copy(update={"database_url": postgres_url, "epoch_seconds": 60.0})
    with serving(build(shared).app) as first, serving(build(shared).app) as second:
        with Client(first) as client:
            client.submit(JobSpec.model_validate(job))
        with httpx.Client(base_url=second) as http:
            told = scrape(http)
    assert told["fixnorm_tune_dispatching",] == 0
    assert told["fixnorm_tune_jobs", "queued"] + told["fixnorm_tune_jobs", "running"] == 1


def test_room_that_nothing_needed_is_no_gap() -> None:
    now = [0.0]
    meters = Meters(clock=lambda: now[0])
    meters.ended("train", "COMPLETE")
    meters.nothing_waits()
    now[0] = 1000.0
    meters.started()
    meters.ended("train", "FAILED")
    now[0] = 1000.25
    meters.started()
    assert meters.registry.get_sample_value("fixnorm_tune_dispatch_gap_seconds_count") == 1
    assert meters.registry.get_sample_value("fixnorm_tune_dispatch_gap_seconds_sum") == 0.25


def test_the_guide_for_operators_tells_of_every_metric_with_its_labels_and_of_no_other(http: httpx.Client) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(fixnorm_tune_\w+)(?:\{([\w,]+)\})?` \| (\w+) \|", guide, re.MULTILINE)
    http.post("/api/v1/jobs", json={}).raise_for_status()
    told = {}
    for family in text_string_to_metric_families(http.get("/metrics").text):
        if family.name.startswith("fixnorm_tune") and not family.name.endswith("_created"):
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            kind = "gauge" if family.type == "info" else family.type
            told[family.name + ("_total" if family.type == "counter" else "")] = kind, labels
    documented = {name: (kind, set(labels.split(",")) if labels else set()) for name, labels, kind in rows}
    assert told.keys() == documented.keys()
    for name, (kind, labels) in told.items():
        assert documented[name][0] == kind, name
        assert not labels or documented[name][1] == labels, name  # a counter that has counted nothing has none


class Surprising(ArtifactStore):
    """Raises what nobody has foreseen at the first look, and nothing later."""

    def size(self, name: str) -> int | None:  # noqa: ARG002
        self.url, surprising = "s3://images/a", self.url == "s3://images"
        if surprising:
            raise RuntimeError("of a library, on which nobody had counted")
        return None


def test_a_store_is_looked_at_again_whatever_the_last_look_has_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_EVERY_SECONDS", 0.01)
    told: list[bool] = []
    meters = Meters()
    monkeypatch.setattr(meters, "store_answers", told.append)
    watch = store.StoreWatch(Surprising("s3://images"), meters)
    watch.start()
    try:
        wait_until(lambda: len(told) >= 2)
    finally:
        watch.close()
    assert told[:2] == [False, True]
