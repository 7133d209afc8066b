"""The plots of the results page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from few_trial.contest import Course
from few_trial.results import RECORDED
from few_trial.surfaces import load

mpl.use("agg")
from matplotlib import pyplot as plt

__all__ = ["draw_plots"]

_SHOWN = {
    "FixNorm": "#0b62a4",
    "FixNorm, default start": "#5fb0e5",
    "GP, 4 start-up": "#d98200",
    "GP, default start": "#f0c060",
    "TPE, 4 start-up": "#3a8f5c",
    "CMA-ES": "#8a4fa3",
    "random": "#888888",
}


def draw_plots(courses: Sequence[Course], folder: Path) -> None:
    """Draws regret over trials and the surfaces themselves, as PNG."""
    names = list(RECORDED)
    figure, panels = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    for panel, name in zip(panels.flat, names, strict=False):
        for rival, color in _SHOWN.items():
            own = [course.regrets for course in courses if course.key[:2] == (rival, name) and course.slots == 1]
            if own:
                mean = np.mean(own, axis=0)
                panel.plot(range(1, len(mean) + 1), mean, label=rival, color=color)
        panel.axhline(100 * load(RECORDED[name]).epsilon, color="black", linestyle=":", linewidth=1)
        panel.set(title=name, yscale="log", ylim=(0.08, 30), xlabel="trials")
    panels[0, 0].set_ylabel("recommended point lacks, points")
    panels.flat[-1].legend(*panels[0, 0].get_legend_handles_labels(), fontsize=9)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    _save(figure, folder / "regret.png")

    figure, panels = plt.subplots(2, 4, figsize=(14, 6), layout="constrained")
    for panel, name in zip(panels.flat, names, strict=False):
        surface = load(RECORDED[name])
        first, second = (np.geomspace(axis[0], axis[-1], 41) for axis in surface.axes)
        truth = [100 * surface.truth([dict(zip(surface.knobs, (x, y), strict=True)) for x in first]) for y in second]
        below = np.array(truth) - np.max(truth)
        levels = (-40, -20, -10, -5, -3, -2, -1, -0.5, 0)
        filled = panel.contourf(first, second, below, levels=levels, extend="min", cmap="viridis")
        panel.set(xscale="log", yscale="log", title=name, xlabel=surface.knobs[0], ylabel=surface.knobs[1])
        figure.colorbar(filled, ax=panel)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    _save(figure, folder / "surfaces.png")


def _save(figure: plt.Figure, path: Path) -> None:
    figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
