"""Where tables and JSON are written."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal, TextIO

import typer
from pydantic import TypeAdapter
from rich.console import Console

__all__ = ["is_live", "make_console", "write_json"]

_WIDE_ENOUGH = 10_000


def make_console(file: TextIO | None = None) -> Console:
    """A console on stdout, or on ``file``: plain and never cut off when that is no terminal.

    With ``NO_COLOR`` a terminal's is plain too, bold included.
    """
    file = file or sys.stdout
    if file.isatty():
        colors: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
        return Console(file=file, color_system=colors, highlight=False, markup=False)
    # FORCE_COLOR would make rich write control sequences into a pipe, and 80 columns would cut tables.
    return Console(file=file, force_terminal=False, no_color=True, width=_WIDE_ENOUGH, highlight=False, markup=False)


def is_live(console: Console) -> bool:
    """Whether what was drawn can be drawn over."""
    return console.is_terminal and not console.is_dumb_terminal


def write_json(value: Any, kind: Any) -> None:
    """Writes ``value``, a ``kind``, as indented JSON to stdout."""
    typer.echo(TypeAdapter(kind).dump_json(value, indent=2).decode())
