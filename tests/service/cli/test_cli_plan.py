"""What ``submit --dry-run`` says of a job."""

from __future__ import annotations

from typing import Any

import pytest

from fixnorm_core.spec import JobSpec
from service.cli.plan import plan_lines
from service.cli.words import ending
from service.plans.schemas import PlanView


def ends(**groups: Any) -> str:
    """The line about the job's end."""
    spec = JobSpec.model_validate(groups)
    points = ({"lr": 0.01, "fc_norm": 2.0},)
    plan = PlanView(
        spec=spec, notes=(), first_points=points, trials_at_once=1, epochs=96, place=None, reason="there is room"
    )
    (line,) = (line for line in plan_lines(plan) if line.startswith("ends after "))
    assert line == f"ends after {ending(spec)}"  # the words that 'watch' has for it
    return line


@pytest.mark.parametrize(
    ("sampler", "stop_early", "stops"),
    [("fixnorm", True, True), ("fixnorm", False, False), ("random", True, False), ("random", False, False)],
)
def test_a_search_is_said_to_end_early_only_where_its_sampler_does_that(
    sampler: str, stop_early: bool, stops: bool
) -> None:
    line = ends(search={"sampler": sampler}, budget={"stop_early": stop_early})
    assert line.endswith(", or once no gain is expected") is stops
    assert ("no gain" in line) is stops


def test_one_of_a_thing_is_told_in_the_singular() -> None:
    spec = JobSpec.model_validate({"training": {"epochs": 1}, "budget": {"max_trials": 1, "confirm_runs": 0}})
    points = ({"lr": 0.01, "fc_norm": 2.0},)
    plan = PlanView(spec=spec, notes=(), first_points=points, trials_at_once=1, epochs=1, place=None, reason="room")
    said = "\n".join(plan_lines(plan))
    assert "1 trial at once, each of 1 epoch;" in said
    assert "at most 1 epoch in all" in said
    assert "ends after 1 trial" in said
    assert "1 epochs" not in said
