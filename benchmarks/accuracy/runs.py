"""Runs of the studies: each is trained once, and its outcome kept as one line of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accuracy.tasks import TASKS, load_task
from accuracy.ways import Way
from fixnorm_core.spec import Method, ScheduleSpec, TrialSpec

__all__ = ["RESULTS", "Outcome", "Run", "read_outcomes", "train_missing"]

RESULTS = Path(__file__).parent / "results"
_LOOKS = 5
"""How often the accuracy is looked at in a run, at most."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training run.

    Attributes:
        task: A name in :data:`accuracy.tasks.TASKS`.
        way: How it is trained.
        seed: Of initialisation, order and augmentation.
        traced: Whether to keep the norm of every scale-invariant weight over time.
    """

    task: str
    way: Way
    seed: int
    traced: bool = False

    def key(self) -> str:
        """Tells runs apart, and runs of one point from those of another by dropping the seed."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        run: Which.
        validation: Accuracy at the end, a fraction; what knobs are chosen by.
        test: Accuracy on images that nothing is chosen by.
        train: Accuracy on the training images in the last epoch, augmented.
        curve: Validation accuracy at some epochs: pairs (epoch, accuracy).
        diverged: Whether the loss or a weight stopped being finite; accuracies are then those of chance.
        trace: At those epochs: head norm, feature norm, gains, rotation by role, and norms where traced.
    """

    run: Run
    validation: float
    test: float
    train: float
    curve: tuple[tuple[int, float], ...]
    diverged: bool
    trace: tuple[dict[str, Any], ...]


def read_outcomes(study: str) -> dict[str, Outcome]:
    """What has been run of a study, by :meth:`Run.key`."""
    path = RESULTS / f"{study}.jsonl"
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        run = _run(row.pop("run"))
        found[run.key()] = Outcome(run=run, **{**row, "curve": tuple(map(tuple, row["curve"]))})
    return found


def train_missing(study: str, runs: Sequence[Run], *, root: Path, processes: int) -> None:
    """Trains what a study lacks, and keeps each outcome as soon as it is there; to be interrupted at will."""
    done = read_outcomes(study)
    missing = list({run.key(): run for run in runs if run.key() not in done}.values())
    print(f"{study}: {len(missing)} of {len(runs)} runs to train", flush=True)
    RESULTS.mkdir(exist_ok=True)
    with ProcessPoolExecutor(processes) as pool, (RESULTS / f"{study}.jsonl").open("a", encoding="utf-8") as file:
        futures = [pool.submit(_train, run, root) for run in missing]
        for count, future in enumerate(as_completed(futures), start=1):
            row = future.result()
            file.write(json.dumps(row, separators=(",", ":")) + "\n")
            file.flush()
            print(f"{study} {count}/{len(missing)} {row['validation']:.4f} {_shown(row['run'])}", flush=True)


def _run(row: dict[str, Any]) -> Run:
    return Run(**{**row, "way": Way(**row["way"])})


def _shown(row: dict[str, Any]) -> str:
    default = asdict(Way(lr=0.0))
    way = {name: value for name, value in row["way"].items() if value != default[name]}
    return f"{row['task']} seed {row['seed']} {way}"


def _train(run: Run, root: Path) -> dict[str, Any]:
    import torch

    from fixnorm_core.training.evaluate import evaluate
    from fixnorm_core.training.fit import Fit

    torch.set_num_threads(1)
    data, test = load_task(run.task, root)
    task = TASKS[run.task]
    trial = TrialSpec(
        model=task.model,
        data=task.data,
        training=task.training.model_copy(update={"schedule": ScheduleSpec(power=run.way.power)}),
        method=Method.FIXNORM,  # its params are not read, because the way makes the optimizer
        params={"lr": run.way.lr, "fc_norm": run.way.fc_norm or 1.0},
        seed=run.seed,
    )
    fit = Fit(trial, data, device=torch.device("cpu"), optimizer=run.way)
    looks = set(_looks(task.epochs))
    curve, trace = [], []
    for epoch in range(1, task.epochs + 1):
        totals = fit.train_epoch(epoch)
        if not (math.isfinite(totals.loss) and fit.is_finite()):
            return _row(run, curve=curve, trace=trace, chance=1 / len(data.classes))
        if epoch in looks:
            validation = fit.validate()
            curve.append((epoch, round(validation.accuracy, 5)))
            trace.append(_traced(fit, epoch, rate=totals.learning_rate, weights=run.traced))
    if not math.isfinite(validation.loss):
        return _row(run, curve=curve, trace=trace, chance=1 / len(data.classes))
    tested = evaluate(fit.evaluated, test, name="test", normalization=fit._normalization)
    return _row(run, curve=curve, trace=trace, train=totals.accuracy, test=tested.accuracy)


def _row(
    run: Run,
    *,
    curve: list[tuple[int, float]],
    trace: list[dict[str, Any]],
    chance: float | None = None,
    train: float = 0.0,
    test: float = 0.0,
) -> dict[str, Any]:
    if chance is not None:
        train = test = chance
    return {
        "run": asdict(run),
        "validation": curve[-1][1] if chance is None else chance,
        "test": round(test, 5),
        "train": round(train, 5),
        "curve": curve,
        "diverged": chance is not None,
        "trace": trace,
    }


def _looks(epochs: int) -> Iterable[int]:
    every = max(1, math.ceil(epochs / _LOOKS))
    return range(epochs, 0, -every)


def _traced(fit: Any, epoch: int, *, rate: float, weights: bool) -> dict[str, Any]:
    seen = fit.diagnostics()
    row = {
        "epoch": epoch,
        "lr": rate,
        "head_norm": fit.head_norm(),
        "feature_norm": seen.feature_norm,
        "last_gain": seen.last_gain,
        "rotation": {role: getattr(seen, role).rotation for role in ("scale_invariant", "head", "free")},
    }
    if weights:
        row["norms"] = {name: float(fit.model.get_parameter(name).norm()) for name in fit.roles.scale_invariant}
    return _rounded(row)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def data_root() -> Path:
    """Where the images lie."""
    return Path(os.environ["FIXNORM_DATA_ROOT"])


def by_point(outcomes: Iterable[Outcome]) -> Iterator[tuple[tuple[str, Way], list[Outcome]]]:
    """Outcomes of one task and way together, whatever their seeds."""
    points: dict[tuple[str, Way], list[Outcome]] = {}
    for outcome in outcomes:
        points.setdefault((outcome.run.task, outcome.run.way), []).append(outcome)
    yield from points.items()
