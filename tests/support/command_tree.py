"""The commands of ``fixnorm-tune``, as they are registered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer.main

from service.cli.main import app

COMMAND: Any = typer.main.get_command(app)


def leaves(command: Any = COMMAND, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command that does something, by the words that are typed for it."""
    if hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from leaves(inner, (*path, name))
    else:
        yield " ".join(path), command


LEAVES = dict(leaves())
EXAMPLES = {name: command.epilog or "" for name, command in LEAVES.items()}
