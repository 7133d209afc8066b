"""A server is replaced: the new one answers before the old one is told to stop, and nothing is lost on the way."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
from processes import ServerProcess
from waiting import wait_until

from fixnorm_core.spec import JobSpec
from service.client import Client
from service.schemas import JobState, TrialState
from worker.recording import Recording

BUDGET = {"max_trials": 4, "parallel_trials": 2, "confirm_runs": 1, "stop_early": False}


def test_the_new_server_takes_over_at_once_and_every_accepted_job_ends(postgres_url: str, tmp_path: Path) -> None:
    # Such a lease would last longer than the test, so it has to be handed over
    settings = {"database_url": postgres_url, "lease_seconds": 3600, "epoch_seconds": 0.1, "cpus": 2}
    old, new = (ServerProcess(name, tmp_path, state_dir=tmp_path / "state", **settings) for name in ("old", "new"))
    spec = JobSpec.model_validate(Recording.packaged().job.model_dump() | {"budget": BUDGET})
    accepted = []
    try:
        old.start()
        old.wait()
        with Client(old.url) as client:
            accepted.append(client.submit(spec).id)
            wait_until(lambda: any(trial.curve for trial in client.trials(accepted[0])))
            assert httpx.get(f"{old.url}/readyz").status_code == 200
            new.start()
            new.wait()
            assert httpx.get(f"{new.url}/readyz").status_code == 200
            accepted.append(client.submit(spec).id)  # the old one still works
            leads = old.leads
            old.send(signal.SIGTERM)
        assert leads
        with Client(new.url) as client:
            accepted.append(client.submit(spec).id)
            wait_until(lambda: new.leads, seconds=240)
            wait_until(lambda: old.ended, seconds=240)
            old.stop()  # its exit status was 0
            for job in accepted:
                view = client.wait(job)
                assert (view.state, view.progress.finished) == (JobState.SUCCEEDED, BUDGET["max_trials"]), view.reason
                assert [trial.number for trial in client.trials(job)] == list(range(BUDGET["max_trials"]))
                assert {trial.state for trial in client.trials(job)} == {TrialState.COMPLETE}
    finally:
        old.stop()
        new.stop()
    assert "Traceback" not in old.log + new.log
