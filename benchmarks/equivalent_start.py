"""Does the start that a tuned weight-decay run leads to lie near FixNorm's own best learning rate?

    FIXNORM_DATA_ROOT=... python benchmarks/equivalent_start.py

Tunes weight decay over a grid of (lr, weight decay) and FixNorm over a grid of lr, on 1,000 CIFAR-10 images of 16x16.
Prints both tables (accuracy on 5,000 held images, %), with the rotation per step and the gradient norm ``G`` that the
diagnostics of each run show, and what ``equivalent_start`` makes of the best weight-decay point. Runs are spread over
processes of one thread each.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from fixnorm_core import equivalent_start
from fixnorm_core.data.catalog import check_data
from fixnorm_core.method.equilibrium import START_FC_NORM, equilibrium_rotation
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec

MOMENTUM = 0.9
RATES = tuple(0.001 * 2**power for power in range(7))


def main() -> None:
    """Trains everything and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--decay-rates", type=float, nargs="+", default=[0.03, 0.1, 0.3], help="lr of weight decay")
    parser.add_argument("--decays", type=float, nargs="+", default=[1e-3, 3e-3, 1e-2, 3e-2])
    options = parser.parse_args()
    images = DataSpec(
        name="imagefolder", path="cifar10", image_size=16, flip=True, shift=2, train_limit=1000, validation_limit=5000
    )
    images = check_data(images, root=Path(os.environ["FIXNORM_DATA_ROOT"]))
    decay = [
        {"lr": rate, "weight_decay": value} for rate, value in itertools.product(options.decay_rates, options.decays)
    ]
    fixed = [{"lr": rate, "fc_norm": START_FC_NORM} for rate in RATES]
    tasks = [
        _trial(images, method, point, seed=seed, epochs=options.epochs)
        for method, points in ((Method.WEIGHT_DECAY, decay), (Method.FIXNORM, fixed))
        for point in points
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.processes) as pool:
        runs = list(pool.map(_train, tasks))
    cells = [runs[first : first + options.seeds] for first in range(0, len(runs), options.seeds)]
    best = _print_table(decay, cells[: len(decay)])
    peak = _print_table(fixed, cells[len(decay) :])
    start = equivalent_start(lr=best["lr"], weight_decay=best["weight_decay"], momentum=MOMENTUM)["lr"]
    turn = equilibrium_rotation(lr=best["lr"], weight_decay=best["weight_decay"], momentum=MOMENTUM)
    print(f"equivalent_start {start:.4f}; best {peak['lr']:.4f}; ratio {start / peak['lr']:.2f}; rotation {turn:.4f}")


def _trial(images: DataSpec, method: Method, params: dict[str, float], *, seed: int, epochs: int) -> TrialSpec:
    return TrialSpec(
        model=ModelSpec(options={"width": 8}),
        data=images,
        training=TrainingSpec(epochs=epochs, batch_size=64, device="cpu"),
        method=method,
        params=params,
        seed=seed,
    )


def _train(trial: TrialSpec) -> tuple[float, float, float]:
    """Final accuracy, and rotation and gradient norm ``G`` of the held weights, medians over the second quarter."""
    import torch

    from fixnorm_core.training.trainer import Trainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        reports = list(Trainer(trial, folder=Path(folder)))
    # After the warm-up and while the learning rate is still high
    middle = [report.diagnostics for report in reports[len(reports) // 4 : len(reports) // 2] if report.diagnostics]
    seen = [
        (held.rotation, held.rotation * (1 - MOMENTUM**2) ** 0.5 / held.effective_learning_rate)
        for held in (one.scale_invariant for one in middle)
        if held.rotation and held.effective_learning_rate
    ]
    rotation, gradient = (statistics.median(column) for column in zip(*seen, strict=True)) if seen else (0.0, 0.0)
    return reports[-1].validation_accuracy, rotation, gradient


def _print_table(
    points: Sequence[dict[str, float]], cells: Sequence[Sequence[tuple[float, float, float]]]
) -> dict[str, float]:
    """Prints one row a point and returns the point with the best mean accuracy."""
    means = [statistics.mean(accuracy for accuracy, _, _ in cell) for cell in cells]
    print("| " + " | ".join([*points[0], "accuracy, each seed", "mean", "rotation", "G"]) + " |")
    print("|" + "---|" * (len(points[0]) + 4))
    for point, cell, mean in zip(points, cells, means, strict=True):
        each = " / ".join(f"{100 * accuracy:.1f}" for accuracy, _, _ in cell)
        turned, gradient = (statistics.mean(run[place] for run in cell) for place in (1, 2))
        knobs = [f"{value:g}" for value in point.values()]
        print("| " + " | ".join([*knobs, each, f"{100 * mean:.1f}", f"{turned:.4f}", f"{gradient:.2f}"]) + " |")
    return points[means.index(max(means))]


if __name__ == "__main__":
    main()
