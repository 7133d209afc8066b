"""``fixnorm-tune doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from service.cli.options import DEFAULT_SERVER, ExitCode, Output, OutputOption, ServerOption
from service.cli.serve import StateDirOption

if TYPE_CHECKING:
    from rich.text import Text

    from service.doctor import Finding
    from service.nodes.schemas import NodeView

__all__ = ["register"]

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red"}


def register(app: typer.Typer) -> None:
    """Adds the command to ``app``."""
    app.command(epilog="Example: fixnorm-tune doctor -o json")(doctor)


def doctor(
    output: OutputOption = Output.TABLE, server: ServerOption = DEFAULT_SERVER, state_dir: StateDirOption = None
) -> None:
    """Look at what a server needs on this machine, whether one answers, and what to do about what is missing.

    Exit status 1 if something is a problem.
    """
    from service.cli.screen import make_console, write_json
    from service.doctor import Condition, Finding, examine

    found = [*examine(state_dir=state_dir), *_answer(server)]
    if output is Output.JSON:
        write_json(found, list[Finding])
    else:
        console = make_console()
        for each in found:
            console.print(_line(each, width=console.width), soft_wrap=True)
    if any(each.condition is Condition.PROBLEM for each in found):
        raise typer.Exit(ExitCode.UNWELL)


def _line(finding: Finding, *, width: int) -> Text:
    from rich.text import Text

    from service.cli.tables import hanging

    line = Text(hanging(f"{finding.condition:<8} {finding.what:<10} ", finding.says, width=width))
    line.stylize(_STYLES[finding.condition], 0, len(finding.condition))
    way_out = "\n" + hanging(f"{'':20}", finding.way_out, width=width)
    return line.append(way_out, style="bold") if finding.way_out else line


def _answer(server: str) -> list[Finding]:
    """Whether a server answers is no problem either way: it may not have been started yet."""
    from service.cli.connection import connect
    from service.client import ProblemError, ServerUnreachableError, UnexpectedAnswerError, WrongSchemeError
    from service.doctor import Condition, Finding

    try:
        with connect(server) as client:
            health = client.health()
            nodes: Sequence[NodeView] = ()
            with suppress(ProblemError):  # its database may be away
                nodes = client.queue().nodes
    except WrongSchemeError as error:
        return [Finding("server", Condition.WARNING, error.rule, error.way_out)]
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
        _its_dashboard(server),
        *(Finding("node", Condition.WARNING, each.reason, _RELEASE.format(each.name)) for each in unwell),
    ]


def _its_dashboard(server: str) -> Finding:
    import httpx

    from service.cli.connection import page
    from service.doctor import Condition, Finding

    address = f"{server.rstrip('/')}/dashboard"
    try:
        answer = page(server, "/dashboard")
    except httpx.HTTPError as error:
        return Finding("/dashboard", Condition.PROBLEM, f"{address}: {error}", _SERVER_LOG)
    if answer.is_success and "Optuna Dashboard" in answer.text:
        return Finding("/dashboard", Condition.OK, f"{address} shows the studies")
    if answer.status_code in (401, 403) or answer.url.path == "/login":
        way_out = "Run 'fixnorm-tune login', or give --token; in a browser, log in at /login"
        return Finding("/dashboard", Condition.WARNING, f"{address} is for those who have a token", way_out)
    says = f"{address} answers {answer.status_code} and is not Optuna's dashboard"
    return Finding("/dashboard", Condition.PROBLEM, says, _SERVER_LOG)


_SERVER_LOG = "The server's log says why; /dashboard must reach it whole, through a proxy too"
_RELEASE = "Look at that machine; 'fixnorm-tune release {}' takes it into use again"
