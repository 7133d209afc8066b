"""Every recipe is a job that says what it is for, and the figures it aims at are those of their sources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import fixnorm_core.recipes
from fixnorm_core.changes import Change
from fixnorm_core.data.catalog import facts_of
from fixnorm_core.errors import SpecError
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.models.catalog import check_model
from fixnorm_core.recipes import Recipe, find_recipe, list_recipes
from fixnorm_core.tuning.choice import default_start

RECIPES = list_recipes()
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def test_all_files_of_the_folder_are_listed_and_the_issues_six_are_there() -> None:
    files = Path(fixnorm_core.recipes.__file__).parent.glob("*.yaml")
    assert sorted(recipe.name for recipe in RECIPES) == sorted(file.stem for file in files)
    assert [recipe.name for recipe in RECIPES] == [
        "digits",
        "cifar10-small",
        "cifar10-resnet18",
        "imagenet-resnet50",
        "imagenet-efficientnet-b0",
        "imagenet-mobilenet-v2-scaled",
    ]


@every_recipe
def test_a_recipe_is_a_job_of_its_name_with_a_model_and_images_that_exist(recipe: Recipe) -> None:
    job = recipe.job()
    assert job.name == recipe.name
    check_model(job.model)
    facts_of(job.data.name)


@every_recipe
def test_a_recipe_says_what_it_is_for_and_the_figure_it_aims_at_with_its_source(recipe: Recipe) -> None:
    assert recipe.text.startswith("# For: ")
    assert len(recipe.about) <= 100
    assert re.search(r"\d\d\.\d+ %", recipe.aims_at)
    assert re.search(r"arXiv \d{4}\.\d{5}|torchvision|scikit-learn", recipe.aims_at)
    assert recipe.images
    assert recipe.hardware


@every_recipe
def test_a_recipe_begins_at_the_methods_own_first_point(recipe: Recipe) -> None:
    job = recipe.job()
    assert (job.search.start, job.search.start_from) == (None, None)
    assert default_start(job.search, training=job.training) == pytest.approx({"lr": 0.016, "fc_norm": 4.0})


@every_recipe
def test_a_printed_recipe_saved_as_a_job_file_is_the_same_job(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "my-job.yaml"
    file.write_text(recipe.text, encoding="utf-8")
    assert load_job_file(file) == recipe.job()


def test_the_figures_are_those_of_the_papers_and_of_torchvision() -> None:
    from fixnorm_core.vision import torchvision

    weights = torchvision.models.ResNet50_Weights.IMAGENET1K_V1
    assert weights.meta["_metrics"]["ImageNet-1K"]["acc@1"] == 76.13
    figures = {recipe.name: recipe.aims_at.split(" %")[0] for recipe in RECIPES}
    assert figures["imagenet-resnet50"] == "76.13"
    assert figures["imagenet-efficientnet-b0"] == "77.7"
    assert figures["imagenet-mobilenet-v2-scaled"] == "77.4"
    assert figures["cifar10-resnet18"] == f"{100 - 4.72:.2f}"


def test_the_two_networks_of_the_paper_are_trained_alike() -> None:
    one, other = (find_recipe(f"imagenet-{name}").job() for name in ("efficientnet-b0", "mobilenet-v2-scaled"))
    assert (one.data, one.training, one.search) == (other.data, other.training, other.search)
    tricks = one.training
    assert (tricks.label_smoothing, tricks.ema_decay, tricks.randaugment is not None) == (0.1, 0.9999, True)
    for job in (one, other):
        assert {"dropout": 0.2, "stochastic_depth_prob": 0.2}.items() <= job.model.options.items()


@pytest.mark.parametrize("recipe", [each for each in RECIPES if "imagenet" in each.name], ids=lambda each: each.name)
def test_imagenet_is_trained_on_random_resized_crops_and_fills_the_trials_cpus(recipe: Recipe) -> None:
    job = recipe.job()
    assert (job.data.crop, job.data.loader_workers) == ("random_resized", None)
    assert (job.resources.cpus_per_trial, job.resources.gpus_per_trial) == (8, 1)


def test_a_recipe_with_changes_is_another_job() -> None:
    changes = [Change.parse("data.path=/data/imagenet"), Change.parse("training.epochs=100")]
    job = find_recipe("imagenet-resnet50").job(changes=changes)
    assert (job.data.path, job.training.epochs) == ("/data/imagenet", 100)
    assert find_recipe("imagenet-resnet50").job().training.epochs == 90


def test_a_rule_that_a_change_breaks_names_the_recipe_and_the_change() -> None:
    with pytest.raises(SpecError) as caught:
        find_recipe("digits").job(changes=[Change.parse("training.epoch=3")])
    assert caught.value.rule == "training.epoch=3: training.epoch: unknown field 'epoch'; did you mean 'epochs'?"
    assert "recipe digits" in caught.value.way_out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("imagenet-resnet-50", ["'imagenet-resnet-50'", "Did you mean 'imagenet-resnet50'?"]),
        ("../digits", ["'../digits'", "'digits'"]),
        ("zzz", ["'zzz'", "The recipes are digits, cifar10-small,"]),
    ],
)
def test_a_recipe_that_is_not_there_is_refused_with_the_nearest(name: str, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        find_recipe(name)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("entry", ["For", "Images", "Hardware", "Aims at"])
def test_a_header_without_one_of_its_entries_is_refused(entry: str) -> None:
    text = "".join(line for line in RECIPES[0].text.splitlines(keepends=True) if not line.startswith(f"# {entry}:"))
    assert yaml.safe_load(text)
    with pytest.raises(SpecError, match=rf"no entry '{entry}'"):
        Recipe.parse("digits", text)
