"""``fixnorm-tune recipes`` and ``submit --recipe NAME --set KEY=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from standin import StandIn, job
from typer.testing import Result

from fixnorm_core.jobfile import load_job_file
from fixnorm_core.recipes import find_recipe, list_recipes
from fixnorm_core.spec import JobSpec
from service.schemas import JobState, RecipeView

CLI = Callable[..., Result]


def submitted(server: StandIn) -> JobSpec:
    (request,) = server.sent("POST", "/api/v1/jobs")
    return JobSpec.model_validate_json(request.body)


def test_recipes_are_listed_without_a_server(server: StandIn, cli: CLI) -> None:
    result = cli("recipes")
    assert result.exit_code == 0
    for recipe in list_recipes():
        assert f"{recipe.name} " in result.stdout
        assert recipe.about in result.stdout
    assert server.requests == []


def test_recipes_as_json_are_the_views_that_the_server_gives(cli: CLI) -> None:
    listed = TypeAdapter(list[RecipeView]).validate_json(cli("recipes", "-o", "json").stdout)
    assert listed == [RecipeView.of(recipe) for recipe in list_recipes()]
    assert RecipeView.model_validate_json(cli("recipes", "digits", "--output", "json").stdout) == listed[0]


@pytest.mark.parametrize("name", [recipe.name for recipe in list_recipes()])
def test_a_printed_recipe_can_be_saved_and_submitted(name: str, server: StandIn, cli: CLI, tmp_path: Path) -> None:
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    file = tmp_path / "saved.yaml"
    file.write_text(cli("recipes", name).stdout, encoding="utf-8")
    assert load_job_file(file) == find_recipe(name).job()
    assert cli("submit", file).exit_code == 0
    assert submitted(server) == find_recipe(name).job()


def test_a_recipe_is_submitted_with_what_is_set_in_it(server: StandIn, cli: CLI) -> None:
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    result = cli(
        "submit", "--recipe", "imagenet-resnet50", "--set", "data.path=/data/imagenet", "--set", "training.epochs=3",
        "--name", "mine",
    )  # fmt: skip
    assert result.exit_code == 0
    sent = submitted(server)
    assert (sent.data.path, sent.training.epochs, sent.name) == ("/data/imagenet", 3, "mine")
    assert sent.model.name == "resnet50"


def test_fields_of_a_job_file_are_set_alike(server: StandIn, cli: CLI, tmp_path: Path) -> None:
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    file = tmp_path / "job.yaml"
    file.write_text("name: digits\nseed: 3\n")
    assert cli("submit", file, "--set", "budget={max_trials: 5, confirm_runs: 1}").exit_code == 0
    assert (submitted(server).budget.max_trials, submitted(server).seed) == (5, 3)


def test_a_job_is_submitted_again_with_a_field_changed(server: StandIn, cli: CLI) -> None:
    spec = JobSpec.model_validate(
        {"name": "mine", "training": {"epochs": 7}, "seed": 3, "webhook": "https://example.org/secret"}
    )
    server.on("GET", "/api/v1/jobs/j1", job(JobState.SUCCEEDED, spec=spec))
    server.on("POST", "/api/v1/jobs", job(JobState.QUEUED))
    assert cli("submit", "--like", "j1", "--set", "seed=4", "--epochs", "9").exit_code == 0
    wanted = {"seed": 4, "webhook": None, "training": spec.training.model_copy(update={"epochs": 9})}
    assert submitted(server) == spec.model_copy(update=wanted)


@pytest.mark.parametrize(
    ("arguments", "rule", "way_out"),
    [
        ([], "nothing says what to tune: neither a job file, nor a recipe, nor an option", "Give a FILE, --recipe"),
        (["job.yaml", "--recipe", "digits"], "both job.yaml and recipe digits are given", "Give one of them"),
        (["job.yaml", "--like", "job-0"], "both job.yaml and --like job-0 are given", "Give one of them"),
        (["--recipe", "digit"], "there is no recipe 'digit'", "Did you mean 'digits'?"),
        (["--recipe", "digits", "--set", "epochs"], "'epochs' has no '='", "Write key.path=value"),
        (
            ["--recipe", "digits", "--set", "training.epoch=2"],
            "training.epoch=2: training.epoch: unknown field 'epoch'; did you mean 'epochs'?",
            "Correct recipe digits, or what is set in it,",
        ),
    ],
)
def test_what_cannot_be_submitted_is_bad_input_with_a_way_out(
    arguments: list[str], rule: str, way_out: str, server: StandIn, cli: CLI
) -> None:
    result = cli("submit", *arguments)
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {rule}")
    assert second.startswith(f"way out: {way_out}")
    assert server.requests == []


def test_a_recipe_to_print_that_is_not_there_is_bad_input_with_the_nearest(cli: CLI) -> None:
    result = cli("recipes", "cifar10-smal")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Did you mean 'cifar10-small'?" in result.stderr


def test_every_recipe_as_json_has_its_figure(cli: CLI) -> None:
    figures = {recipe["name"]: recipe["aims_at"] for recipe in json.loads(cli("recipes", "-o", "json").stdout)}
    assert figures["imagenet-mobilenet-v2-scaled"].startswith("77.4 % top-1, the FixNorm paper")
