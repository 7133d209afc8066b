"""``fixnorm-tune login`` and ``logout``: the token of a server, kept for later commands."""

from __future__ import annotations

import sys
from datetime import timedelta

import typer

from service.cli.options import DEFAULT_SERVER, Output, OutputOption, ServerOption

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.command(epilog="Example: fixnorm-tune login --server https://tune.example.org")(login)
    app.command(epilog="Example: fixnorm-tune logout")(logout)


def login(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Ask for a server's token, try it, and keep it for later commands (in ~/.config, for you alone to read).

    A server that asks nobody for tokens cannot try one: it is kept, and that is said.
    """
    from service.cli.connection import given_token, keep_token
    from service.cli.screen import write_json
    from service.client import Client

    token = given_token.get() or _asked()
    with Client(server, token=token.strip()) as client:
        client.jobs(limit=1)
    was_tried = not _lets_anybody_in(server)
    kept_in = keep_token(server, token.strip())
    if output is Output.JSON:
        write_json({"server": server, "kept_in": str(kept_in), "tried": was_tried}, dict[str, str | bool])
        return
    typer.echo(f"the token is kept in {kept_in} and sent to {server} alone")
    if not was_tried:
        typer.echo("it could not be tried: this server asks nobody for tokens yet", err=True)


def _asked() -> str:
    """From a person, unseen, or the first line of what is piped in."""
    if sys.stdin.isatty():
        return str(typer.prompt("Token", hide_input=True, err=True))
    if token := sys.stdin.readline().strip():
        return token
    raise typer.BadParameter(
        "there is no terminal to ask for the token on, and none was piped in; give --token or FIXNORM_TOKEN"
    )


def _lets_anybody_in(server: str) -> bool:
    import httpx

    from service.client.address import Connection

    without_token = Connection(server, token=None, timeout=timedelta(seconds=30)).options | {"headers": None}
    with httpx.Client(**without_token) as http:
        return http.get("/api/v1/jobs", params={"limit": 1}).is_success


def logout(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Forget the token that 'login' kept for a server. It stays good elsewhere: 'token revoke' ends it."""
    from service.cli.connection import forget_token
    from service.cli.screen import write_json

    known = forget_token(server)
    if output is Output.JSON:
        write_json({"server": server, "forgotten": known}, dict[str, str | bool])
        return
    typer.echo(f"the token of {server} is forgotten" if known else f"there was no token of {server}")
