"""How fast the service is, apart from training: trials that end at once, requests, memory. Writes its results page.

    python benchmarks/service_speed.py                         # everything, some minutes on a quiet machine
    python benchmarks/service_speed.py --parts trials --pairs 3
    python benchmarks/service_speed.py --parts page            # the tables again, from the kept results

The two sides of a ratio follow each other in pairs, every second pair the other way round. PostgreSQL is a
server of its own, fsync off for both sides, gone afterwards; without its programs those rows are left out. Ray Tune is
compared where pandas, pyarrow and tensorboardX are installed, which this project does not need: ``pip install --target
FOLDER`` them and put the folder on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pages
from service_speed import requests, slots
from service_speed.databases import databases
from service_speed.tables import TABLES
from service_speed.throughput import Load, optuna_alone, whole_service
from service_speed.timing import Spent

from service.server_log import configure_log
from service.settings import LogFormat

_HERE = Path(__file__).parent
PARTS = ("trials", "gap", "tune", "posts", "reading", "page")


def main() -> None:
    """Measures the parts that were asked for, keeps the results, and fills the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=8, help="of a throughput run, each of --trials")
    parser.add_argument("--trials", type=int, default=25)
    parser.add_argument("--parallel", type=int, default=4, help="trials at once; on Ray one CPU each")
    parser.add_argument("--stored", type=int, nargs="+", default=[100, 1000], help="jobs of 20 trials to read among")
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--results", type=Path, default=_HERE / "service_speed.json")
    parser.add_argument("--page", type=Path, default=_HERE / "service_speed.md")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    configure_log(LogFormat.CONSOLE, "error")
    results = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
    for part in options.parts:
        if part != "page":
            results.update(globals()[f"measure_{part}"](options))
            options.results.write_text(json.dumps(_rounded(results), indent=1) + "\n", encoding="utf-8")
    page = options.page.read_text(encoding="utf-8")
    options.page.write_text(pages.filled(page, lambda name: TABLES[name](results)), encoding="utf-8")


def measure_trials(options: argparse.Namespace) -> dict[str, Any]:
    """Null trials through the service and through Optuna alone, on both databases, with an epoch each and without."""
    found = {}
    with databases() as known:
        for database, server in known.items():
            for epochs, told in ((1, "one epoch"), (0, "no epochs")):
                load = Load(options.jobs, options.trials, options.parallel, epochs)
                name = f"{database}; {told}"
                found[name] = _pairs(
                    options.pairs,
                    load,
                    lambda load=load, server=server: whole_service(load, postgres=server),
                    lambda load=load, server=server: optuna_alone(load, postgres=server),
                )
                print(name, found[name], flush=True)
    return {"trials": found}


def measure_gap(options: argparse.Namespace) -> dict[str, Any]:
    """Between two trials on a warm Ray slot: trials that take a second, and trials that end at once."""
    load = Load(options.jobs, options.trials, options.parallel, 1)
    return {
        "gap": {
            "trials of a second": slots.on_ray(load, seconds=1.0)[1],
            "trials that end at once": slots.on_ray(load)[1],
        }
    }


def measure_tune(options: argparse.Namespace) -> dict[str, Any]:
    """Null trials on real Ray slots, and on Ray Tune."""
    if missing := slots.missing_for_tune():
        print(sentence := f"Ray Tune needs {', '.join(missing)}, which this machine lacks")
        return {"no tune": sentence}
    load = Load(options.jobs, options.trials, options.parallel, 1)
    return {"tune": _pairs(options.pairs, load, lambda: slots.on_ray(load)[0], lambda: slots.on_tune(load))}


def measure_posts(options: argparse.Namespace) -> dict[str, Any]:
    """Jobs submitted by many clients."""
    found = {}
    for clients, rounds, name in (
        (50, options.requests // 4 or 1, "50 clients at once"),
        (1, options.requests, "1 client"),
    ):
        with (
            tempfile.TemporaryDirectory() as scratch,
            requests.server(Path(scratch), Path(scratch) / "state") as server,
        ):
            requests.burst(server.url, clients=clients, rounds=1)  # connections to the database, imports
            seconds, errors = requests.burst(server.url, clients=clients, rounds=rounds)
            found[f"POST /jobs, {name}"] = {"seconds": seconds, "errors": errors}
    return {"posts": found}


def measure_reading(options: argparse.Namespace) -> dict[str, Any]:
    """Lists and views among so many jobs; and the server's memory before and after."""
    found: dict[str, Any] = {}
    memory: dict[str, float] = {}
    for jobs in options.stored:
        with tempfile.TemporaryDirectory() as scratch:
            ids = requests.fill(Path(scratch) / "state", jobs=jobs, trials=20)
            with requests.server(Path(scratch), Path(scratch) / "state") as server:
                memory[f"at its start, {jobs} jobs stored"] = requests.memory_mib(server)
                found[str(jobs)] = requests.latencies(server, ids, requests=options.requests)
                memory[f"after the requests, {jobs} jobs stored"] = requests.memory_mib(server)
    return {"reading": found, "memory": memory}


def _pairs(
    count: int, load: Load, ours: Callable[[], Spent], other: Callable[[], Spent]
) -> list[dict[str, int | dict[str, float]]]:
    found = []
    for number in range(count):
        sides = {"ours": ours, "other": other}
        order = sorted(sides, reverse=bool(number % 2))
        found.append({"trials": load.total} | {side: asdict(sides[side]()) for side in order})
    return found


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return round(value, 5) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
