r"""Records a surface: trains a job's model over a grid of its knobs with several seeds, and keeps the learning curves.

    python benchmarks/record_surface.py fixnorm_core/recipes/digits.yaml --points 7 --seeds 2 \
        --out worker/recordings/digits.json
    python benchmarks/record_surface.py JOB --grid lr=1e-4,1e-3,1e-2,1e-1 --grid fc_norm=0.5,2,8,32 --out OUT

The recording is what the simulator backend replays and what samplers are compared on. Runs are spread over processes;
each uses one thread. What has been trained is kept beside the recording until it is whole, so that an interrupted
recording goes on where it was.

A bound that the head never reaches changes nothing, to the last bit. So of each learning rate and seed the loosest
bound is trained first, and what it gives also counts for every tighter bound above the largest norm it reached.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fixnorm_core.data.catalog import check_data
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.reports import EpochReport, TrialOutcome
from fixnorm_core.spec import JobSpec, Range
from worker.recording import Recording, Run

Grid = dict[str, tuple[float, ...]]


def main() -> None:
    """Parses the command line, records, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--points", type=int, default=7, help="values of a knob, evenly spaced in its logarithm")
    parser.add_argument("--grid", action="append", default=[], help="the values of one knob, as lr=0.001,0.01,0.1")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data-root", type=Path, default=Path.cwd())
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec = load_job_file(arguments.job)
    spec = spec.model_copy(update={"data": check_data(spec.data, root=arguments.data_root)})
    given = dict(_values(text) for text in arguments.grid)
    grid = {knob: given.get(knob, _spaced(limits, arguments.points)) for knob, limits in spec.search.space.items()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    kept = arguments.out.with_suffix(".partial.jsonl")
    columns = record_columns(spec, grid, seeds=arguments.seeds, processes=arguments.processes, kept=kept)
    recording = _recording(spec.model_copy(update={"data": load_job_file(arguments.job).data}), grid, columns)
    arguments.out.write_text(recording.model_dump_json() + "\n", encoding="utf-8")
    kept.unlink()


def record_columns(spec: JobSpec, grid: Grid, *, seeds: int, processes: int, kept: Path) -> list[dict[str, Any]]:
    """Trains what is missing of the grid, one column (all values of the second knob) at a time."""
    first = next(iter(grid))
    wanted = list(itertools.product(grid[first], range(seeds)))
    columns = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    done = {(column["first"], column["seed"]) for column in columns}
    with ProcessPoolExecutor(processes) as pool, kept.open("a", encoding="utf-8") as file:
        futures = [pool.submit(_column, spec, grid, value, seed) for value, seed in wanted if (value, seed) not in done]
        for count, future in enumerate(as_completed(futures), start=1):
            column = future.result()
            file.write(json.dumps(column) + "\n")
            file.flush()
            columns.append(column)
            accuracies = " ".join(f"{100 * run['validation_accuracy'][-1]:.1f}" for run in column["runs"])
            print(f"{count}/{len(futures)} {first} {column['first']:g} seed {column['seed']}: {accuracies}", flush=True)
    return columns


def _recording(spec: JobSpec, grid: Grid, columns: list[dict[str, Any]]) -> Recording:
    facts = {name: fact for column in columns for name, fact in column.items()}  # a diverged run knows no test images
    runs = [Run.model_validate(run) for column in columns for run in column["runs"]]
    return Recording(
        about=f"{spec.model.name} on {spec.data.name}, recorded {datetime.now(UTC):%Y-%m-%d} by "
        f"benchmarks/record_surface.py; {facts['versions']}",
        job=spec,
        grid=grid,
        seeds=tuple(sorted({run.seed for run in runs})),
        validation_examples=facts["validation_examples"],
        test_examples=facts["test_examples"],
        classes=facts["classes"],
        runs=tuple(sorted(runs, key=lambda run: (tuple(run.params.values()), run.seed))),
    )


def _values(text: str) -> tuple[str, tuple[float, ...]]:
    knob, _, numbers = text.partition("=")
    return knob, tuple(float(number) for number in numbers.split(","))


def _spaced(limits: Range, points: int) -> tuple[float, ...]:
    step = math.log(limits.high / limits.low) / (points - 1)
    return tuple(float(f"{limits.low * math.exp(step * index):.4g}") for index in range(points))


def _column(spec: JobSpec, grid: Grid, value: float, seed: int) -> dict[str, Any]:
    """All values of the second knob at one of the first, the largest first."""
    first, second = grid
    runs: list[dict[str, Any]] = []
    unbound = math.inf
    facts: dict[str, Any] = {}
    for bound in sorted(grid[second], reverse=True):
        params = {first: value, second: bound}
        if second == "fc_norm" and bound >= unbound:
            runs.append({**runs[-1], "params": params})
            continue
        run, known, reached = _train(spec, params, seed)
        facts = facts | {name: fact for name, fact in known.items() if fact}
        runs.append(run.model_dump(mode="json"))
        unbound = min(unbound, reached)
    return {"first": value, "seed": seed, "runs": runs, **facts}


def _train(spec: JobSpec, params: dict[str, float], seed: int) -> tuple[Run, dict[str, Any], float]:
    """One run, what is known of the data, and the largest norm of the head in multiples of its first."""
    import torch

    from fixnorm_core.training.evaluate import evaluate_weights
    from fixnorm_core.training.trainer import Trainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, _largest_head_norm() as reached:
        trainer = Trainer(spec.trial(params, seed=seed), folder=Path(folder))
        reports = list(trainer)
        result = trainer.result()
        test = evaluate_weights(Path(result.weights), split="test") if result.weights else None
    facts = {
        "versions": str(result.versions),
        "validation_examples": result.validation_examples,
        "test_examples": test.examples if test else 0,
        "classes": result.classes,
    }
    diverged = result.outcome is TrialOutcome.DIVERGED
    run = _run(params, seed, reports, test.accuracy if test else 1 / result.classes, diverged=diverged)
    unbound = math.inf if diverged or not reached else reached[0] * params["fc_norm"]
    return run, facts, unbound


@contextmanager
def _largest_head_norm() -> Iterator[list[float]]:
    """Afterwards holds the largest norm of the head after any step, as a share of its bound."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from fixnorm_core.method.step import FixNorm

    largest: list[float] = []

    def look(optimizer: Any, _arguments: Any, _options: Any) -> None:
        if isinstance(optimizer, FixNorm) and optimizer.head_bound is not None:
            largest[:] = [max([*largest, float(optimizer.head_norm()) / optimizer.head_bound])]

    handle = register_optimizer_step_post_hook(look)
    try:
        yield largest
    finally:
        handle.remove()


def _run(
    params: dict[str, float], seed: int, reports: list[EpochReport], test_accuracy: float, *, diverged: bool
) -> Run:
    return Run(
        params=params,
        seed=seed,
        validation_accuracy=tuple(round(report.validation_accuracy, 5) for report in reports),
        validation_loss=tuple(round(report.validation_loss, 4) for report in reports),
        train_loss=tuple(round(report.train_loss, 4) for report in reports),
        train_accuracy=tuple(round(report.train_accuracy, 4) for report in reports),
        head_norm=tuple(round(report.head_norm, 4) for report in reports),
        test_accuracy=test_accuracy,
        diverged=diverged,
        seconds=round(sum(report.seconds for report in reports) / len(reports), 3),
    )


if __name__ == "__main__":
    main()
