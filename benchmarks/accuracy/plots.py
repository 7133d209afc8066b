"""The plots of the results pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

from accuracy.best import by_rate
from accuracy.runs import Outcome, read_outcomes

mpl.use("agg")
from matplotlib import pyplot as plt
from matplotlib import ticker

__all__ = ["draw_plots"]

_COLORS = {"one": "#0b62a4", "init": "#d98200", "filters": "#3a8f5c"}
_NAMES = {"one": "every norm 1", "init": "norms at initialisation", "filters": "norms √filters"}


def draw_plots(folder: Path) -> None:
    """Draws what there are outcomes for, as PNG."""
    for name, draw in (("transfer", _transfer), ("layers", _layers)):
        figure = draw()
        if figure is not None:
            figure.savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            plt.close(figure)


def _transfer() -> Any:
    """Accuracy over the learning rate, one line a task, one panel a held norm."""
    outcomes = list(read_outcomes("norms").values())
    if not outcomes:
        return None
    tasks = list(dict.fromkeys(one.run.task for one in outcomes))
    figure, panels = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, layout="constrained")
    for panel, hold in zip(panels, _COLORS, strict=True):
        for place, task in enumerate(tasks):
            points = by_rate([one for one in outcomes if (one.run.task, one.run.way.hold) == (task, hold)])
            if points:
                top = max(points.values())
                rates = sorted(points)
                losses = [100 * (points[rate] - top) for rate in rates]
                panel.plot(rates, losses, marker="o", markersize=3, label=task, color=f"C{place}")
        panel.set(xscale="log", title=_NAMES[hold], xlabel="lr", ylim=(-12, 1))
        panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.xaxis.set_minor_formatter(ticker.NullFormatter())
    panels[0].set_ylabel("test accuracy below the task's best, points")
    panels[0].legend(fontsize=8)
    return figure


def _layers() -> Any:
    """Effective learning rate of every held weight over time."""
    outcomes = list(read_outcomes("traces").values())
    if not outcomes:
        return None
    figure, panels = plt.subplots(1, len(outcomes), figsize=(3 * len(outcomes), 3.2), sharey=True, layout="constrained")
    for panel, outcome in zip(panels, outcomes, strict=True):
        names = list(outcome.trace[0]["norms"])
        epochs = [row["epoch"] for row in outcome.trace]
        for place, name in enumerate(names):
            # The rate itself falls to zero with the schedule; what differs between layers is 1 / ‖W‖²
            rates = [outcome.run.way.lr / row["norms"][name] ** 2 for row in outcome.trace]
            shade = place / max(1, len(names) - 1)
            panel.plot(epochs, rates, color=plt.get_cmap("viridis")(0.9 * shade), linewidth=1.5)
        panel.set(yscale="log", title=_title(outcome), xlabel="epoch")
    panels[0].set_ylabel("highest lr / ‖W‖²")
    return figure


def _title(outcome: Outcome) -> str:
    way = outcome.run.way
    name = (
        _NAMES[way.hold] if way.hold != "no" else f"weight decay {way.weight_decay:g}" if way.weight_decay else "none"
    )
    return f"{name}, lr {way.lr:g}\n{100 * outcome.test:.1f} %"
