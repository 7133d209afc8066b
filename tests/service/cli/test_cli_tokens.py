"""``fixnorm-tune token``, ``login``, and how a command finds the token that it sends."""

from __future__ import annotations

import json
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
from serving import serving
from typer.testing import CliRunner, Result

from service.access.tokens import TOKEN_PATTERN
from service.cli.connection import tokens_file
from service.cli.main import app
from service.client import BadTokenError, Client, ProblemError
from service.composition import build
from service.settings import BackendName, Settings

OPERATIONS = Path(__file__).parents[3] / "docs" / "operations.md"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``fixnorm-tune`` on a state folder of the test's own."""
    monkeypatch.setenv("FIXNORM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FIXNORM_TOKEN", raising=False)
    return lambda *args, **more: CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False, **more)


@pytest.fixture
def url(run: Callable[..., Result], tmp_path: Path) -> Iterator[str]:
    run("token", "create", "first", "--scope", "admin")
    with serving(build(Settings(state_dir=tmp_path / "state", backend=BackendName.SIMULATOR, cpus=1)).app) as address:
        yield address


def test_create_prints_the_token_alone_list_never_does_and_revoke_ends_it(run: Callable[..., Result]) -> None:
    made = run("token", "create", "ann", "--days", "1.5")
    token = made.stdout.strip()
    assert TOKEN_PATTERN.fullmatch(token)
    assert token not in made.stderr
    listed: list[dict[str, Any]] = json.loads(run("token", "list", "-o", "json").stdout)
    assert [(row["name"], row["scope"], row["revoked_at"]) for row in listed] == [("ann", "submit", None)]
    assert listed[0]["expires_at"] is not None
    table = run("token", "list").stdout
    assert "ann" in table
    assert token not in table
    assert f"token {listed[0]['id']} of ann is revoked" in run("token", "revoke", "ann").stdout
    assert "already" in run("token", "revoke", "ann").stdout
    missing = run("token", "revoke", "bob")
    assert missing.exit_code == 4
    assert "token list" in missing.stderr


def test_a_command_without_the_right_token_says_what_to_do_and_has_a_status_of_its_own(
    run: Callable[..., Result], url: str
) -> None:
    refused = run("list", "--server", url)
    assert refused.exit_code == 6
    assert "fixnorm-tune login" in refused.stderr
    reader = run("token", "create", "rita", "--scope", "read").stdout.strip()
    forbidden = run("--token", reader, "submit", "--recipe", "digits", "--server", url)
    assert forbidden.exit_code == 6
    assert "needs the scope submit" in forbidden.stderr


def test_the_token_comes_from_the_option_the_environment_or_the_login(
    run: Callable[..., Result], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = run("token", "create", "ann").stdout.strip()
    assert run("--token", token, "list", "--server", url).exit_code == 0
    assert run("list", "--server", url, env={"FIXNORM_TOKEN": token}).exit_code == 0
    wrong = run("login", "--server", url, input=f"{token[:-1]}\n")
    assert wrong.exit_code == 6
    assert not tokens_file().exists()
    kept = run("login", "--server", url, input=f"{token}\n")
    assert kept.exit_code == 0, kept.output
    assert token not in kept.output
    assert stat.S_IMODE(tokens_file().stat().st_mode) == 0o600
    assert run("list", "--server", url).exit_code == 0
    with Client(url, token=token) as client:
        assert client.jobs() == []
    other = url.replace("127.0.0.1", "localhost")
    assert run("list", "--server", other).exit_code == 6  # kept for one server, sent to no other
    assert run("logout", "--server", url).exit_code == 0
    assert run("list", "--server", url).exit_code == 6


def test_what_was_done_about_tokens_and_the_database_is_told_to_programs_too(
    run: Callable[..., Result], url: str
) -> None:
    def told(*args: str, **more: str) -> Any:
        done = run(*args, "-o", "json", **more)
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    token = told("token", "create", "ann")
    kept = told("login", "--server", url, input=f"{token['token']}\n")
    assert kept == {"server": url, "kept_in": str(tokens_file()), "tried": True}
    assert told("logout", "--server", url) == {"server": url, "forgotten": True}
    assert told("logout", "--server", url) == {"server": url, "forgotten": False}
    (ended,) = told("token", "revoke", "ann")
    assert (ended["id"], ended["revoked_at"] is None) == (token["id"], False)
    assert told("token", "revoke", "ann") == []
    assert told("database", "upgrade") == {"upgraded": False}


def test_a_server_that_asks_nobody_cannot_try_a_token_and_asks_from_its_next_start_on(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    def server() -> AbstractContextManager[str]:
        return serving(build(Settings(state_dir=tmp_path / "state", backend=BackendName.SIMULATOR, cpus=1)).app)

    with server() as address:
        kept = run("login", "--server", address, input="wrong\n")
        assert kept.exit_code == 0
        assert "it could not be tried: this server asks nobody for tokens yet" in kept.stderr
        run("logout", "--server", address)
        run("token", "create", "ann")
        assert run("list", "--server", address).exit_code == 0
    with server() as address:
        assert run("login", "--server", address, input="wrong\n").exit_code == 6
        run("token", "revoke", "ann")
        assert run("list", "--server", address).exit_code == 6
    with server() as address:
        assert run("list", "--server", address).exit_code == 6  # for ever, but for what the page says to do:
    with closing(sqlite3.connect(tmp_path / "state" / "fixnorm.db")) as database:
        database.executescript(re.findall("`(DELETE FROM .*?)`", OPERATIONS.read_text(encoding="utf-8"))[0])
    with server() as address:
        assert run("list", "--server", address).exit_code == 0


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ü"])
def test_what_cannot_be_a_token_is_refused_without_being_repeated(token: str) -> None:
    with pytest.raises(BadTokenError) as raised:
        Client("http://127.0.0.1:1", token=token)
    assert not token or repr(token) not in str(raised.value)


def test_an_unknown_token_is_a_problem_of_the_servers_words(url: str) -> None:
    with Client(url, token="x" * 40) as client, pytest.raises(ProblemError) as raised:
        client.jobs()
    assert raised.value.problem.code == "token_unknown"


def test_the_database_is_brought_up_to_date_once_and_a_token_needs_no_server(run: Callable[..., Result]) -> None:
    assert run("database", "upgrade").stdout == "the database is up to date now\n"
    assert run("database", "upgrade").stdout == "the database was up to date\n"
    assert re.match(TOKEN_PATTERN, run("token", "create", "ann").stdout)


@pytest.mark.parametrize("words", [("prune",), ("token", "list"), ("token", "revoke", "ann")])
def test_a_mistyped_state_folder_is_named_and_not_made(
    run: Callable[..., Result], words: tuple[str, ...], tmp_path: Path
) -> None:
    mistyped = tmp_path / "sate"
    refused = run(*words, "--state-dir", mistyped)
    assert refused.exit_code == 2
    assert str(mistyped) in refused.stderr
    assert "--state-dir" in refused.stderr
    assert not mistyped.exists()
    mistyped.mkdir()  # nor in a folder of something else
    assert run(*words, "--state-dir", mistyped).exit_code == 2
    assert not list(mistyped.iterdir())


@pytest.mark.parametrize("words", [("token", "create", "ann"), ("database", "upgrade")])
def test_what_may_come_before_the_first_start_says_what_it_has_made(
    run: Callable[..., Result], words: tuple[str, ...], tmp_path: Path
) -> None:
    made = f"made a new database, {tmp_path / 'state' / 'fixnorm.db'}"
    assert made in run(*words).stderr
    assert "made a new database" not in run(*words).stderr


def test_without_a_terminal_the_token_is_piped_in_or_asked_for_by_its_options(
    run: Callable[..., Result], url: str
) -> None:
    nothing = run("login", "--server", url, input="")
    assert nothing.exit_code == 2
    assert "--token or FIXNORM_TOKEN" in nothing.stderr.replace("\n", " ")
    assert "GetPassWarning" not in nothing.stderr


def test_a_choice_that_is_none_is_refused_without_pydantics_words(run: Callable[..., Result]) -> None:
    refused = run("token", "create", "ann", "--scope", "foo").stderr
    assert "'foo'" in refused
    assert "Value error" not in refused


def test_a_list_without_jobs_says_so(run: Callable[..., Result], url: str) -> None:
    token = run("token", "create", "ann").stdout.strip()
    assert run("--token", token, "list", "--server", url).stdout == "there are no jobs yet\n"
    assert "no job matches" in run("--token", token, "list", "--search", "nothing", "--server", url).stdout
