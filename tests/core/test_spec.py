"""The job spec: defaults, refusals, and reading back what another release wrote."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("document", "rule"),
    [
        ({"search": {"space": {"lr": [0, 1]}}}, "low is 0; it is searched on a log scale"),
        ({"search": {"space": {"lr": [1, 1]}}}, "is empty; low must be below high"),
        ({"search": {"space": {"lr": [1, 2, 3]}}}, "has 3 numbers; a range is a pair"),
        ({"search": {"space": {"weight_decay": [1e-5, 1]}}}, "method fixnorm has no knob 'weight_decay'"),
        ({"search": {"start": {"lr": 0.01}}}, "it needs one value for each"),
        ({"search": {"start": {"lr": 5.0, "fc_norm": 1.0}}}, "start.lr is 5, outside its range"),
        ({"budget": {"max_trials": 2, "confirm_runs": 2}}, "leaves no trial to search with"),
        ({"resources": {"gpus_per_trial": 1.5}}, "1.5 GPUs cannot be held"),
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
