"""The whole service on real images: FixNormSampler against Optuna's GP and TPE, the same trials, several seeds.

    python benchmarks/live_proof.py --data-root DATA     # DATA/cifar10/train/<class>/*.jpg, DATA/cifar10/test/...

Starts a server with a Ray of its own, submits one job for each sampler and seed (the task of surfaces/under.yaml, two
trials at once, no stop of its own, no confirming runs), and keeps what came back in live_proof.json. For every seed a
random part of each knob's range is cut off one side, the same for all samplers. A job that is there already is not run
again. Tables and plot of live_proof.md are written from that file.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pages

from fixnorm_core.jobfile import load_job_file
from fixnorm_core.spec import JobSpec, Range, SamplerName
from service.client import Client

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "live_proof.json", HERE / "live_proof.md"
SAMPLERS = (SamplerName.FIXNORM, SamplerName.GP, SamplerName.TPE)


def main() -> None:
    """Runs what is missing, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=8)
    arguments = parser.parse_args()
    if arguments.data_root:
        _run(arguments.data_root, seeds=arguments.seeds, trials=arguments.trials)
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    _plot(HERE / "live_proof.png")


def filled(page: str) -> str:
    """The page with the table that the kept jobs give."""
    return pages.filled(page, lambda _name: _table(_kept()))


def _run(data_root: Path, *, seeds: int, trials: int) -> None:
    done = _kept()
    with tempfile.TemporaryDirectory() as folder, _serving(Path(folder), data_root) as url, Client(url) as client:
        for seed in range(seeds):
            for sampler in SAMPLERS:
                if any((job["sampler"], job["seed"]) == (sampler, seed) for job in done):
                    continue
                view = client.wait(client.submit(_job(sampler, seed=seed, trials=trials)).id)
                done.append(
                    {
                        "sampler": sampler,
                        "seed": seed,
                        "state": view.state,
                        "trials": [
                            {"params": trial.params, "accuracy": trial.validation_accuracy}
                            for trial in client.trials(view.id)
                        ],
                        "test": client.best(view.id).test.model_dump(mode="json"),  # type: ignore[union-attr]
                    }
                )
                RESULTS.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
                print(seed, sampler, _best_so_far(done[-1])[-1], done[-1]["test"]["accuracy"], flush=True)


def _job(sampler: SamplerName, *, seed: int, trials: int) -> JobSpec:
    spec = load_job_file(HERE / "surfaces" / "under.yaml")
    rng = np.random.default_rng((seed, 5))
    space = {knob: _cropped(limits, rng) for knob, limits in spec.search.space.items()}
    return JobSpec.model_validate(
        spec.model_dump(mode="json")
        | {
            "name": f"live proof, {sampler}, seed {seed}",
            "seed": seed,
            "search": {"sampler": sampler, "space": {knob: [r.low, r.high] for knob, r in space.items()}},
            "budget": {"max_trials": trials, "parallel_trials": 2, "confirm_runs": 0, "stop_early": False},
        }
    )


def _cropped(limits: Range, rng: np.random.Generator) -> Range:
    keep = (limits.high / limits.low) ** (1.0 - rng.uniform(0.0, 0.4))
    if rng.random() < 0.5:
        return Range(low=limits.low, high=float(f"{limits.low * keep:.3g}"))
    return Range(low=float(f"{limits.high / keep:.3g}"), high=limits.high)


@contextmanager
def _serving(state: Path, data_root: Path) -> Iterator[str]:
    url_file = state / "url"
    command = [sys.executable, "-m", "service.cli.main", "serve", "--port", "0", "--cpus", "2"]
    command += ["--state-dir", str(state / "state"), "--data-root", str(data_root), "--url-file", str(url_file)]
    with (state / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as server:
        try:
            while not url_file.exists():
                if server.poll() is not None:
                    raise SystemExit((state / "log").read_text())
                time.sleep(0.2)
            yield url_file.read_text().strip()
        finally:
            server.terminate()
            server.wait(60)


def _kept() -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    return kept


def _best_so_far(job: dict[str, Any]) -> list[float]:
    best = -math.inf
    return [best := max(best, trial["accuracy"] or 0.0) for trial in job["trials"]]


def _table(jobs: list[dict[str, Any]]) -> str:
    after = (1, 2, 4, 6, 8)
    head = ["sampler", "seeds", *(f"best validation after {n}" for n in after), "test of the best"]
    rows = []
    for sampler in SAMPLERS:
        own = [job for job in jobs if job["sampler"] == sampler]
        if own:
            curves = [_best_so_far(job) for job in own]
            columns = [[100 * curve[n - 1] for curve in curves] for n in after]
            tests = [100 * job["test"]["accuracy"] for job in own]
            rows.append([sampler, str(len(own)), *map(pages.mean_and_error, [*columns, tests])])
    return pages.table(head, rows)


def _plot(path: Path) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    jobs = _kept()
    seeds = sorted({job["seed"] for job in jobs})
    figure, panels = plt.subplots(1, len(seeds), figsize=(4 * len(seeds), 3.4), sharey=True, layout="constrained")
    for panel, seed in zip(np.atleast_1d(panels), seeds, strict=True):
        for place, sampler in enumerate(SAMPLERS):
            for job in jobs:
                if (job["sampler"], job["seed"]) == (sampler, seed):
                    values = [100 * (trial["accuracy"] or 0.0) for trial in job["trials"]]
                    numbers = range(1, len(values) + 1)
                    panel.scatter(numbers, values, s=14, color=f"C{place}", alpha=0.5)
                    panel.plot(numbers, [100 * best for best in _best_so_far(job)], color=f"C{place}", label=sampler)
        panel.set(title=f"seed {seed}", xlabel="trial", ylim=(8, 52))
    np.atleast_1d(panels)[0].set_ylabel("validation accuracy, %")
    np.atleast_1d(panels)[0].legend(fontsize=9)
    figure.savefig(path, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
