"""A server that has tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from serving import serving

from service.access import tokens
from service.access.scopes import Scope
from service.administration import create_token, revoke_tokens, upgrade_database
from service.composition import Service, build
from service.database.engine import Database
from service.settings import Settings

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def handed_out(settings: Settings) -> dict[str, str]:
    """Tokens by what they are, made before the server starts."""
    upgrade_database(settings)
    made = {scope.value: create_token(settings, f"{scope}er", scope, lifetime=None)[0] for scope in Scope}
    made["revoked"] = create_token(settings, "gone", Scope.ADMIN, lifetime=None)[0]
    revoke_tokens(settings, "gone")
    database = Database.open(settings.url)
    with database.write.begin() as session:
        made["expired"] = tokens.create(session, "late", Scope.ADMIN, now=LONG_AGO, lifetime=timedelta(days=1))[0]
    database.close()
    made["wrong"] = made["admin"][:-1] + ("A" if made["admin"][-1] != "A" else "B")
    made["alien"] = "not even one of ours"
    return made


@pytest.fixture
def service(settings: Settings, handed_out: dict[str, str]) -> Iterator[Service]:
    built = build(settings)
    yield built
    built.close()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    with serving(service.app) as address:
        yield address


@pytest.fixture
def calls(url: str, handed_out: dict[str, str]) -> Iterator[Callable[[str | None], httpx.Client]]:
    """Clients by the name of their token; None sends none."""
    opened: list[httpx.Client] = []

    def call(which: str | None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {handed_out[which]}"} if which is not None else {}
        opened.append(httpx.Client(base_url=url, headers=headers, timeout=30))
        return opened[-1]

    yield call
    for client in opened:
        client.close()
