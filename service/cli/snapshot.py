"""One look at a job and its trials, and what changed between two looks."""

from __future__ import annotations

from dataclasses import dataclass

from service.cli.words import knobs, percent
from service.client import Client
from service.schemas import BestView, JobView, TrialState, TrialView

__all__ = ["Snapshot", "changes", "look", "point_in_words"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A job and its trials; the trials are at least as new as the job."""

    job: JobView
    trials: tuple[TrialView, ...]


def look(client: Client, job_id: str) -> Snapshot:
    """Reads a job and then its trials, so that an ended job comes with all its results."""
    job = client.job(job_id)
    return Snapshot(job=job, trials=tuple(client.trials(job_id)))


def changes(before: Snapshot | None, after: Snapshot) -> list[str]:
    """One line for each thing that happened, in the order in which it did: a trial started or ended, the search ended,
    the job's state or what it waits for changed.

    Args:
        before: The look before; None makes everything in ``after`` news.
        after: This look.
    """
    lines = []
    known = {trial.number: trial for trial in before.trials} if before else {}
    for trial in after.trials:
        earlier = known.get(trial.number)
        if _has_started(trial, after.job) and not (earlier and _has_started(earlier, after.job)):
            lines.append(f"trial {trial.number} started ({trial.kind}): {knobs(trial.params)}")
        if _has_ended(trial) and not (earlier and _has_ended(earlier)):
            lines.append(f"trial {trial.number} {_ending(trial)}")
    job = after.job
    if before and job.former and job.former != before.job.former and not before.job.ended_at:
        found = point_in_words(job.former)
        lines.append(f"job {job.id} had ended meanwhile, with {found}, and goes on in another round")
    if job.stop_reason and not job.ended_at and not (before and before.job.stop_reason):
        confirming = (place for place, line in enumerate(lines) if "started (confirm)" in line)
        lines.insert(next(confirming, len(lines)), f"the search is over: {job.stop_reason}")
    is_new_state = before is None or before.job.state != job.state
    if is_new_state or (before and _waits_for_something_else(before, after)):
        line = f"job {job.id} is {job.state}{f': {job.reason}' if job.reason else ''}"
        # A state comes before the trials that it brings. The job's end, and what it waits for once no trial runs, come
        # after them.
        lines.insert(0 if is_new_state and not job.ended_at else len(lines), line)
    return lines


def point_in_words(best: BestView) -> str:
    """A point with its accuracy, in one line."""
    return f"{percent(best.validation_accuracy)} at {knobs(best.params)}"


def _has_started(trial: TrialView, job: JobView) -> bool:
    """A trial may be seen while its point is still being written, knob by knob."""
    return _has_ended(trial) or job.spec.search.space.keys() <= trial.params.keys()


def _has_ended(trial: TrialView) -> bool:
    return trial.state is not TrialState.RUNNING


def _waits_for_something_else(before: Snapshot, after: Snapshot) -> bool:
    """Whether the job's reason is news; while trials run, it only counts them."""
    return before.job.reason != after.job.reason and all(map(_has_ended, after.trials))


def _ending(trial: TrialView) -> str:
    if trial.state is TrialState.COMPLETE:
        return f"finished: {percent(trial.validation_accuracy)} validation accuracy"
    if trial.state is TrialState.DIVERGED:
        return f"diverged after {len(trial.curve)} of {trial.epochs} epochs"
    if trial.state is TrialState.PRUNED:
        return f"stopped early after {len(trial.curve)} of {trial.epochs} epochs: {trial.reason}"
    return f"{trial.state.lower()}: {trial.reason}" if trial.reason else trial.state.lower()
