"""``fixnorm-tune doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from service.cli.options import DEFAULT_SERVER, ExitCode, Output, OutputOption, ServerOption

if TYPE_CHECKING:
    from rich.text import Text

    from service.doctor import Finding
    from service.nodes.schemas import NodeView

__all__ = ["register"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune doctor -o json")(doctor)


def doctor(output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER) -> None:
    """Look at what a server needs on this machine, whether one answers, and what to do about what is missing.

    Exit status 1 if something is a problem.
    """
    from service.cli.screen import make_console, write_json
    from service.doctor import Condition, Finding, examine

    found = [*examine(), *_answer(server)]
    if output is Output.JSON:
        write_json(found, list[Finding])
    else:
        console = make_console()
        for each in found:
            console.print(_line(each), soft_wrap=True)
    if any(each.condition is Condition.PROBLEM for each in found):
        raise typer.Exit(ExitCode.UNWELL)


def _line(finding: Finding) -> Text:
    from rich.text import Text

    line = Text.assemble((f"{finding.condition:<8}", _STYLES[finding.condition]), f" {finding.what:<10} {finding.says}")
    return line.append(f"\n{'':20}{finding.way_out}", style="bold") if finding.way_out else line


def _answer(server: str) -> list[Finding]:
    """Whether a server answers is no problem either way: it may not have been started yet."""
    from service.cli.connection import connect
    from service.client import ProblemError, ServerUnreachableError, UnexpectedAnswerError
    from service.doctor import Condition, Finding

    try:
        with connect(server) as client:
            health = client.health()
            nodes: Sequence[NodeView] = ()
            with suppress(ProblemError):  # its database may be away
                nodes = client.queue().nodes
    except ServerUnreachableError:
        return [Finding("server", Condition.OK, f"none answers at {server}", "'fixnorm-tune serve' starts one")]
    except UnexpectedAnswerError as error:
        way_out = "Something else listens there: give --server, or 'serve' another --port"
        return [Finding("server", Condition.WARNING, error.rule, way_out)]
    duty = "runs jobs" if health.dispatching else "stands by for another that runs jobs"
    says = f"fixnorm-tune {health.version} answers at {server} and {duty}"
    unwell = [each for each in nodes if each.reason]
    return [
        Finding("server", Condition.OK, says),
        *(Finding("node", Condition.WARNING, each.reason, _RELEASE.format(each.name)) for each in unwell),
    ]


_RELEASE = "Look at that machine; 'fixnorm-tune release {}' takes it into use again"
