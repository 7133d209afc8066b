"""``fixnorm-tune serve``."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fixnorm_core.errors import FixNormError
from fixnorm_core.extras import install_command
from service.default_address import DEFAULT_PORT

if TYPE_CHECKING:
    from service.settings import Settings

__all__ = ["ServerPackagesError", "SettingsError", "StateDirOption", "register", "server_settings", "tell_new"]

StateDirOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the database, checkpoints, weights and reports [default: fixnorm-state]"),
]


class ServerPackagesError(FixNormError):
    """The packages that only a server needs are not installed."""

    code = "server_packages_missing"


class SettingsError(FixNormError):
    """A setting of the server, from an option or from the environment, that breaks a rule."""

    code = "invalid_settings"


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune serve --state-dir ./fixnorm-state --data-root /data/images")(serve)


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")
    ] = DEFAULT_PORT,
    state_dir: StateDirOption = None,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder where a job's relative data.path starts [default: STATE_DIR/data]")
    ] = None,
    backend: Annotated[
        Literal["ray", "simulator"] | None,
        typer.Option(help="What runs trials; the simulator replays curves and trains nothing [default: ray]"),
    ] = None,
    cpus: Annotated[float | None, typer.Option(help="CPU cores that trials may hold [default: all]")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs that trials may hold [default: all]")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, with its chain, to serve https with.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, without a password.")] = None,
    url_file: Annotated[
        Path | None, typer.Option(help="File to write the server's address to, once it answers.")
    ] = None,
) -> None:
    """Start the tuning server: REST API, dispatcher and dashboard.

    Every setting can also be given as FIXNORM_<OPTION>, for example FIXNORM_DATA_ROOT; an option wins.
    """
    settings = server_settings(
        needs="service.server",
        state_dir=state_dir,
        data_root=data_root,
        backend=backend,
        cpus=cpus,
        gpus=gpus,
        tls_cert=tls_cert,
        tls_key=tls_key,
    )
    from service.server import run_server

    run_server(settings, host=host, port=port, url_file=url_file)


def server_settings(*, needs: str = "service.administration", **given: Any) -> Settings:
    """A server's settings, from options and the environment; what is None was not given.

    Args:
        needs: The module with what the command does next. An administrator's needs half of what a server does.
        given: The options.

    Raises:
        ServerPackagesError: If only what a laptop needs is installed.
        SettingsError: If a setting breaks a rule.
    """
    try:
        from service.settings import Settings

        settings = _settings(Settings, {name: value for name, value in given.items() if value is not None})
        import_module(needs)  # after what may be refused: a server's takes seconds
    except ModuleNotFoundError as error:
        raise ServerPackagesError(
            f"this needs the package {error.name!r}, which is not installed",
            f"Install the server too: {install_command('server')}",
        ) from error
    return settings


def tell_new(made: Path) -> None:
    """Says that a command has made a new database: with a mistyped folder nothing else would look wrong."""
    typer.echo(
        f"made a new database, {made}; a server finds it by the same --state-dir or FIXNORM_ variables", err=True
    )


def _settings(kind: type[Settings], given: dict[str, Any]) -> Settings:
    from pydantic import ValidationError

    from fixnorm_core.explain import explain

    try:
        return kind(**given)
    except ValidationError as error:
        rules = [
            f"{broken.field}: {broken.rule}" if broken.field else broken.rule for broken in explain(error, model=kind)
        ]
        raise SettingsError("\n".join(rules), "Correct the option or the FIXNORM_ variable") from error
