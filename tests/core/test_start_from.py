"""``search.start_from``: from a job file to the sampler's first point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.method.equilibrium import equivalent_start
from fixnorm_core.spec import JobSpec, SamplerName, equivalent_start_of
from fixnorm_core.tuning.choice import build_sampler, search_space

TUNED = {"lr": 0.1, "weight_decay": 1e-3, "momentum": 0.9}


def job(search: dict[str, Any] | None = None, **training: Any) -> JobSpec:
    return JobSpec.model_validate({"search": {"start_from": TUNED} | (search or {}), "training": training})


def test_the_first_trial_is_the_equivalent_of_the_tuned_run() -> None:
    spec = job()
    study = optuna.create_study(sampler=build_sampler(spec.search, training=spec.training, seed=0))
    assert study.ask(search_space(spec.search)).params == pytest.approx(equivalent_start(**TUNED), rel=1e-5)


def test_cmaes_begins_there_too() -> None:
    spec = job({"sampler": SamplerName.CMAES})
    with pytest.warns(FutureWarning, match="x0"):  # Optuna 5 means to drop it in 6
        sampler = build_sampler(spec.search, training=spec.training, seed=0)
    assert sampler._x0 == equivalent_start(**TUNED)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("training", "factor"), [({}, 1.0), ({"weight_norm": 2.0}, 4.0), ({"optimizer": {"momentum": 0.8}}, 2.0)]
)
def test_it_takes_the_jobs_own_norm_and_momentum(training: dict[str, Any], factor: float) -> None:
    spec = job(**training)
    start = equivalent_start_of(spec.search, training=spec.training)
    assert start is not None
    assert start["lr"] == pytest.approx(factor * equivalent_start(**TUNED)["lr"])


@pytest.mark.parametrize(
    ("search", "training", "rule"),
    [
        ({"space": {"lr": [0.1, 1.0]}}, {}, r"leads to lr 0.004472, outside search.space.lr \[0.1, 1\]"),
        ({"space": {"fc_norm": [4, 8]}}, {}, "leads to fc_norm 2, outside"),
        ({"method": "weight_decay"}, {}, "start_from is given, but method is weight_decay"),
        ({"start": {"lr": 0.01, "fc_norm": 1.0}}, {}, "start and start_from are both given"),
        ({"start_from": TUNED | {"optimizer": "adamw"}}, {}, "adamw has no equivalent start"),
        ({"start_from": TUNED | {"weight_decay": 0}}, {}, "greater than 0"),
        ({}, {"optimizer": {"name": "adamw"}}, "start_from is a run of sgd, and training.optimizer is adamw"),
        ({}, {"weight_norm": "init"}, "training.weight_norm is init"),
    ],
)
def test_what_has_no_equivalent_is_refused_at_submit(
    search: dict[str, Any], training: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValidationError, match=rule):
        job(search, **training)


def test_a_job_file_that_leads_outside_its_range_is_refused_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text("search:\n  space: {lr: [0.1, 1]}\n  start_from: {lr: 0.1, weight_decay: 0.001}\n")
    with pytest.raises(SpecError, match=r"job\.yaml.*leads to lr 0\.004472.*widen that range"):
        load_job_file(path)


def test_a_spec_that_was_stored_before_it_existed_reads_back() -> None:
    stored = JobSpec().model_dump(mode="json")
    del stored["search"]["start_from"]
    assert JobSpec.from_stored(stored) == JobSpec()
