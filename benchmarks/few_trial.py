"""Few-trial tuning on recorded surfaces: runs every sampler on every surface, and writes down each study's course.

    python benchmarks/few_trial.py --seeds 50
    python benchmarks/few_trial.py --seeds 50 --slots 4 --rivals FixNorm "GP, 4 start-up"

Nothing is trained: a trial's value is the surface's true accuracy, interpolated, with the recorded noise of a run. For
every seed a random part is cut off one side of each knob's range, so that the middle of the box says nothing. What has
been run is kept in benchmarks/few_trial/results and not run again; benchmarks/few_trial_pages.py makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

# One thread per process, before numpy and torch read them: the processes share the cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import optuna
from few_trial.contest import Course, Surface, run
from few_trial.made_up import MADE_UP, MadeUp
from few_trial.results import DECAYED, RECORDED, RESULTS, TRIALS, read
from few_trial.rivals import RIVALS
from few_trial.surfaces import load, load_decay

Task = tuple[str, str, int, int, int]


def main() -> None:
    """Runs what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--surfaces", nargs="+", default=[*RECORDED, *MADE_UP, *DECAYED])
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    done = {course.key for course in read(trials=arguments.trials)}
    tasks = [
        (rival, surface, seed, arguments.slots, arguments.trials)
        for rival in arguments.rivals
        for surface in arguments.surfaces
        for seed in range(arguments.seeds)
        if RIVALS[rival].decay == (surface in DECAYED)
        and not (RIVALS[rival].recorded_alone and surface in MADE_UP)
        and (rival, surface, seed, arguments.slots) not in done
    ]
    RESULTS.mkdir(exist_ok=True)
    with multiprocessing.get_context("forkserver").Pool(arguments.processes) as pool:
        for count, course in enumerate(pool.imap(_course, tasks, chunksize=5), 1):
            with (RESULTS / f"{course.rival.replace(', ', '-').replace(' ', '-')}.jsonl").open("a") as file:
                file.write(json.dumps(asdict(course)) + "\n")
            if count % 50 == 0:
                print(f"{count}/{len(tasks)} {course.rival} on {course.surface}", flush=True)


def _course(task: Task) -> Course:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rival, surface, seed, slots, trials = task
    return run(rival, _surface(surface, seed), seed=seed, trials=trials, slots=slots)


@lru_cache(maxsize=64)
def _surface(name: str, seed: int) -> Surface:
    if name in DECAYED:
        task = name.removesuffix("-decay")
        return load_decay(task, noise=_recorded(RECORDED[task]).noise)
    return MadeUp(name, seed) if name in MADE_UP else _recorded(RECORDED[name])


@lru_cache(maxsize=64)
def _recorded(path: Path) -> Surface:
    return load(path)


if __name__ == "__main__":
    main()
