"""Following a job: a live table on a terminal, one line for each event elsewhere, and its result at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from service.cli.failures import JobFailedError
from service.cli.options import ExitCode, Output, command_for
from service.cli.screen import is_live, make_console
from service.cli.snapshot import Snapshot, changes, look, point_in_words
from service.cli.tables import best_block, failure_lines, trials_table
from service.cli.words import ending, time_left
from service.client import Client, ProblemError, ServerUnreachableError, UnexpectedAnswerError
from service.client.steps import patiently
from service.schemas import TERMINAL_STATES, JobState

__all__ = ["follow", "live_view", "watch"]

POLL_SECONDS = 0.5


def follow(client: Client, job_id: str, *, output: Output) -> None:
    """Shows a job's progress until it ends, and then its trials and its result.

    Args:
        client: The connection.
        job_id: The job.
        output: Where ``JSON`` is asked for, progress goes to stderr and the ended job to stdout.

    Raises:
        JobFailedError: The job failed or was cancelled.
        typer.Exit: A person interrupted; the job runs on.
    """
    console = make_console(sys.stderr if output is Output.JSON else None)
    try:
        end = watch(client, job_id, console=console)
    except KeyboardInterrupt:
        again = command_for(f"watch {job_id}", server=client.server)
        typer.echo(f"\njob {job_id} keeps running; watch it again: {again}", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    job = end.job
    if output is Output.JSON:
        typer.echo(job.model_dump_json(indent=2))
    else:
        console.print(trials_table(end.trials))
        if is_live(console):  # elsewhere they were told as they happened
            _write(console, failure_lines(end.trials))
        if job.best:
            console.print()
            console.print(best_block(job, job.best, server=client.server, width=console.width), soft_wrap=True)
    if job.state is not JobState.SUCCEEDED:
        raise JobFailedError(
            f"job {job.id} is {job.state}: {job.reason}",
            f"See its trials with '{command_for(f'trials {job.id}', server=client.server)}'",
        )


def watch(
    client: Client,
    job_id: str,
    *,
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> Snapshot:
    """Shows a job's progress until it ends.

    The first end that is seen is the one: a job that somebody extends after that is watched by another call. One that
    has ended and was extended or retried between two looks is followed on, to its next end.

    A server that stops answering, or a proxy that answers in its place, is tried again for two minutes.

    Args:
        client: The connection.
        job_id: The job.
        console: Where to draw.
        sleep: Waits for so many seconds.

    Returns:
        The ended job with all its trials.

    Raises:
        ServerUnreachableError: The server does not answer at first, or does not come back.
        ProblemError: There is no such job, or the server does not come to itself.
        UnexpectedAnswerError: What answers is not this server, or it does not come back behind its proxy.
    """
    live = Live(console=console, auto_refresh=False, transient=True) if is_live(console) else None
    display: AbstractContextManager[Any] = live or nullcontext()
    before: Snapshot | None = None
    with display, _kept_if_broken_off(live):
        now = look(client, job_id)
        while True:
            if live:
                live.update(live_view(now, console=console), refresh=True)
            else:
                _write(console, changes(before, now))
            if now.job.state in TERMINAL_STATES:
                return now
            before = now
            sleep(POLL_SECONDS)
            now = _look_patiently(client, job_id, console=console, sleep=sleep)


@contextmanager
def _kept_if_broken_off(live: Live | None) -> Iterator[None]:
    """At the job's end its result takes the picture's place; where none comes, the last picture stays."""
    try:
        yield
    except BaseException:  # Ctrl-C too
        if live is not None:
            live.transient = False
        raise


def live_view(now: Snapshot, *, console: Console) -> RenderableType:
    """The picture of a running job that fits on a screen.

    Args:
        now: What to draw.
        console: The screen; the oldest trials that do not fit on it are left out.
    """
    job, progress = now.job, now.job.progress
    head = Text(f"job {job.id} ({job.name}) {job.state}: {job.reason}")
    best = "no finished trial yet"
    if job.best:
        best = f"best so far {point_in_words(job.best)}"
    foot = [
        Text(f"{progress.finished} of {progress.max_trials} trials; {best}", style="bold"),
        Text(time_left(job, now.trials)),
        Text(f"ends after {ending(job.spec)}", no_wrap=True, overflow="ellipsis"),
    ]
    if job.former:
        foot.append(Text(f"had ended before, with {point_in_words(job.former)}, and goes on in another round"))
    if job.stop_reason and not job.ended_at:
        foot.append(Text(f"the search is over: {job.stop_reason}"))
    taken = len(console.render_lines(Group(head, *foot), pad=False)) + _LINES_AROUND_TRIALS
    room = max(3, console.height - taken)
    left_out = len(now.trials) - room
    if left_out > 0:
        foot.insert(0, Text(f"({left_out} earlier trials are not shown)"))
    return Group(head, trials_table(now.trials[-room:]), *foot)


_LINES_AROUND_TRIALS = 4
"""The table's head, what says that trials are left out, and one where the cursor stands."""


def _look_patiently(client: Client, job_id: str, *, console: Console, sleep: Callable[[float], None]) -> Snapshot:
    patience, is_gone = patiently(reached=True), False
    while True:
        try:
            now = look(client, job_id)
        except (ServerUnreachableError, ProblemError, UnexpectedAnswerError) as error:
            pause = patience.again(error)
            if not is_gone:
                _write(console, [f"{error.rule}; the job is safe, trying again for two minutes"])
            is_gone = True
            sleep(pause.seconds)
        else:
            if is_gone:
                _write(console, ["the server answers again"])
            return now


def _write(console: Console, lines: list[str]) -> None:
    for line in lines:
        console.print(Text(line))
    # A pipe's reader is to see an event when it happens.
    console.file.flush()
