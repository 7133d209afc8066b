"""A job as the command line describes it: a file or a recipe, options for some fields, ``--set`` for the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.completion import complete_datasets, complete_models, complete_recipes

if TYPE_CHECKING:
    from fixnorm_core.changes import Change
    from fixnorm_core.spec import JobSpec

__all__ = [
    "BatchSizeOption",
    "CodeOption",
    "DataOption",
    "DatasetOption",
    "EpochsOption",
    "FileArgument",
    "GpusOption",
    "ModelOption",
    "NameOption",
    "ParallelOption",
    "RecipeOption",
    "SeedOption",
    "SetOption",
    "TrialsOption",
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


def describe(
    file: Path | None,
    *,
    recipe: str | None,
    options: dict[str, Any],
    written: Sequence[str],
    code: Path | None = None,
) -> JobSpec:
    """Reads a job.

    Args:
        file: A job file.
        recipe: Or a recipe's name; with neither, what is not given has its default.
        options: Values by the options' names; None was not given.
        written: Further fields, as ``key.path=value``; they come last.
        code: A Python file that goes with it.

    Raises:
        SpecError: Both a file and a recipe are given, or nothing at all; something breaks a rule.
    """
    from fixnorm_core.changes import Change
    from fixnorm_core.errors import SpecError
    from fixnorm_core.jobfile import load_job_file, read_job
    from fixnorm_core.recipes import find_recipe

    changes = [*_changes(options), *map(Change.parse, written)]
    if code is not None:
        changes.append(Change(f"--code {code}", ("code",), _read_code(code)))
    if file is not None and recipe is not None:
        raise SpecError(f"both {file} and recipe {recipe} are given, and one job is submitted", "Give one of them")
    if file is not None:
        return load_job_file(file, changes=changes)
    if recipe is not None:
        return find_recipe(recipe).job(changes=changes)
    if not changes:
        raise SpecError(
            "nothing says what to tune: neither a job file, nor a recipe, nor an option is given",
            "Give a FILE, or --recipe NAME, or options such as --model resnet18 --dataset cifar10 --epochs 30",
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
