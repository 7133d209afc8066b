"""What holds for every command, however many there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from command_tree import EXAMPLES, LEAVES
from typer.testing import Result

from service.cli.options import Output

WITHOUT_OUTPUT = {
    "serve": "runs until it is stopped; --url-file tells a script its address",
    "logs": "the text that a trial has written, as it comes",
    "summary": "JSON always: a file that search.warm_start takes",
}
"""Commands without ``--output``, and why; ``docs/reference/cli.md`` says so too."""

WITHOUT_SHORT_FORM = {"report": "-o is the file that it is written to"}


def option(command: Any, name: str) -> Any:
    return next((each for each in command.params if name in each.opts), None)


def test_there_are_all_of_them() -> None:
    assert len(LEAVES) == 32


@pytest.mark.parametrize("name", sorted(LEAVES.keys() - WITHOUT_OUTPUT.keys()))
def test_every_command_answers_people_and_programs(name: str) -> None:
    output = option(LEAVES[name], "--output")
    assert output is not None, "it has no --output, and is no exception"
    assert output.default is Output.TABLE  # and so one of its forms: table or json
    assert ("-o" in output.opts) is (name not in WITHOUT_SHORT_FORM)


@pytest.mark.parametrize("name", sorted(WITHOUT_OUTPUT))
def test_an_exception_is_one(name: str) -> None:
    assert option(LEAVES[name], "--output") is None


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_every_help_ends_with_an_example_of_the_command(cli: Callable[..., Result], name: str) -> None:
    result = cli(*name.split(), "--help")
    assert result.exit_code == 0
    example = " ".join(result.stdout.partition("  Example: ")[2].split())
    assert example == EXAMPLES[name].removeprefix("Example: ")
    assert f"fixnorm-tune {name}" in example
