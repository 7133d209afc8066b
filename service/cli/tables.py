"""Tables and blocks, as rich renderables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from urllib.parse import urlsplit

from rich import box
from rich.table import Table
from rich.text import Text

from service.access.schemas import TokenView
from service.cli.words import counted, knobs, limits, local_time, number, percent, sparkline
from service.nodes.schemas import NodeView
from service.queue.schemas import Amount, QueueView
from service.retention.policy import Pruned
from service.schemas import BestView, DatasetView, JobState, JobView, ModelView, RecipeView, TrialState, TrialView

__all__ = [
    "best_block",
    "datasets_table",
    "failure_lines",
    "hanging",
    "job_block",
    "jobs_table",
    "models_table",
    "node_lines",
    "plain_table",
    "pruned_table",
    "queue_reasons",
    "queue_table",
    "queue_title",
    "recipes_table",
    "tokens_table",
    "trials_table",
]

_ROOM_FOR_REASONS = 100
_ROOM_FOR_SHARES = 110
_ROOM_FOR_QUEUE = 160
_ROOM_FOR_TIMES = 110
"""Columns of a terminal that a table needs to have these in it."""

_STYLES = {
    TrialState.COMPLETE: "green",
    TrialState.DIVERGED: "yellow",
    TrialState.PRUNED: "blue",
    TrialState.FAILED: "red",
    TrialState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.RUNNING: "cyan",
}


def trials_table(trials: Sequence[TrialView]) -> Table:
    """One row for each trial; curves share one scale, so that they can be compared."""
    names = list(dict.fromkeys(name for trial in trials for name in trial.params)) or ["lr", "fc_norm"]
    values = [value for trial in trials for value in trial.curve]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    table = plain_table("trial", "kind", *names, "epoch", "accuracy", "curve", "time", "state")
    for trial in trials:
        accuracy = trial.validation_accuracy
        if accuracy is None and trial.curve:
            accuracy = trial.curve[-1]
        table.add_row(
            str(trial.number),
            trial.kind,
            *(number(trial.params[name]) if name in trial.params else "-" for name in names),
            f"{len(trial.curve)}/{trial.epochs}",
            percent(accuracy),
            sparkline(trial.curve, low=low, high=high),
            "-" if trial.seconds is None else f"{trial.seconds:.1f} s",
            _state(trial.state),
        )
    for column in table.columns:
        column.justify = "left" if column.header in {"kind", "curve", "state"} else "right"
    return table


def failure_lines(trials: Sequence[TrialView]) -> list[str]:
    """Why trials failed or were stopped early, one line each."""
    return [f"trial {trial.number} {trial.state.lower()}: {trial.reason}" for trial in trials if trial.reason]


def jobs_table(jobs: Sequence[JobView], *, width: int) -> Table:
    """One row for each job; users are named where a job has one.

    In few columns without the reasons, which `show` tells, and with the users in place of the times.
    """
    is_wide = width >= _ROOM_FOR_REASONS
    users = any(job.user is not None for job in jobs)
    times = is_wide or not users
    columns = ["user"] * users, ["submitted"] * times, ["reason"] * is_wide
    table = plain_table("id", "name", *columns[0], "state", "trials", "best", *columns[1], *columns[2])
    for job in jobs:
        table.add_row(
            job.id,
            job.name,
            *([job.user or "-"] * users),
            _state(job.state),
            f"{job.progress.finished}/{job.progress.max_trials}",
            percent(job.best.validation_accuracy) if job.best else "-",
            *([local_time(job.created_at)] * times),
            *([job.reason] * is_wide),
        )
    return table


def queue_title(queue: QueueView) -> str:
    """What there is and what of it is held, in one line."""
    parts = [
        f"{number(held)} of {number(total)} {what}"
        for what, held, total in (
            ("GPUs", queue.held.gpus, queue.capacity.gpus),
            ("CPUs", queue.held.cpus, queue.capacity.cpus),
        )
        if total > 0
    ]
    waiting = sum(entry.place is not None for entry in queue.jobs)
    jobs = "1 job waits" if waiting == 1 else f"{waiting or 'no'} jobs wait"
    return f"trials hold {' and '.join(parts) or 'nothing'}; {jobs} for room"


def queue_table(queue: QueueView, *, width: int) -> Table:
    """One row for each job that has not ended, those that wait in their order first.

    In few columns without the reasons, which :func:`queue_reasons` tells then, and without what a job's share is.
    """
    with_gpus = queue.capacity.gpus > 0
    shares = ["weight", "priority"] if width >= _ROOM_FOR_SHARES else []
    rest = ["waits since", "reason"] if width >= _ROOM_FOR_QUEUE else []
    table = plain_table("place", "id", "name", "state", "user", *shares, "holds", "a trial needs", *rest)
    for entry in queue.jobs:
        table.add_row(
            "-" if entry.place is None else str(entry.place),
            entry.id,
            entry.name,
            _state(entry.state),
            entry.user or "-",
            *((number(entry.weight), str(entry.priority)) if shares else ()),
            _amount(entry.held, with_gpus=with_gpus),
            _amount(entry.needed, with_gpus=with_gpus),
            *((local_time(entry.waiting_since), entry.reason) if rest else ()),
        )
    return table


def queue_reasons(queue: QueueView, *, width: int) -> list[Text]:
    """Why each job is where it is, a line each, where the table has no room for it."""
    if width >= _ROOM_FOR_QUEUE:
        return []
    return [Text(f"{entry.id}: {entry.reason}") for entry in queue.jobs]


def tokens_table(tokens: Sequence[TokenView], *, width: int) -> Table:
    """One row for each token, oldest first; in few columns with what of its times matters now."""
    if width < _ROOM_FOR_TIMES:
        table = plain_table("id", "name", "scope", "last used", "good")
        for token in tokens:
            table.add_row(token.id, token.name, token.scope, local_time(token.last_used_at), _good(token))
        return table
    table = plain_table("id", "name", "scope", "created", "expires", "last used", "revoked")
    for token in tokens:
        times = (token.created_at, token.expires_at, token.last_used_at, token.revoked_at)
        table.add_row(token.id, token.name, token.scope, *map(local_time, times))
    return table


def models_table(models: Sequence[ModelView]) -> Table:
    """One row for each model."""
    table = plain_table("name", "search.method", "options")
    for model in models:
        table.add_row(model.name, " or ".join(model.methods), ", ".join(model.options) or "-")
    return table


def datasets_table(datasets: Sequence[DatasetView]) -> Table:
    """One row for each data set."""
    table = plain_table("name", "about")
    for dataset in datasets:
        table.add_row(dataset.name, dataset.about)
    return table


def recipes_table(recipes: Sequence[RecipeView]) -> Table:
    """One row for each recipe."""
    table = plain_table("name", "about", "hardware")
    table.columns[0].no_wrap = True  # it is to be typed
    for recipe in recipes:
        table.add_row(recipe.name, recipe.about, recipe.hardware)
    return table


def job_block(job: JobView, *, server: str, width: int) -> Text:
    """What a job is and where it stands, in so many columns."""
    spec = job.spec
    rows = {
        **({"user": job.user} if job.user is not None else {}),
        "state": f"{job.state}{f': {job.reason}' if job.reason else ''}",
        "trials": f"{job.progress.finished} of {job.progress.max_trials} finished, {job.progress.running} running, "
        f"{job.progress.failed} failed",
        "model": f"{spec.model.name} on {spec.data.name}, {counted(spec.training.epochs, 'epoch')}",
        "search": f"{spec.search.method} by {spec.search.sampler}: "
        + ", ".join(f"{knob} in [{number(r.low)}, {number(r.high)}]" for knob, r in spec.search.space.items()),
        **({"warm start": "; ".join(job.notes)} if job.notes else {}),
        "limits": limits(spec.budget),
        "submitted": local_time(job.created_at),
        "started": local_time(job.started_at),
        **({"reopened": local_time(job.reopened_at)} if job.reopened_at is not None else {}),
        "ended": local_time(job.ended_at),
    }
    if job.stop_reason and job.stop_reason != job.reason:
        rows["search ended"] = job.stop_reason
    if job.best:
        rows["best so far" if job.ended_at is None else "best"] = (
            f"{percent(job.best.validation_accuracy)} at {knobs(job.best.params)}"
        )
    if job.former:
        before = f"{percent(job.former.validation_accuracy)} at {knobs(job.former.params)}"
        rows["result before"] = f"{before}; its weights and report stay until the job ends again"
    if job.webhook:
        at = job.webhook.delivered_at or job.webhook.next_try_at
        rows["webhook"] = f"{job.webhook.outcome}{f' ({local_time(at)})' if at else ''}"
    if job.dashboard:
        rows["dashboard"] = server + job.dashboard
    return _block(f"Job {job.id} ({job.name})", rows, width=width)


def best_block(job: JobView, best: BestView, *, server: str, width: int) -> Text:
    """The result: the point, how good it is, what it cost, and where everything lies; in so many columns."""
    rows = {name: number(value) for name, value in best.params.items()}
    rows["validation accuracy"] = f"{percent(best.validation_accuracy)} ± {percent(best.standard_error)} ({best.basis})"
    if best.disagreement:
        rows["runs disagree"] = best.disagreement
    if best.rivalry:
        rows["runner-up"] = best.rivalry
    if best.test:
        rows["test accuracy"] = f"{percent(best.test.accuracy)} ({best.tested_on})"
    ended = best.stop_reason or job.stop_reason or job.reason
    rows["trials used"] = f"{job.progress.finished} of {job.progress.max_trials}{f': {ended}' if ended else ''}"
    if best.epochs_saved:
        stopped = "1 trial" if job.progress.pruned == 1 else f"{job.progress.pruned} trials"
        rows["epochs saved"] = f"{best.epochs_saved}, {stopped} stopped early"
    if weights := _place(best.weights, best.weights_url, server=server):
        rows["weights"] = weights
    if best.report:
        rows["report"] = _place(best.report, f"/api/v1/jobs/{job.id}/report", server=server)
    if job.dashboard:
        rows["dashboard"] = server + job.dashboard
    when = "Best point" if job.ended_at else "Best point so far"
    return _block(f"{when} of job {job.id} ({job.name})", rows, width=width)


def pruned_table(found: Sequence[Pruned]) -> Table:
    """What was removed of ended jobs, or would be, and how much that is together."""
    table = plain_table("job", "what", "files", "MiB")
    for each in found:
        table.add_row(each.job, each.what, str(each.files), f"{each.bytes / 2**20:.1f}")
    table.add_section()
    total = sum(each.bytes for each in found) / 2**20
    table.add_row("together", "", str(sum(each.files for each in found)), f"{total:.1f}")
    return table


def node_lines(nodes: Sequence[NodeView]) -> list[Text]:
    """A line for each node that is not simply in use."""
    return [Text(f"node {each.reason}", style="yellow") for each in nodes if each.reason]


def plain_table(*columns: str) -> Table:
    """With two blanks between columns; where it is too wide, text is folded before anything is cut off."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for column in columns:
        folds = column in {"name", "most often taken for", "user", "reason", "options", "about", "hardware"}
        table.add_column(column, no_wrap=not folds, overflow="fold")
    return table


def _amount(amount: Amount, *, with_gpus: bool) -> str:
    gpus = f"{number(amount.gpus)} GPU, " if with_gpus else ""
    return f"{gpus}{number(amount.cpus)} CPU"


def _good(token: TokenView) -> str:
    if token.revoked_at is not None:
        return f"revoked {local_time(token.revoked_at)}"
    return "for ever" if token.expires_at is None else f"until {local_time(token.expires_at)}"


def _state(state: JobState | TrialState) -> Text:
    return Text(state.value, style=_STYLES.get(state, ""))


def _block(title: str, rows: dict[str, str], *, width: int) -> Text:
    """Names and values below a title; what does not fit goes on below its value. Paths and addresses stay whole."""
    margin = max(map(len, rows)) + 4
    lines = [title]
    for name, value in rows.items():
        lines.append(hanging(f"{f'  {name}':<{margin}}", value, width=width))
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


def hanging(head: str, text: str, *, width: int) -> str:
    """A line that goes on below where its text begins when it is wider than so many columns; no word is cut."""
    if len(head) + len(text) <= width:
        return head + text
    room = max(20, width - len(head))
    parts = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return head + f"\n{'':{len(head)}}".join(parts)


def _place(path: str | None, url: str | None, *, server: str) -> str:
    """A path on this machine; an address when the server is another machine."""
    is_here = urlsplit(server).hostname in {"127.0.0.1", "::1", "localhost"}
    if url and not is_here:
        return url if "://" in url else server + url
    return path or ""
