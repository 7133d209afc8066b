"""A job as the command line describes it: a file or a recipe, options for some fields, ``--set`` for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.completion import complete_datasets, complete_jobs, complete_models, complete_recipes

if TYPE_CHECKING:
    from fixnorm_core.changes import Change
    from fixnorm_core.spec import JobSpec
    from service.client import Client

__all__ = [
    "Again",
    "BatchSizeOption",
    "CodeOption",
    "DataOption",
    "DatasetOption",
    "EpochsOption",
    "FileArgument",
    "GpusOption",
    "LikeOption",
    "ModelOption",
    "NameOption",
    "ParallelOption",
    "RecipeOption",
    "SeedOption",
    "SetOption",
    "TrialsOption",
    "again",
    "check_one_base",
    "describe",
    "told_of_folders_here",
]

FileArgument = Annotated[Path | None, typer.Argument(metavar="FILE", help="A job file (YAML).")]
RecipeOption = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="A recipe in place of FILE; 'fixnorm-tune recipes' lists them.",
        autocompletion=complete_recipes,
    ),
]
LikeOption = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="ID",
        help="A job of the server in place of FILE: the same again, with its Python file and without its webhook. With "
        "a token it is yours.",
        autocompletion=complete_jobs,
    ),
]
ModelOption = Annotated[
    str | None, typer.Option(help="The network; 'fixnorm-tune models' lists them.", autocompletion=complete_models)
]
DatasetOption = Annotated[
    str | None,
    typer.Option(
        help="The images' data set; 'fixnorm-tune datasets' lists them. 'imagefolder' takes your own with --data.",
        autocompletion=complete_datasets,
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="The folder of images, as the server sees it; ./ and ../ start here."),
]
EpochsOption = Annotated[int | None, typer.Option(help="Epochs of each trial.")]
BatchSizeOption = Annotated[int | None, typer.Option(help="Images of each step.")]
TrialsOption = Annotated[int | None, typer.Option(help="Trials at most, those that confirm the best included.")]
ParallelOption = Annotated[int | None, typer.Option(help="Trials at once.")]
GpusOption = Annotated[float | None, typer.Option(help="GPUs of each trial; a fraction below one shares one.")]
SeedOption = Annotated[int | None, typer.Option(help="The seed of everything that is drawn.")]
NameOption = Annotated[str | None, typer.Option(help="The job's name.")]
CodeOption = Annotated[
    Path | None,
    typer.Option(
        "--code",
        metavar="FILE",
        help="A Python file for --model code:FACTORY or --dataset code:FACTORY, where the server takes one.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any other field, as in training.optimizer.name=adamw; the value is YAML. Can be repeated.",
    ),
]

# Which field of a job file an option stands for
_FIELDS = {
    "name": "name",
    "model": "model.name",
    "dataset": "data.name",
    "data": "data.path",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
    "trials": "budget.max_trials",
    "parallel": "budget.parallel_trials",
    "gpus": "resources.gpus_per_trial",
    "seed": "seed",
}


@dataclass(frozen=True, slots=True)
class Again:
    """A job that has been submitted before.

    Attributes:
        id: Its id.
        text: It as a job file.
        code: The Python file that came with it.
        user: Whose it is to be; None where the server knows by the token that is sent.
    """

    id: str
    text: str
    code: str | None
    user: str | None


def check_one_base(file: Path | None, recipe: str | None, like: str | None) -> None:
    """A job is described by one thing, which options change.

    Raises:
        SpecError: Several of file, recipe and job are given.
    """
    from fixnorm_core.errors import SpecError

    told = {str(file): file, f"recipe {recipe}": recipe, f"--like {like}": like}
    given = [name for name, value in told.items() if value is not None]
    if len(given) > 1:
        both = "both " if len(given) == 2 else ""
        raise SpecError(f"{both}{' and '.join(given)} are given, and one job is submitted", "Give one of them")


def again(client: Client, job_id: str) -> Again:
    """Asks the server for a job that another is to be like.

    Raises:
        NotFoundError: If there is none, or the Python file that it needs was deleted.
    """
    from fixnorm_core.code import is_kept
    from service.cli.connection import has_token
    from service.reporting.recipe import submitted_file

    spec = client.job(job_id).spec
    came_with_code = is_kept(spec.model.name) or is_kept(spec.data.name)
    code = client.code(job_id) if came_with_code else None
    user = None if has_token(client.server) else spec.share.user
    return Again(job_id, submitted_file(spec), code, user)


def describe(
    file: Path | None,
    *,
    recipe: str | None,
    like: Again | None = None,
    options: dict[str, Any],
    written: Sequence[str],
    code: Path | None = None,
) -> JobSpec:
    """Reads a job.

    Args:
        file: A job file.
        recipe: Or a recipe's name.
        like: Or another job; without any of these, what is not given has its default.
        options: Values by the options' names; None was not given.
        written: Further fields, as ``key.path=value``; they come last.
        code: A Python file that goes with it.

    Raises:
        SpecError: Nothing at all is given; something breaks a rule.
    """
    from fixnorm_core.changes import Change
    from fixnorm_core.errors import SpecError
    from fixnorm_core.jobfile import load_job_file, read_job
    from fixnorm_core.recipes import find_recipe

    changes = [*_changes(options), *map(Change.parse, written)]
    if code is not None:
        changes.append(Change(f"--code {code}", ("code",), _read_code(code)))
    if like is not None:
        if like.user is not None:
            changes.insert(0, Change(f"the user of {like.id}", ("share", "user"), like.user))
        if code is None and like.code is not None:
            changes.append(Change(f"the file of {like.id}", ("code",), like.code))
        return read_job(like.text, origin=like.id, folder=Path(), changes=changes)
    if file is not None:
        return load_job_file(file, changes=changes)
    if recipe is not None:
        return find_recipe(recipe).job(changes=changes)
    if not changes:
        raise SpecError(
            "nothing says what to tune: neither a job file, nor a recipe, nor an option is given",
            "Give a FILE, --recipe NAME, --like ID, or options such as --model resnet18 --dataset cifar10 --epochs 30",
        )
    return read_job("{}", origin="the job", folder=Path(), changes=changes)


@contextmanager
def told_of_folders_here(path: str | None, *, file: Path | None) -> Iterator[None]:
    """Where the server has no folder of this relative path, and there is one here, its refusal says how to mean that.

    Args:
        path: The job's ``data.path``.
        file: The job file that it stands in; None where it was given on the command line.
    """
    from service.client import ProblemError

    try:
        yield
    except ProblemError as error:
        if error.code == "missing_data" and path is not None and ((file.parent if file else Path()) / path).is_dir():
            option, place = ("data.path: ", f"beside {file}") if file is not None else ("--data ", "in this directory")
            error.way_out = (
                f"did you mean {option}./{path}? That folder is {place}; without './' a path starts at the server's "
                "data root, FIXNORM_DATA_ROOT"
            )
        raise


def _read_code(path: Path) -> str:
    from fixnorm_core.errors import SpecError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise SpecError(f"the file {path} cannot be sent: {why}", "Give a Python file") from None


def _changes(options: dict[str, Any]) -> list[Change]:
    from fixnorm_core.changes import Change

    return [
        Change(f"--{name.replace('_', '-')} {value}", tuple(_FIELDS[name].split(".")), value)
        for name, value in options.items()
        if value is not None
    ]
