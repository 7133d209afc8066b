"""The job spec: defaults, refusals, and reading back what another release wrote."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from fixnorm_core.spec import JobSpec, Method, Range


def test_a_spec_survives_the_trip_through_json() -> None:
    spec = JobSpec.model_validate({"search": {"method": "weight_decay", "space": {"lr": [0.01, 1]}}})
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.search.space["weight_decay"] == Range(low=1e-6, high=1e-1)


def test_unknown_fields_are_refused_on_input_and_ignored_when_read_back() -> None:
    stored = JobSpec().model_dump(mode="json") | {"of_a_later_release": 1}
    stored["model"]["also_later"] = True
    with pytest.raises(ValidationError, match="of_a_later_release"):
        JobSpec.model_validate(stored)
    assert JobSpec.from_stored(stored) == JobSpec()


def test_a_spec_that_was_stored_before_there_were_limits_confirms_as_many_runs_as_it_did() -> None:
    old = JobSpec().model_dump(mode="json")
    old["budget"] = {"max_trials": 3, "parallel_trials": 1, "confirm_runs": 2, "stop_early": True, "max_failures": 3}
    budget = JobSpec.from_stored(old).budget
    assert (budget.search_trials, budget.confirming_trials, budget.max_time) == (1, 2, None)


@pytest.mark.parametrize(
    ("resources", "ranks", "threads"),
    [
        ({}, 1, 1),
        ({"gpus_per_trial": 0.5, "cpus_per_trial": 4}, 1, 4),
        ({"gpus_per_trial": 1, "ranks_per_trial": 1}, 1, 1),
        ({"gpus_per_trial": 4, "cpus_per_trial": 16}, 4, 4),
        ({"ranks_per_trial": 2, "cpus_per_trial": 3}, 2, 1),
    ],
)
def test_each_gpu_of_a_trial_has_a_rank_and_its_part_of_the_cpus(
    resources: dict[str, Any], ranks: int, threads: int
) -> None:
    spec = JobSpec.model_validate({"resources": resources})
    trial = spec.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0)
    assert (spec.resources.ranks, trial.ranks, trial.cpu_threads) == (ranks, ranks, threads)


@pytest.mark.parametrize(
    ("text", "duration", "told"),
    [
        ("8h", timedelta(hours=8), "8h"),
        ("1h 30min", timedelta(minutes=90), "1h 30min"),
        ("1.5h", timedelta(minutes=90), "1h 30min"),
        ("2d3h", timedelta(hours=51), "2d 3h"),
        (".25 s", timedelta(milliseconds=250), "0.25s"),
        ("90s", timedelta(seconds=90), "1min 30s"),
    ],
)
def test_a_duration_is_a_number_with_its_unit_and_survives_the_trip_through_json(
    text: str, duration: timedelta, told: str
) -> None:
    spec = JobSpec.model_validate({"budget": {"max_time": text}})
    assert spec.budget.max_time == duration
    assert spec.model_dump(mode="json")["budget"]["max_time"] == told
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("text", ["2030-05-01T08:00+02:00", "2030-05-01T06:00Z", "2030-05-01 06:00:00+00:00"])
def test_a_deadline_is_kept_in_utc_and_survives_the_trip_through_json(text: str) -> None:
    spec = JobSpec.model_validate({"budget": {"deadline": text}})
    assert spec.budget.deadline == datetime(2030, 5, 1, 6, tzinfo=UTC)
    assert spec.model_dump(mode="json")["budget"]["deadline"] == "2030-05-01T06:00:00+00:00"
    assert JobSpec.model_validate_json(spec.model_dump_json()) == spec
    assert JobSpec.model_validate({"budget": {"deadline": datetime(2030, 5, 1, 6, tzinfo=UTC)}}) == spec  # YAML's


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({"budget": {"deadline": "2030-05-01 08:00"}}, "2030-05-01T08:00:00 has no zone"),
        ({"budget": {"deadline": "tomorrow"}}, "'tomorrow' is no point in time: write it with date, time and zone"),
        ({"budget": {"deadline": 1893456000}}, "1893456000 is no point in time"),
        ({"search": {"space": {"lr": [0, 1]}}}, "low is 0; it is searched on a log scale"),
        ({"search": {"space": {"lr": [1, 1]}}}, "is empty; low must be below high"),
        ({"search": {"space": {"lr": [1, 2, 3]}}}, "has 3 numbers; a range is a pair"),
        ({"search": {"space": {"weight_decay": [1e-5, 1]}}}, "method fixnorm has no knob 'weight_decay'"),
        ({"search": {"start": {"lr": 0.01}}}, "it needs one value for each"),
        ({"search": {"start": {"lr": 5.0, "fc_norm": 1.0}}}, "start.lr is 5, outside its range"),
        ({"budget": {"max_trials": 2, "confirm_runs": 2}}, "leaves no trial to search with"),
        ({"budget": {"confirm_top_k": 6}}, "confirm_runs is 2 for each of confirm_top_k 6 of max_trials 12"),
        ({"budget": {"max_time": 3600}}, "3600 is no duration: write it with a unit"),
        ({"budget": {"max_time": "8 hours"}}, "'8 hours' is no duration: write it with a unit"),
        ({"budget": {"max_time_without_progress": "0s"}}, "0s is no time at all"),
        ({"budget": {"target_accuracy": 95}}, "less than or equal to 1"),
        ({"resources": {"gpus_per_trial": 2, "ranks_per_trial": 3}}, "ranks_per_trial is 3 and gpus_per_trial 2"),
        ({"resources": {"gpus_per_trial": 0.5, "ranks_per_trial": 2}}, "each rank has one GPU"),
        ({"resources": {"ranks_per_trial": 4}, "training": {"batch_size": 3}}, "one of them would have no image"),
        ({"resources": {"ranks_per_trial": 2}, "training": {"sync_batchnorm": True}}, "computes on GPUs alone"),
        ({"resources": {"gpus_per_trial": 1.5}}, "1.5 GPUs cannot be held"),
        ({"resources": {"gpus_per_trial": 5e-324}}, "ask for 0, or for a thousandth of one"),
        ({"resources": {"cpus_per_trial": 5e-324}}, "greater than or equal to 0.001"),
        ({"resources": {"gpus_per_trial": 4, "nodes_per_trial": 3}}, "nodes_per_trial is 3 and a trial has 4 ranks"),
        ({"resources": {"nodes_per_trial": 2}}, "a trial has 1 rank, which cannot be divided"),
        ({"training": {"device": "cuda"}}, "hides every GPU from the trial"),
        ({"data": {"crop": "random_resized", "storage": "memory"}}, "storage is memory: set storage to auto or stream"),
        ({"data": {"crop_min_area": 0}}, "greater than 0"),
        ({"data": {"loader_workers": -1}}, "greater than or equal to 0"),
        ({"search": {"space": {"lr": [0.1, float("inf")]}}}, "finite"),
    ],
)
def test_a_broken_rule_is_refused_in_words(document: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        JobSpec.model_validate(document)


def test_a_trial_must_have_the_knobs_of_its_method() -> None:
    with pytest.raises(ValidationError, match="method fixnorm needs"):
        JobSpec().trial({"lr": 0.1, "weight_decay": 1e-4}, seed=0)
    assert JobSpec().trial({"lr": 0.1, "fc_norm": 1.0}, seed=3).method is Method.FIXNORM
