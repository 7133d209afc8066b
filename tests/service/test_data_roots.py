"""Which data a job may name, at every door by which it can come in, and what no path in an address can do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from serving import serving

from fixnorm_core.reach import ANYWHERE
from service.composition import build
from service.settings import Settings

ADMIN = "an-administrators-token-0123456789"
Doors = dict[str, Callable[[httpx.Client, dict[str, Any]], httpx.Response]]

DOORS: Doors = {
    "submit": lambda http, job: http.post("/api/v1/jobs", json=job),
    "plan": lambda http, job: http.post("/api/v1/plans", json=job),
}


def with_data(job: dict[str, Any], path: str | Path) -> dict[str, Any]:
    return job | {"data": {"name": "imagefolder", "path": str(path)}}


def make_images(folder: Path) -> Path:
    for name in ("rose", "tulip"):
        (folder / name).mkdir(parents=True)
        (folder / name / "0.png").write_bytes(b"not looked at when a job is submitted")
    return folder


@pytest.fixture
def guarded(settings: Settings) -> Iterator[httpx.Client]:
    """A client of a server that has a token, and no setting of further roots."""
    built = build(settings.model_copy(update={"admin_token": Settings(admin_token=ADMIN).admin_token}))
    with serving(built.app) as url, httpx.Client(base_url=url, headers={"authorization": f"Bearer {ADMIN}"}) as http:
        yield http


@pytest.mark.parametrize("door", DOORS)
def test_without_tokens_and_roots_a_user_of_this_machine_names_any_folder(
    http: httpx.Client, job: dict[str, Any], tmp_path: Path, door: str
) -> None:
    folder = make_images(tmp_path / "anywhere")
    assert DOORS[door](http, with_data(job, folder)).is_success


@pytest.mark.parametrize("door", DOORS)
def test_where_there_are_tokens_only_the_data_root_is_read(
    guarded: httpx.Client, job: dict[str, Any], settings: Settings, tmp_path: Path, door: str
) -> None:
    make_images(settings.images / "flowers")
    outside = make_images(tmp_path / "outside")
    assert DOORS[door](guarded, with_data(job, "flowers")).is_success
    assert DOORS[door](guarded, with_data(job, settings.images / "flowers")).is_success
    told = set()
    for path in (outside, tmp_path / "missing", outside / "rose" / "0.png", f"../{outside.name}"):
        refused = DOORS[door](guarded, with_data(job, path))
        assert (refused.status_code, refused.json()["code"]) == (422, "outside_data_roots")
        told.add(refused.text.replace(str(path), "PATH"))
    assert len(told) == 1


def test_roots_that_are_set_hold_without_tokens_too(settings: Settings, job: dict[str, Any], tmp_path: Path) -> None:
    allowed, outside = make_images(tmp_path / "allowed" / "x"), make_images(tmp_path / "outside")
    built = build(settings.model_copy(update={"allowed_data_roots": (tmp_path / "allowed",)}))
    with serving(built.app) as url, httpx.Client(base_url=url) as http:
        assert http.post("/api/v1/jobs", json=with_data(job, allowed)).is_success
        assert http.post("/api/v1/jobs", json=with_data(job, outside)).json()["code"] == "outside_data_roots"


@pytest.mark.parametrize("verb", ["extend", "retry"])
def test_a_job_from_before_the_roots_does_not_go_on_outside_them(
    settings: Settings, job: dict[str, Any], tmp_path: Path, verb: str
) -> None:
    outside = make_images(tmp_path / "outside")
    with serving(build(settings).app) as url, httpx.Client(base_url=url) as http:
        job_id = http.post("/api/v1/jobs", json=with_data(job, outside)).raise_for_status().json()["id"]
        http.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    narrowed = settings.model_copy(update={"allowed_data_roots": (tmp_path / "allowed",)})
    with serving(build(narrowed).app) as url, httpx.Client(base_url=url) as http:
        refused = http.post(f"/api/v1/jobs/{job_id}/{verb}", json={"trials": 1})
        assert (refused.status_code, refused.json()["code"]) == (422, "outside_data_roots")


def test_roots_are_written_as_in_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FIXNORM_DATA_ROOT", raising=False)
    monkeypatch.setenv("FIXNORM_ALLOWED_DATA_ROOTS", os.pathsep.join(["/data/images", "/srv/sets"]))
    settings = Settings(state_dir=tmp_path)
    assert settings.allowed_data_roots == (Path("/data/images"), Path("/srv/sets"))
    assert settings.reach(tokens=False).roots.folders == (str(tmp_path / "data"), "/data/images", "/srv/sets")
    monkeypatch.setenv("FIXNORM_ALLOWED_DATA_ROOTS", "images")
    with pytest.raises(ValidationError, match="'images' is relative"):
        Settings()
    monkeypatch.setenv("FIXNORM_ALLOWED_DATA_ROOTS", "")
    assert Settings().reach(tokens=False).roots is ANYWHERE
    assert Settings(state_dir=tmp_path).reach(tokens=True).roots.folders == (str(tmp_path / "data"),)


ESCAPES = (
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "x%00.png",
    "%00",
    "%ff%fe",
    "%ed%a0%80",
    "x" * 3000,
)
ADDRESSES = (
    "/api/v1/jobs/{}",
    "/api/v1/jobs/{}/trials",
    "/api/v1/jobs/{}/trials/0/logs",
    "/api/v1/jobs/{job}/trials/{}/logs",
    "/api/v1/jobs/{job}/trials/0/logs?attempt={}",
    "/api/v1/jobs/{job}/report?format={}",
    "/api/v1/jobs/{}/events",
    "/api/v1/jobs/{}/best",
    "/api/v1/jobs/{}/classes",
    "/api/v1/jobs/{}/summary",
    "/api/v1/jobs/{}/weights",
    "/api/v1/jobs/{}/report",
    "/api/v1/jobs?cursor={}",
    "/api/v1/jobs?cursor=2026-01-01T00:00:00~{}",
    "/jobs/{}",
    "/jobs/{}/live",
    "/jobs/{}/charts",
    "/jobs/{}/report.html",
    "/?cursor={}",
    "/assets/{}",
    "/static/{}",
    "/dashboard/{}",
    "/dashboard/studies/{}",
    "/api/studies/{}",
    "/artifacts/{}",
    "/artifacts/1/{}",
    "/csv/{}",
)


@pytest.mark.both_databases
def test_no_address_leads_to_a_file_of_the_machine(http: httpx.Client, job: dict[str, Any], settings: Settings) -> None:
    (settings.state_dir / "secret.txt").write_text("root:not-to-be-read")
    job_id = http.post("/api/v1/jobs", json=job).raise_for_status().json()["id"]
    for address in ADDRESSES:
        for escape in (*ESCAPES, "../secret.txt", "..%2f..%2f..%2fsecret.txt", "..%2fsecret.txt"):
            path = address.replace("{job}", job_id).replace("{}", escape)
            answer = http.send(http.build_request("GET", httpx.URL(str(http.base_url).rstrip("/") + path)))
            assert answer.status_code < 500, (path, answer.status_code, answer.text)
            assert "root:" not in answer.text, path
    for verb in ("pause", "resume", "stop", "cancel", "retry", "extend"):
        for escape in ESCAPES:
            answer = http.post(f"/api/v1/jobs/{escape}/{verb}", json={"trials": 1})
            assert answer.status_code in (400, 404, 405, 422), (escape, verb, answer.text)


HOSTILE_NAMES = ("../../../outside", "/etc/cron.d/x\\y", "..\n<script>alert(1)</script>%2e%2e%2f")


def test_a_jobs_name_names_no_file(http: httpx.Client, job: dict[str, Any], settings: Settings) -> None:
    def wait(job_id: str) -> str:
        while (view := http.get(f"/api/v1/jobs/{job_id}").json())["ended_at"] is None:
            assert view["state"] != "FAILED", view
        return str(view["state"])

    ids = [
        http.post("/api/v1/jobs", json=job | {"name": name}).raise_for_status().json()["id"] for name in HOSTILE_NAMES
    ]
    assert {wait(job_id) for job_id in ids} == {"SUCCEEDED"}
    assert {path.name for path in (settings.state_dir / "jobs").iterdir()} == set(ids)
    beside = {path.name for path in settings.state_dir.parent.iterdir()}
    assert beside <= {"state", "data"}
    for job_id in ids:
        assert "<script>alert" not in http.get(f"/jobs/{job_id}").text
        assert "<script>alert" not in http.get(f"/jobs/{job_id}/report.html").text


@pytest.mark.both_databases
@pytest.mark.parametrize("field", ["name", "share.user", "data.path", "model.name", "webhook", "search.warm_start"])
def test_a_nul_in_a_job_is_refused(http: httpx.Client, job: dict[str, Any], field: str) -> None:
    value: Any = "a\0b"
    if field == "webhook":
        value = "https://example.org/a\0b"
    outer, _, inner = field.partition(".")
    changed = {inner: [value] if inner == "warm_start" else value} if inner else value
    sent = job | {outer: job[outer] | changed if inner else changed}
    if field == "data.path":
        sent["data"] = {"name": "imagefolder", "path": value}
    answer = http.post("/api/v1/jobs", json=sent)
    assert answer.status_code == 422, answer.text
    assert http.post("/api/v1/plans", json=sent).status_code == 422


OWN = {"model": {"name": "team.nets:build"}}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("field", ["model", "data"])
def test_a_factory_of_a_module_that_is_not_allowed_is_refused_at_every_door(
    http: httpx.Client, job: dict[str, Any], door: str, field: str
) -> None:
    refused = DOORS[door](http, job | {field: {"name": "team.nets:build"}})
    assert (refused.status_code, refused.json()["code"]) == (422, f"invalid_{field}")
    assert "FIXNORM_ALLOWED_MODULES" in refused.json()["way_out"]


@pytest.mark.parametrize("verb", ["extend", "retry"])
def test_a_factory_that_is_no_longer_allowed_goes_on_no_more(
    settings: Settings, job: dict[str, Any], verb: str
) -> None:
    allowing = settings.model_copy(update={"allowed_modules": ("team",)})
    with serving(build(allowing).app) as url, httpx.Client(base_url=url) as http:
        job_id = http.post("/api/v1/jobs", json=job | OWN).raise_for_status().json()["id"]
        http.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
    with serving(build(settings).app) as url, httpx.Client(base_url=url) as http:
        assert http.post(f"/api/v1/jobs/{job_id}/{verb}", json={"trials": 1}).json()["code"] == "invalid_model"


def test_modules_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIXNORM_ALLOWED_MODULES", "my_models, team.nets")
    assert Settings().reach(tokens=False).modules == ("my_models", "team.nets")
    for wrong in ("*", "my-models", "team.", "team._private", "a:b"):
        monkeypatch.setenv("FIXNORM_ALLOWED_MODULES", wrong)
        with pytest.raises(ValidationError, match="is no module's name"):
            Settings()


SENT = {"code": "def build(num_classes): ...", "model": {"name": "code:build"}}


@pytest.mark.parametrize("door", DOORS)
def test_a_file_does_not_come_with_a_job_unless_the_operator_says_so(
    http: httpx.Client, job: dict[str, Any], settings: Settings, door: str
) -> None:
    refused = DOORS[door](http, job | SENT)
    assert refused.status_code == 422
    assert "FIXNORM_ALLOW_CODE" in refused.json()["way_out"]
    assert not (settings.state_dir / "code").exists()


def test_a_file_that_comes_with_a_job_is_kept_once_and_told_by_its_digest(
    settings: Settings, job: dict[str, Any]
) -> None:
    allowing = settings.model_copy(update={"allow_code": True})
    with serving(build(allowing).app) as url, httpx.Client(base_url=url) as http:
        assert http.post("/api/v1/plans", json=job | SENT).is_success
        assert not (settings.state_dir / "code").exists()  # a plan stores nothing
        keyed = {"idempotency-key": "one"}
        first, again = (http.post("/api/v1/jobs", json=job | SENT, headers=keyed).json() for _ in range(2))
        assert first["id"] == again["id"]
        (kept,) = (settings.state_dir / "code").iterdir()
        assert kept.read_text() == SENT["code"]
        assert (first["spec"]["model"]["name"], first["spec"]["code"]) == (f"code@{kept.stem}:build", None)
        job_id = first["id"]
        http.post(f"/api/v1/jobs/{job_id}/cancel").raise_for_status()
        while http.get(f"/api/v1/jobs/{job_id}").json()["state"] != "CANCELLED":
            pass
        assert http.post(f"/api/v1/jobs/{job_id}/extend", json={"trials": 1}).is_success
        other = http.post("/api/v1/jobs", json=job | SENT | {"code": "# another"}, headers=keyed)
        assert other.json()["code"] == "idempotency_key_reused"
    with serving(build(settings).app) as url, httpx.Client(base_url=url) as http:
        assert http.post(f"/api/v1/jobs/{job_id}/extend", json={"trials": 1}).json()["code"] == "invalid_model"


ADDRESS = "s3://images/team-a/flowers"


@pytest.mark.parametrize("door", DOORS)
def test_without_tokens_and_roots_any_address_is_in_reach(http: httpx.Client, job: dict[str, Any], door: str) -> None:
    assert DOORS[door](http, with_data(job, ADDRESS)).is_success  # the server asks no bucket


@pytest.mark.parametrize("door", DOORS)
def test_with_tokens_no_address_is(guarded: httpx.Client, job: dict[str, Any], door: str) -> None:
    for url in (ADDRESS, "s3://other", "s3://images/team-a/../team-b"):
        refused = DOORS[door](guarded, with_data(job, url))
        code = "invalid_data" if ".." in url else "outside_data_roots"
        assert (refused.status_code, refused.json()["code"]) == (422, code)


def test_addresses_are_named_among_the_roots(settings: Settings, job: dict[str, Any], tmp_path: Path) -> None:
    roots = Settings(allowed_data_roots=f"{tmp_path}:s3://images/team-a/:s3://other").allowed_data_roots
    assert roots == (tmp_path, "s3://images/team-a", "s3://other")
    built = build(settings.model_copy(update={"allowed_data_roots": roots}))
    with serving(built.app) as url, httpx.Client(base_url=url) as http:
        assert http.post("/api/v1/jobs", json=with_data(job, f"{ADDRESS}/")).json()["spec"]["data"]["path"] == ADDRESS
        for address in ("s3://other/x", make_images(tmp_path / "x")):
            assert http.post("/api/v1/jobs", json=with_data(job, address)).is_success
        for address in ("s3://images", "s3://images/team-ab"):
            refused = http.post("/api/v1/jobs", json=with_data(job, address)).json()
            assert refused["code"] == "outside_data_roots"
            assert "s3://images/team-a" in refused["detail"]


@pytest.mark.parametrize("root", ["s3://", "s3://IMAGES", "gs://images", "s3://images/../x"])
def test_an_address_that_is_none_is_no_root(root: str) -> None:
    with pytest.raises(ValidationError, match="is not s3://BUCKET"):
        Settings(allowed_data_roots=root)


def test_the_cache_is_a_path_of_the_workers_whose_links_are_not_followed_here(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    settings = Settings(state_dir=tmp_path, data_cache=tmp_path / "link" / "cache")
    assert settings.reach(tokens=False).cache == str(tmp_path / "link" / "cache")
    assert Settings(state_dir=tmp_path).reach(tokens=False).cache == str(tmp_path / "cache")
    with pytest.raises(ValidationError, match="'some/cache' is not absolute"):
        Settings(state_dir=tmp_path, data_cache=Path("some/cache"))
