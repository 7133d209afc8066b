"""Results pages: tables in Markdown, written anew between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev

__all__ = ["filled", "mean_and_error", "table"]

_BLOCK = re.compile(r"(<!-- table: (?P<name>[a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, draw: Callable[[str], str]) -> str:
    """The page with every table as ``draw`` gives it for the table's name."""
    return _BLOCK.sub(lambda found: f"{found[1]}{draw(found['name'])}\n{found[3]}", page)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def mean_and_error(values: Sequence[float]) -> str:
    """The mean and its standard error, to a tenth; of one value there is no error."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{fmean(values):.1f} ± {error:.1f}"
