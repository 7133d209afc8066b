"""Whose a job is: told, looked for, and not to be claimed in somebody else's name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console
from serving import serving
from typer.testing import CliRunner, Result

from fixnorm_core.spec import JobSpec, ShareSpec
from service.access.scopes import Scope
from service.administration import create_token
from service.cli.main import app
from service.cli.tables import jobs_table
from service.client import Client, NotAllowedError, RefusedInputError
from service.composition import build
from service.settings import Settings


def of(job: dict[str, Any], user: str | None) -> JobSpec:
    return JobSpec.model_validate(job | {"name": f"job-of-{user}", "share": {"user": user}})


def run(*args: str, token: str | None = None) -> Result:
    env = {"FIXNORM_TOKEN": token or "", "XDG_CONFIG_HOME": "/nowhere"}
    return CliRunner(env=env).invoke(app, args, catch_exceptions=False)


@pytest.mark.both_databases
def test_jobs_tell_whose_they_are_and_are_found_by_that(http: httpx.Client, job: dict[str, Any]) -> None:
    with Client(str(http.base_url)) as client:
        ids = {user: client.submit(of(job, user)).id for user in ("ann", "ann lee", 'o"%_', None)}
        assert {each.id: each.user for each in client.jobs()} == {job_id: user for user, job_id in ids.items()}
        assert client.job(ids["ann"]).user == "ann"
        for user in ("ann", "ann lee", 'o"%_'):
            assert [each.id for each in client.jobs(user=user)] == [ids[user]]
        assert client.jobs(user="nobody") == client.jobs(user="an") == []
        with pytest.raises(RefusedInputError, match="asks nobody who they are"):
            client.jobs(mine=True)
        page = http.get("/").text
        assert [f'<option value="{name}"' in page for name in ("ann", "ann lee", "nobody")] == [True, True, False]
        page = http.get("/", params={"user": "ann"}).text
        assert [job_id in page for job_id in ids.values()] == [True, False, False, False]
        assert "by ann<" in page


def test_pages_say_nothing_of_users_where_nobody_is_named(http: httpx.Client, job: dict[str, Any]) -> None:
    job_id = http.post("/api/v1/jobs", json=job).raise_for_status().json()["id"]
    assert "user" not in http.get("/").text
    assert ", user" not in http.get(f"/jobs/{job_id}").text
    assert "user" not in run("list", "--server", str(http.base_url)).stdout


@pytest.fixture
def tokens(settings: Settings) -> dict[str, str]:
    scopes = {"ann": Scope.SUBMIT, "bob": Scope.SUBMIT, "root": Scope.ADMIN}
    return {name: create_token(settings, name, scope, lifetime=None)[0] for name, scope in scopes.items()}


@pytest.fixture
def url(settings: Settings, tokens: dict[str, str]) -> Iterator[str]:
    assert tokens
    with serving(build(settings).app) as address:
        yield address


def test_a_job_is_submitted_in_ones_own_name_and_by_administrators_in_any(
    url: str, tokens: dict[str, str], job: dict[str, Any]
) -> None:
    with Client(url, token=tokens["bob"]) as bob:
        for ask in (bob.submit, bob.plan):
            with pytest.raises(NotAllowedError) as refused:
                ask(of(job, "ann"))
            assert refused.value.status == 403
            assert "share.user is 'ann', and this is the token of bob" in str(refused.value)
            assert "Leave share.user out" in refused.value.way_out
        assert bob.jobs() == []
        mine = [bob.submit(of(job, user)).id for user in ("bob", None)]
        with Client(url, token=tokens["root"]) as root:
            anns = root.submit(of(job, "ann")).id
            assert root.jobs(mine=True) == []
        assert [each.id for each in bob.jobs(mine=True)] == mine[::-1]
        assert [each.id for each in bob.jobs(user="ann")] == [anns]
        with pytest.raises(RefusedInputError, match="both mine and user ann are given"):
            bob.jobs(mine=True, user="ann")


def test_the_command_line_shows_whose_jobs_are_in_80_columns_and_tells_a_name_that_is_not_ones_own(
    url: str, tokens: dict[str, str], job: dict[str, Any]
) -> None:
    with Client(url, token=tokens["ann"]) as ann, Client(url, token=tokens["bob"]) as bob:
        anns = ann.submit(of(job, None)).id
        long = JobSpec.model_validate(job | {"name": "flowers-with-a-long-name"})
        bobs = bob.submit(long.model_copy(update={"share": ShareSpec(weight=2)})).id
    listed = run("list", "--server", url, token=tokens["ann"])
    assert all(part in listed.stdout for part in (" user ", f"{anns}  ", f"{bobs}  ", " ann ", " bob "))
    with Client(url, token=tokens["ann"]) as ann:
        console = Console(width=80, file=io.StringIO(), force_terminal=True, color_system=None)
        with console.capture() as shown:
            console.print(jobs_table(ann.jobs(), width=80))
    assert f"{bobs}  flowers-with-a-long-name  bob " in shown.get()
    for args, shown in ((("--mine",), anns), (("--user", "bob"), bobs)):
        only = run("list", *args, "--server", url, token=tokens["ann"]).stdout
        assert [job_id in only for job_id in (anns, bobs)] == [shown == anns, shown == bobs]
    both = run("list", "--mine", "--user", "bob", "--server", url, token=tokens["ann"])
    assert (both.exit_code, "both given" in both.stderr) == (2, True)
    assert "  user   " in run("show", bobs, "--server", url, token=tokens["ann"]).stdout
    refused = run("submit", "--like", bobs, "--set", "share.user=bob", "--server", url, token=tokens["ann"])
    assert (refused.exit_code, "share.user is 'bob'" in refused.stderr) == (6, True)
    # What is submitted again is one's own, whoever's it was
    again = run("submit", "--like", bobs, "-o", "json", "--server", url, token=tokens["ann"])
    assert json.loads(again.stdout)["spec"]["share"] == ShareSpec(weight=2, user="ann").model_dump()


def test_without_tokens_the_like_of_a_job_is_its_users(http: httpx.Client, job: dict[str, Any]) -> None:
    url = str(http.base_url).rstrip("/")
    with Client(url) as client:
        first = client.submit(of(job, "ann")).id
        assert run("submit", "--like", first, "--server", url).exit_code == 0
        assert [each.user for each in client.jobs()] == ["ann", "ann"]
