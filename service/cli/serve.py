"""``fixnorm-tune serve``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fixnorm_core.errors import FixNormError

__all__ = ["BackendName", "ServerPackagesError", "register"]


class BackendName(StrEnum):
    """What runs the trials."""

    RAY = "ray"
    SIMULATOR = "simulator"


class ServerPackagesError(FixNormError):
    """The packages that only a server needs are not installed."""

    code = "server_packages_missing"


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune serve --port 8780 --data-dir ./fixnorm-data --data-root /data/images")(
        serve
    )


def serve(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen on; 0 takes a free one.")] = 8780,
    data_dir: Annotated[
        Path, typer.Option(help="The folder of the database, checkpoints, weights and reports; made when missing.")
    ] = Path("fixnorm-data"),
    data_root: Annotated[
        Path | None,
        typer.Option(envvar="FIXNORM_DATA_ROOT", help="The folder under which a relative data.path is looked for."),
    ] = None,
    backend: Annotated[
        BackendName, typer.Option(help="What runs the trials; the simulator replays curves and trains nothing.")
    ] = BackendName.RAY,
    cpus: Annotated[float | None, typer.Option(min=0, help="CPU cores for trials [default: all]")] = None,
    gpus: Annotated[float | None, typer.Option(min=0, help="GPUs for trials [default: all]")] = None,
    url_file: Annotated[
        Path | None, typer.Option(help="A file to write the server's address to when it answers.")
    ] = None,
) -> None:
    """Start the tuning server: REST API, dispatcher and dashboard."""
    try:
        from service.server import run_server
    except ModuleNotFoundError as error:
        raise ServerPackagesError(
            f"'serve' needs the package {error.name!r}, which is not installed",
            "pip install 'fixnorm-tune[server]'",
        ) from error
    status = run_server(
        host=host,
        port=port,
        data_dir=data_dir,
        data_root=data_root,
        backend=backend.value,
        cpus=cpus,
        gpus=gpus,
        url_file=url_file,
    )
    raise typer.Exit(status)
