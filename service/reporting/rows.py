"""What a job found, row by row, for every form of the report."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from service.schemas import BestView

__all__ = ["counted", "local_time", "percent", "result_rows"]


def result_rows(best: BestView) -> Iterable[tuple[str, str]]:
    """Pairs (what, value) of the recommended point, its accuracy, and where its weights are."""
    for knob, value in best.params.items():
        yield f"best {knob}", f"{value:.4g}"
    accuracy = f"{percent(best.validation_accuracy)} ± {percent(best.standard_error)}"
    yield "validation accuracy", f"{accuracy} ({best.basis})"
    if best.disagreement is not None:
        yield "runs disagree", best.disagreement
    if best.rivalry is not None:
        yield "runner-up", best.rivalry
    if best.test is not None:
        yield "test accuracy", f"{percent(best.test.accuracy)} ({best.tested_on}; measured once)"
    if best.stop_reason:
        yield "stopped because", best.stop_reason
    if best.epochs_saved:
        yield "epochs saved", f"{best.epochs_saved}, by stopping trials that would have lost"
    yield "weights", f"{best.weights} (of trial {best.weights_trial})" if best.weights else "none were kept"


def counted(number: int, thing: str) -> str:
    """So many things: ``1 epoch``, ``2 epochs``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def percent(share: float | None) -> str:
    """A share as a percentage with two decimals; a dash when there is none."""
    return "-" if share is None else f"{100 * share:.2f} %"


def local_time(moment: datetime | None) -> str:
    """A time on this machine's clock, to the second; a dash when there is none."""
    return "-" if moment is None else f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
