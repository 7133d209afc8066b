"""A state folder that is started again under another path, after a job that has really trained."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from processes import ServerProcess

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.client import Client, NotFoundError
from service.schemas import JobState

pytestmark = pytest.mark.ray

SPEC = JobSpec(
    model=ModelSpec(options={"width": 8}),
    data=DataSpec(train_limit=200, validation_limit=100),
    training=TrainingSpec(epochs=1),
    budget=BudgetSpec(max_trials=1, parallel_trials=1, confirm_runs=0, stop_early=False),
)


def test_all_that_a_job_left_is_there_and_it_goes_on_and_what_is_gone_is_named(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "restored" / "after"
    one = ServerProcess("one", tmp_path, state_dir=before, backend="ray", cpus=1)
    with one.running() as server, Client(server.url) as client:
        done = client.wait(client.submit(SPEC).id)
        assert done.state is JobState.SUCCEEDED, done.reason
        weights = client.download_weights(done.id, to=tmp_path / "weights").read_bytes()
        report, log, classes = client.report(done.id), "".join(client.logs(done.id, 0)), client.classes(done.id)
    after.parent.mkdir()
    shutil.move(before, after)
    two = ServerProcess("two", tmp_path, state_dir=after, backend="ray", cpus=1)
    with two.running() as server, Client(server.url) as client:
        assert client.download_weights(done.id, to=tmp_path / "again").read_bytes() == weights
        assert (client.report(done.id), client.classes(done.id)) == (report, classes)
        assert "".join(client.logs(done.id, 0)) == log
        assert done.id in client.report(done.id, html=True)
        best, kept = client.best(done.id), report_of(after, done.id)
        assert (best.weights, best.report) == (str(kept.with_name("weights.safetensors")), str(kept))
        kept.unlink()
        with pytest.raises(NotFoundError) as raised:
            client.report(done.id)
        assert (raised.value.status, raised.value.code) == (410, "gone")
        assert str(kept) in raised.value.detail
        assert "extend" in raised.value.way_out
        answer = httpx.get(f"{server.url}/api/v1/jobs/{done.id}/report")
        assert answer.headers["content-type"] == "application/problem+json"
        client.extend(done.id, 1)
        again = client.wait(done.id)
        assert (again.state, again.progress.finished) == (JobState.SUCCEEDED, 2), again.reason
        assert client.report(done.id).startswith("# ")
    assert not before.exists()


def report_of(state: Path, job_id: str) -> Path:
    return state / "jobs" / job_id / "best" / "report.md"
