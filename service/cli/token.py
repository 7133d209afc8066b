"""``fixnorm-tune token``: who may use a server."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import typer

from service.cli.groups import QuickGroup
from service.cli.options import Output, OutputOption
from service.cli.serve import StateDirOption, server_settings, tell_new

__all__ = ["register"]

_TOKENS = typer.Typer(cls=QuickGroup, no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    app.add_typer(_TOKENS, name="token", help="Create, list and revoke the tokens of a server, in its database.")


@_TOKENS.command(epilog="Example: fixnorm-tune token create ann --scope submit --days 90")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is: the user of the jobs that are submitted with it.")],
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option(help="See everything; submit jobs too and change one's own; change everybody's."),
    ] = "submit",
    days: Annotated[float | None, typer.Option(help="How long it lasts [default: for ever]")] = None,
    output: OutputOption = Output.TABLE,
    state_dir: StateDirOption = None,
) -> None:
    """Make a token and print it, once: only a digest of it is stored."""
    if days is not None and days <= 0:
        raise typer.BadParameter(f"{days:g} days are no lifetime; give more than 0")
    lifetime = timedelta(days=days) if days is not None else None
    settings = server_settings(state_dir=state_dir)
    from service.access.scopes import Scope
    from service.administration import create_token, missing_database

    made = missing_database(settings)
    text, row = create_token(settings, name, Scope(scope), lifetime=lifetime)
    if made is not None:
        tell_new(made)
    if output is Output.JSON:
        from service.cli.screen import write_json

        write_json({"id": row.id, "name": row.name, "scope": row.scope, "token": text}, dict[str, str])
        return
    typer.echo(text)
    until = f"until {row.expires_at:%Y-%m-%d %H:%M} UTC" if row.expires_at is not None else "until it is revoked"
    typer.echo(f"token {row.id} of {row.name} is good for {row.scope}, {until}; it is not shown again", err=True)
    typer.echo("a server that asked nobody for tokens so far does from its next start on", err=True)


@_TOKENS.command("list", epilog="Example: fixnorm-tune token list -o json")
def list_all(output: OutputOption = Output.TABLE, state_dir: StateDirOption = None) -> None:
    """List all tokens, revoked ones too."""
    settings = server_settings(state_dir=state_dir)
    from service.access.schemas import TokenView
    from service.administration import list_tokens
    from service.cli.screen import make_console, write_json
    from service.cli.tables import tokens_table

    found = [TokenView.model_validate(row, from_attributes=True) for row in list_tokens(settings)]
    if output is Output.JSON:
        write_json(found, list[TokenView])
    else:
        console = make_console()
        console.print(tokens_table(found, width=console.width))


@_TOKENS.command(epilog="Example: fixnorm-tune token revoke ann")
def revoke(
    which: Annotated[str, typer.Argument(metavar="ID|NAME", help="A token's id, or the name of all that are ended.")],
    output: OutputOption = Output.TABLE,
    state_dir: StateDirOption = None,
) -> None:
    """End a token, or all of a name, and the browsers that logged in with them. At once, on every server."""
    settings = server_settings(state_dir=state_dir)
    from service.access.schemas import TokenView
    from service.administration import revoke_tokens
    from service.cli.screen import write_json

    ended = revoke_tokens(settings, which)
    if output is Output.JSON:
        write_json([TokenView.model_validate(row, from_attributes=True) for row in ended], list[TokenView])
        return
    for row in ended:
        typer.echo(f"token {row.id} of {row.name} is revoked")
    if not ended:
        typer.echo(f"{which} was revoked already")
