"""Records a surface: trains a job's model over a grid of its knobs with several seeds, and keeps the learning curves.

    python benchmarks/record_surface.py examples/digits.yaml --points 7 --seeds 2 --out worker/recordings/digits.json

The recording is what the simulator backend replays and what samplers are compared on. Runs are spread over processes;
each uses one thread. Interrupted, it starts again from the beginning.
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from fixnorm_core.data.catalog import check_data
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.reports import EpochReport, TrialOutcome
from fixnorm_core.spec import JobSpec, Range
from worker.recording import Recording, Run


def main() -> None:
    """Parses the command line, records, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--points", type=int, default=7, help="values of each knob, evenly spaced in its logarithm")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--data-root", type=Path, default=Path.cwd())
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    spec = load_job_file(arguments.job)
    spec = spec.model_copy(update={"data": check_data(spec.data, root=arguments.data_root)})
    recording = record(spec, points=arguments.points, seeds=arguments.seeds, processes=arguments.processes)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(recording.model_dump_json() + "\n", encoding="utf-8")


def record(spec: JobSpec, *, points: int, seeds: int, processes: int) -> Recording:
    """Trains every point of the grid with every seed."""
    grid = {knob: _spaced(limits, points) for knob, limits in spec.search.space.items()}
    corners = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    tasks = list(itertools.product(corners, range(seeds)))
    runs = []
    with ProcessPoolExecutor(processes) as pool:
        for done, answer in enumerate(pool.map(partial(_train, spec), *zip(*tasks, strict=True)), start=1):
            runs.append(answer)
            run = answer[0]
            print(f"{done}/{len(tasks)} {run.params} seed {run.seed}: {run.validation_accuracy[-1]:.4f}", flush=True)
    first = answer[1]
    return Recording(
        about=f"{spec.model.name} on {spec.data.name}, recorded {datetime.now(UTC):%Y-%m-%d} by "
        f"benchmarks/record_surface.py; {first.versions}",
        job=spec,
        grid=grid,
        seeds=tuple(range(seeds)),
        validation_examples=first.validation_examples,
        test_examples=answer[2],
        classes=first.classes,
        runs=tuple(run for run, _, _ in runs),
    )


def _spaced(limits: Range, points: int) -> tuple[float, ...]:
    step = math.log(limits.high / limits.low) / (points - 1)
    return tuple(float(f"{limits.low * math.exp(step * index):.4g}") for index in range(points))


def _train(spec: JobSpec, params: dict[str, float], seed: int):  # noqa: ANN202 - a private triple
    import torch

    from fixnorm_core.training.evaluate import evaluate_weights
    from fixnorm_core.training.trainer import Trainer

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(spec.trial(params, seed=seed), folder=Path(folder))
        reports = list(trainer)
        result = trainer.result()
        test = evaluate_weights(Path(result.weights), split="test") if result.weights else None
    test_accuracy = test.accuracy if test else 1 / result.classes
    run = _run(params, seed, reports, test_accuracy, diverged=result.outcome is TrialOutcome.DIVERGED)
    return run, result, test.examples if test else 0


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
