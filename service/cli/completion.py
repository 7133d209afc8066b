"""What a shell offers when Tab is pressed: names that are shipped with this software, and the server's jobs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import typer

__all__ = ["complete_datasets", "complete_jobs", "complete_models", "complete_recipes"]

_PATIENCE = timedelta(seconds=1)  # of a person who pressed Tab
_MOST_JOBS = 50


def complete_recipes(incomplete: str) -> Iterator[tuple[str, str]]:
    """Recipes with what they train."""
    from fixnorm_core.recipes import list_recipes

    return ((each.name, each.about) for each in list_recipes() if each.name.startswith(incomplete))


def complete_models(incomplete: str) -> Iterator[str]:
    """Names of networks."""
    from fixnorm_core.models.catalog import MODELS

    return (name for name in MODELS if name.startswith(incomplete))


def complete_datasets(incomplete: str) -> Iterator[tuple[str, str]]:
    """Data sets with what they hold."""
    from fixnorm_core.data.catalog import DATA_SETS

    return ((name, facts.description) for name, facts in DATA_SETS.items() if name.startswith(incomplete))


def complete_jobs(context: typer.Context, incomplete: str) -> Iterator[tuple[str, str]]:
    """The newest jobs of the server that the command would ask; none where it does not answer at once."""
    from fixnorm_core.errors import FixNormError
    from service.cli.connection import connect
    from service.default_address import DEFAULT_SERVER

    try:
        with connect(context.params.get("server") or DEFAULT_SERVER, timeout=_PATIENCE) as client:
            found = client.jobs(limit=_MOST_JOBS)
    except FixNormError:  # Tab shows no errors; the command itself will
        return
    yield from ((job.id, f"{job.name}, {job.state}") for job in found if job.id.startswith(incomplete))
