"""Tokens: how they are stored, when they end, and what happens to those who guess."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from serving import serving
from sqlalchemy import create_engine, text

from service.access import tokens
from service.access.failures import FAILURES, WINDOW_SECONDS, Failures
from service.access.scopes import Scope
from service.access.settled import AdminTokenError, administrator_of
from service.access.tokens import TOKEN_PATTERN, TokenError, TokenNotFound
from service.administration import create_token, list_tokens, revoke_tokens, upgrade_database
from service.composition import Service, build
from service.server import AddressError, run_server
from service.settings import SECRETS, Settings, hide_secrets

Calls = Callable[[str | None], httpx.Client]
ADMIN = "0123456789abcdef0123456789abcdef"


@pytest.mark.both_databases
def test_nothing_of_a_token_but_its_id_and_a_digest_is_stored(settings: Settings) -> None:
    token, row = create_token(settings, "ann", Scope.READ, lifetime=timedelta(days=1))
    assert TOKEN_PATTERN.fullmatch(token)
    secret = token.rsplit("_", 1)[1] if token.count("_") == 2 else token.split("_", 2)[2]
    engine = create_engine(settings.url)
    with engine.connect() as connection:
        stored = connection.execute(text("SELECT * FROM tokens")).mappings().one()
    engine.dispose()
    assert row.id in token
    assert secret not in str(dict(stored))
    assert len(stored["digest"]) == 64
    revoke_tokens(settings, row.id)
    assert revoke_tokens(settings, "ann") == []
    assert [found.revoked_at is not None for found in list_tokens(settings)] == [True]


def test_all_tokens_of_a_name_are_revoked_together_and_one_by_its_id(settings: Settings) -> None:
    made = [create_token(settings, "ann", Scope.READ, lifetime=None)[1] for _ in range(3)]
    assert [row.id for row in revoke_tokens(settings, made[1].id)] == [made[1].id]
    assert {row.id for row in revoke_tokens(settings, "ann")} == {made[0].id, made[2].id}
    with pytest.raises(TokenNotFound, match="no token 'bob'"):
        revoke_tokens(settings, "bob")


@pytest.mark.parametrize("name", ["", " ann", "a\nb", "x" * 101, "<b>"])
def test_a_name_that_would_confuse_is_refused(settings: Settings, name: str) -> None:
    with pytest.raises(TokenError):
        create_token(settings, name, Scope.READ, lifetime=None)


def test_a_token_works_at_once_ends_at_once_and_tells_when_it_was_used(
    calls: Calls, handed_out: dict[str, str], settings: Settings
) -> None:
    handed_out["new"], row = create_token(settings, "new", Scope.READ, lifetime=None)
    assert row.last_used_at is None
    with calls("new") as client:
        assert client.get("/api/v1/jobs").status_code == 200
        assert next(found for found in list_tokens(settings) if found.id == row.id).last_used_at is not None
        revoke_tokens(settings, row.id)
        answer = client.get("/api/v1/jobs")
        assert (answer.status_code, answer.json()["code"]) == (401, "token_ended")
        assert "was revoked" in answer.json()["detail"]
    # Only whoever has the token is told more than that it is unknown
    handed_out["guess"] = f"fnt_{row.id}_{'x' * 43}"
    assert calls("guess").get("/api/v1/jobs").json()["code"] == "token_unknown"


def test_an_address_that_fails_too_often_has_to_wait(
    service: Service, calls: Calls, handed_out: dict[str, str]
) -> None:
    handed_out["settings"] = ADMIN
    object.__setattr__(service.runtime.access, "admin", tokens.digest_of(ADMIN))
    now = [0.0]
    object.__setattr__(service.runtime.access, "failures", Failures(lambda: now[0]))
    for _ in range(FAILURES):
        assert calls("wrong").get("/api/v1/jobs").status_code == 401
    blocked = calls("wrong").get("/api/v1/jobs")
    assert (blocked.status_code, blocked.json()["code"]) == (429, "too_many_failures")
    assert int(blocked.headers["retry-after"]) == WINDOW_SECONDS + 1
    assert calls("admin").get("/api/v1/jobs").status_code == 200  # of somebody behind the same proxy, and not guessed
    assert calls("settings").get("/api/v1/jobs").status_code == 429  # chosen by a person, so a guess could be right
    login = calls(None).post("/login", data={"token": "x"}, headers={"sec-fetch-site": "same-origin"})
    assert login.status_code == 429
    assert calls(None).get("/healthz").status_code == 200
    now[0] = WINDOW_SECONDS
    assert calls("settings").get("/api/v1/jobs").status_code == 200


def test_failures_are_counted_by_address_or_network_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    failures = Failures(lambda: 0.0)
    for number in range(FAILURES):
        failures.add(f"2001:db8::{number:x}")
        failures.add("10.0.0.1")
    assert failures.wait_seconds("2001:db8::ffff") == WINDOW_SECONDS
    assert failures.wait_seconds("2001:db8:1::1") == 0
    assert failures.wait_seconds("10.0.0.1") == WINDOW_SECONDS
    assert failures.wait_seconds("10.0.0.2") == 0
    monkeypatch.setattr("service.access.failures._ADDRESSES", 1)
    failures.add("10.0.0.3")
    assert failures.wait_seconds("10.0.0.1") == 0


def test_the_administrators_token_of_the_settings_lets_in_without_being_stored(
    settings: Settings, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{ADMIN}\n")
    for given in ({"admin_token": ADMIN}, {"admin_token_file": file}):
        built = build(Settings(**settings.model_dump() | given))
        with serving(built.app) as url:
            assert httpx.get(f"{url}/api/v1/jobs").status_code == 401
            header = {"Authorization": f"Bearer {ADMIN}"}
            assert httpx.get(f"{url}/api/v1/jobs", headers=header).status_code == 200
            form = {"sec-fetch-site": "same-origin"}
            answer = httpx.post(f"{url}/login", data={"token": ADMIN}, headers=form)
            assert httpx.get(f"{url}/api/v1/jobs", cookies=answer.cookies).status_code == 200
    assert list_tokens(settings) == []


@pytest.mark.parametrize("token", ["short", "a" * 64, "0123456789abcdef 0123456789abcdef", "0123456789abcdefé" * 3])
def test_a_weak_administrators_token_is_refused_and_not_repeated(tmp_path: Path, token: str) -> None:
    with pytest.raises(ValidationError, match="at least 32 characters"):
        Settings(admin_token=token)
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    with pytest.raises(AdminTokenError, match="at least 32 characters") as raised:
        administrator_of(Settings(admin_token_file=file))
    assert token not in str(raised.value)


def test_beyond_loopback_it_starts_with_a_usable_token_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for prepare in (lambda: upgrade_database(settings), lambda: revoke_tokens(settings, "gone")):
        prepare()
        with pytest.raises(AddressError, match="no token that would let anybody in") as raised:
            run_server(settings, host="0.0.0.0", port=0)
        assert "token create" in raised.value.way_out
        create_token(settings, "gone", Scope.READ, lifetime=None)


def test_once_there_has_been_a_token_nobody_gets_in_without_one_again(settings: Settings) -> None:
    create_token(settings, "gone", Scope.READ, lifetime=None)
    revoke_tokens(settings, "gone")
    with serving(build(settings).app) as url:
        assert httpx.get(f"{url}/api/v1/jobs").status_code == 401


def test_no_child_process_gets_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SECRETS:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("FIXNORM_CPUS", "1")
    hide_secrets()
    assert not set(SECRETS) & set(os.environ)
    assert os.environ["FIXNORM_CPUS"] == "1"


def test_a_request_that_is_too_large_is_refused_before_it_is_read(
    settings: Settings, capfd: pytest.CaptureFixture[str]
) -> None:
    small = settings.model_copy(update={"max_request_bytes": 65_536})
    with serving(build(small).app) as url:
        for content in (b" " * 65_537, iter([b" " * 40_000] * 2)):
            answer = httpx.post(f"{url}/api/v1/jobs", content=content, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")
            assert "65536" in answer.json()["detail"]
            assert "FIXNORM_MAX_REQUEST_BYTES" in answer.json()["way_out"]
        assert httpx.post(f"{url}/api/v1/jobs", content=b" " * 65_536).status_code == 422
    assert "request.failed" not in capfd.readouterr().err


def test_every_answer_tells_browsers_what_not_to_do(http: httpx.Client) -> None:
    for path in ("/", "/dashboard", "/api/v1/jobs", "/nothing", "/docs", "/static/bundle.js", "/healthz"):
        headers = http.get(path, follow_redirects=True).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "cache-control" in headers
