"""The Python file that came with a job can be had again, and the job be run with it elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from serving import serving
from typer.testing import CliRunner

from fixnorm_core.code import named_by_code
from fixnorm_core.spec import JobSpec
from service.cli.main import app
from service.client import Client, NotFoundError
from service.composition import build
from service.settings import Settings

CODE = '"""Ours: <b>&c."""\n\n\ndef build(num_classes, channels, image_size):\n    raise NotImplementedError\n'


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"allow_code": True})


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_job_is_run_again_elsewhere_from_what_export_wrote(
    settings: Settings, job: dict[str, Any], tmp_path: Path
) -> None:
    spec = JobSpec.model_validate(job | {"model": {"name": "code:build"}, "code": CODE})
    folder = tmp_path / "exported"
    with serving(build(settings).app) as url, Client(url) as client:
        view = client.submit(spec).wait()
        stored = client.job(view.id).spec
        run("export", view.id, str(folder), "--server", url)
        assert client.code(view.id) == (folder / "code.py").read_text() == CODE
        report = client.report(view.id, html=True)
        run("submit", "--like", view.id, "--name", "once more", "--server", url)  # its file goes with it
        assert client.jobs()[0].spec == stored.model_copy(update={"name": "once more"})
    assert "fixnorm-tune submit job.yaml --code code.py --watch" in report
    assert "Ours: &lt;b&gt;&amp;c." in report
    for name in ("job.yaml", "recipe.yaml"):
        assert yaml.safe_load((folder / name).read_text())["model"]["name"] == "code:build"

    elsewhere = settings.model_copy(update={"state_dir": tmp_path / "elsewhere", "database_url": None})
    with serving(build(elsewhere).app) as url, Client(url) as client:
        run("submit", str(folder / "job.yaml"), "--code", str(folder / "code.py"), "--server", url)
        (again,) = client.jobs()
        assert again.spec == stored


def test_a_file_that_is_not_there_is_said_to_be_missing(
    settings: Settings, job: dict[str, Any], tmp_path: Path
) -> None:
    sent = JobSpec.model_validate(job | {"model": {"name": "code:build"}, "code": CODE})
    with serving(build(settings).app) as url, Client(url) as client, httpx.Client(base_url=url) as http:
        named = named_by_code(sent, reach=settings.reach(tokens=False))
        for path in ("jobs", "plans"):
            refused = http.post(f"/api/v1/{path}", json=named.model_dump(mode="json"))
            assert refused.status_code == 422
            assert "has not come to this server" in refused.json()["detail"]
            assert "code:build" in refused.json()["way_out"]
        ended = client.submit(sent).wait()
        assert client.submit(named).wait().spec.model == ended.spec.model  # now it is there
        (kept,) = settings.kept_code.iterdir()
        kept.unlink()
        with pytest.raises(NotFoundError, match="or it was deleted"):
            client.code(ended.id)
        plain = client.submit(JobSpec.model_validate(job))
        with pytest.raises(NotFoundError, match="came with no Python file"):
            client.code(plain.id)
        done = CliRunner().invoke(app, ["export", ended.id, str(tmp_path / "exported"), "--server", url])
        assert done.exit_code == 0
        assert "no code.py" in done.stderr
        assert "--code code.py" not in client.report(ended.id, html=True)
