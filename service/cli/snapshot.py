"""One look at a job and its trials, and what changed between two looks."""

from __future__ import annotations

from dataclasses import dataclass

from service.cli.words import knobs, percent
from service.client import Client
from service.schemas import JobView, TrialState, TrialView

__all__ = ["Snapshot", "changes", "look"]


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
    """One line for each thing that happened: a trial started or ended, the job's state or reason changed.

    Args:
        before: The look before; None makes everything in ``after`` news.
        after: This look.
    """
    lines = []
    known = {trial.number: trial for trial in before.trials} if before else {}
    for trial in after.trials:
        earlier = known.get(trial.number)
        if earlier is None:
            lines.append(f"trial {trial.number} started ({trial.kind}): {knobs(trial.params)}")
        if trial.state is not TrialState.RUNNING and (earlier is None or earlier.state is TrialState.RUNNING):
            lines.append(f"trial {trial.number} {_ending(trial)}")
    job = after.job
    if before is None or (before.job.state, before.job.reason) != (job.state, job.reason):
        line = f"job {job.id} is {job.state}{f': {job.reason}' if job.reason else ''}"
        # The job's end is the last news; any other state comes before the trials that it brings.
        lines.insert(len(lines) if job.ended_at else 0, line)
    return lines


def _ending(trial: TrialView) -> str:
    if trial.state is TrialState.COMPLETE:
        return f"finished: {percent(trial.validation_accuracy)} validation accuracy"
    if trial.state is TrialState.DIVERGED:
        return f"diverged after {len(trial.curve)} of {trial.epochs} epochs"
    return f"{trial.state.lower()}: {trial.reason}" if trial.reason else trial.state.lower()
