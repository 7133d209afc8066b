"""Null trials on Ray Tune with its Optuna search; a process of its own, since a process has one Ray.

Actors are used again, as the service's slots are. Prints what the trials took after a first few that warm Ray up.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from optuna.samplers import RandomSampler
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from service_speed.null import SPACE, score
from service_speed.timing import timed


def main() -> None:
    """Runs the trials and prints the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--parallel", type=int, required=True)
    options = parser.parse_args()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    ray.init(num_cpus=options.parallel, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    with tempfile.TemporaryDirectory() as scratch:
        _run(options.parallel, options.parallel, Path(scratch) / "warm")
        spent = timed(lambda: _run(options.trials, options.parallel, Path(scratch) / "timed"))
    print(json.dumps(asdict(spent)))


def _train(config: dict[str, Any]) -> None:
    tune.report({"accuracy": score(config["lr"], config["fc_norm"])})


def _run(trials: int, parallel: int, folder: Path) -> None:
    results = tune.Tuner(
        tune.with_resources(_train, {"cpu": 1}),
        param_space={name: tune.loguniform(*ends) for name, ends in SPACE.items()},
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            search_alg=OptunaSearch(sampler=RandomSampler(seed=0)),
            num_samples=trials,
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    assert len(results) == trials
    assert not results.errors


if __name__ == "__main__":
    main()
