"""Groups of commands whose help answers at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from typer.core import TyperGroup

__all__ = ["QuickGroup"]


class QuickGroup(TyperGroup):
    """Loads pydantic for its options no sooner than one of them is given, where Typer always does."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Reads what stands before the command's name."""
        for option in self.get_params(ctx):
            option.process_value = _unless_absent(option.process_value)  # type: ignore[method-assign,assignment]
        return super().parse_args(ctx, args)


def _unless_absent(process: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda ctx, value: None if value is None else process(ctx, value)
