"""What the documentation shows is true."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import optuna
import pytest
import yaml
from shown import blocks

from fixnorm_core.changes import Change
from fixnorm_core.jobfile import load_job_file
from fixnorm_core.recipes import find_recipe, list_recipes
from fixnorm_core.spec import JobSpec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def test_the_quickstarts_job_file_shows_every_field_with_its_default() -> None:
    (shown,) = blocks(ROOT / "docs/quickstart.md", "yaml")
    assert JobSpec.model_validate(yaml.safe_load(shown)) == JobSpec()

    def fields(tree: object) -> object:
        return {name: fields(value) for name, value in tree.items()} if isinstance(tree, dict) else None

    defaults = JobSpec().model_dump(mode="json")
    for knob in defaults["search"]["space"]:
        defaults["search"]["space"][knob] = [1, 2]
    assert fields(yaml.safe_load(shown)) == fields(defaults)


def test_the_readmes_job_file_is_a_job(tmp_path: Path) -> None:
    (shown,) = blocks(ROOT / "README.md", "yaml")
    path = tmp_path / "my-job.yaml"
    path.write_text(shown, encoding="utf-8")
    assert load_job_file(path).data.path == str(tmp_path / "flowers")


def test_the_recipes_page_shows_every_recipe_with_the_figure_it_aims_at() -> None:
    rows = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (.*)$", (ROOT / "docs/recipes.md").read_text("utf-8"), flags=re.M))
    assert list(rows) == [recipe.name for recipe in list_recipes()]
    for recipe in list_recipes():
        (figure,) = re.findall(r"\d\d\.\d+ %", recipe.aims_at)[:1]
        assert figure in rows[recipe.name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_submission_of_a_recipe_that_is_shown_is_a_job(page: Path) -> None:
    for line in re.findall(r"^fixnorm-tune (submit --recipe .*?)(?: +#.*)?$", page.read_text("utf-8"), flags=re.M):
        words = shlex.split(line)
        changes = [Change.parse(after) for word, after in pairwise(words) if word == "--set"]
        assert isinstance(find_recipe(words[2]).job(changes=changes), JobSpec)


def test_the_quickstarts_sampler_loop_runs_and_stops_by_itself(capsys: pytest.CaptureFixture[str]) -> None:
    (loop,) = [block for block in blocks(ROOT / "docs/quickstart.md", "python") if "stop_reason" in block]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names: dict[str, object] = {"train": lambda lr, fc_norm: 0.9 - abs(lr - 0.01) - 0.001 * fc_norm}
    exec(loop, names)
    study = names["study"]
    assert isinstance(study, optuna.Study)
    assert 0.8 < study.best_value < 0.9


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target
