"""Nothing that a server writes or answers has a secret of its environment, of its tokens or of its sessions in it."""

from __future__ import annotations

import base64
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from buckets import Bucket, environment, picture, s3_server
from PIL import Image
from processes import ServerProcess
from sqlalchemy import MetaData, create_engine, make_url, select

from fixnorm_core.spec import BudgetSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec
from service.access.scopes import NEEDS, Scope
from service.administration import create_token, upgrade_database
from service.client import Client
from service.schemas import JobState
from service.settings import Settings
from worker.recording import Recording

DASHBOARD = ("/dashboard", "/api/studies", "/api/studies/1", "/csv/1", "/api/meta")


@pytest.fixture
def ray_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a Ray that a server starts keeps its own logs; a socket's path in it has to be short."""
    folder = Path(tempfile.mkdtemp(prefix="fr-"))
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def holders(secret: str, files: Iterator[Path]) -> list[str]:
    return [str(path) for path in files if secret.encode() in path.read_bytes()]


def files_of(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def answers(http: httpx.Client, job_ids: list[str]) -> Iterator[tuple[str, str]]:
    """What every address answers that can be asked for, for each of the jobs."""
    paths = [path for method, path in NEEDS if method == "GET"] + list(DASHBOARD)
    paths += ["/api/v1/jobs/{job_id}/trials/{number}/logs?attempt=1", "/api/v1/jobs/{job_id}/report?format=html"]
    asked = {path.format(job_id=job, number=n, name="pages.css") for path in paths for job in job_ids for n in (0, 1)}
    for path in sorted(asked):
        answer = http.get(path)
        yield path, "\n".join(f"{name}: {value}" for name, value in answer.headers.items()) + answer.text


def rows(url: str) -> str:
    """Everything that the database holds."""
    engine = create_engine(url)
    tables = MetaData()
    tables.reflect(engine)
    with engine.connect() as connection:
        found = [str(row) for table in tables.sorted_tables for row in connection.execute(select(table))]
    engine.dispose()
    return "\n".join(found)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """Where some images are, of which one is none."""
    with s3_server() as bucket:
        for number in range(20):
            bucket.put(f"whole/{number % 2}/{number}.png", picture(10 * number))
            bucket.put(f"broken/{number % 2}/{number}.png", picture(10 * number) if number else b"no image")
        yield bucket


def simulated(folder: Path) -> tuple[JobSpec, ...]:
    job = Recording.packaged().job.model_copy(update={"budget": BudgetSpec(max_trials=3, confirm_runs=1)})
    wrong = JobSpec.model_validate(
        {"search": {"method": "weight_decay"}, "budget": {"max_trials": 2, "confirm_runs": 0}}
    )
    return job, wrong


def trained(folder: Path) -> tuple[JobSpec, ...]:
    """Jobs that train, and jobs that fail in their worker: at an image that is none, and in a bucket that is none."""
    for grey, name in enumerate(("rose", "tulip")):
        (folder / "broken" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (12, 12), (grey * 90 + number,) * 3).save(folder / "broken" / name / f"{number}.png")
    (folder / "broken" / "rose" / "3.png").write_bytes(b"no image")
    small = JobSpec(
        model=ModelSpec(options={"width": 4, "blocks": 1}),
        data=DataSpec(train_limit=100, validation_limit=50, test_limit=50),
        training=TrainingSpec(epochs=1),
        budget=BudgetSpec(max_trials=2, confirm_runs=0),
    )
    paths = ["s3://images/whole", "broken", "s3://images/broken", "s3://images/nothing", "s3://nobodys-bucket/whole"]
    others = [DataSpec(name="imagefolder", path=path, image_size=12) for path in paths]
    return small, *(small.model_copy(update={"data": data}) for data in others)


@pytest.mark.parametrize("backend", ["simulator", pytest.param("ray", marks=pytest.mark.ray)])
def test_no_secret_is_written_or_told(
    backend: str, bucket: Bucket, postgres_url: str, tmp_path: Path, ray_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, str] = {
        name: secrets.token_hex(24) for name in ("administrator's token", "database's password", "variable")
    }
    body = base64.b64encode(secrets.token_bytes(32)).decode()
    known["webhooks' secret"] = body
    url = make_url(postgres_url).set(password=known["database's password"]).render_as_string(hide_password=False)
    upgrade_database(Settings(database_url=url, state_dir=tmp_path / "state"))
    settings = Settings(database_url=url, state_dir=tmp_path / "state")
    known["user's token"], _ = create_token(settings, "ann", Scope.SUBMIT, lifetime=None)
    monkeypatch.setenv("OTHER_SERVICE_KEY", known["variable"])
    aws = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    known |= {name: f"{name[4]}{secrets.token_hex(16).upper()}" for name in aws}
    for name, value in (environment(bucket.endpoint) | {name: known[name] for name in aws}).items():
        monkeypatch.setenv(name, value)
    server = ServerProcess(
        "server",
        tmp_path,
        state_dir=tmp_path / "state",
        backend=backend,
        database_url=url,
        data_root=tmp_path / "data",
        allowed_data_roots="s3://images:s3://nobodys-bucket",
        admin_token=known["administrator's token"],
        webhook_secret=f"whsec_{body}",
        webhook_private=True,
        log_level="debug",
        cpus=1,
    )
    told: dict[str, str] = {}
    try:
        server.start()
        server.wait()
        with Client(server.url, token=known["user's token"]) as client:
            jobs = (simulated if backend == "simulator" else trained)(tmp_path / "data")
            hook = {"webhook": "http://127.0.0.1:9/nobody"}
            views = [client.wait(client.submit(job.model_copy(update=hook)).id) for job in jobs]
            fine = len(views) - 1 if backend == "simulator" else 2
            assert [view.state for view in views[:fine]] == [JobState.SUCCEEDED] * fine, views
            assert {view.state for view in views[fine:]} == {JobState.FAILED}, views
        job_ids = [view.id for view in views]
        known["session"] = use_a_browser(server.url, known["user's token"])
        for who in ("administrator's token", "user's token"):
            with httpx.Client(
                base_url=server.url, headers={"authorization": f"Bearer {known[who]}"}, timeout=60
            ) as http:
                told |= {f"{path} to {who}": answer for path, answer in answers(http, job_ids)}
        refused = httpx.get(f"{server.url}/api/v1/jobs", headers={"authorization": f"Bearer {known['session']}"})
        told["refusal"] = refused.text
        told["database"] = rows(url)
    finally:
        server.stop()
    assert any(
        "broken" in text or "weight_decay" in text for text in told.values()
    )  # the failure is among what is told
    look(known, told, tmp_path, ray_folder)


def use_a_browser(url: str, token: str) -> str:
    """Logs in, looks at a page and logs out; returns the cookie, which no longer lets anybody in."""
    with httpx.Client(base_url=url, headers={"origin": url, "accept": "text/html"}) as browser:
        assert browser.post("/login", data={"token": token}).status_code in (200, 303)
        cookie = browser.cookies["fixnorm"]
        assert browser.get("/").status_code == 200
        browser.post("/logout")
        return cookie


def look(known: Mapping[str, str], told: Mapping[str, str], *folders: Path) -> None:
    assert len(list(files_of(*folders))) > 1
    found = {
        name: [where for where, text in told.items() if secret in text] + holders(secret, files_of(*folders))
        for name, secret in known.items()
    }
    assert found == {name: [] for name in known}
