"""What a job tried and why it stopped, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from service.reporting.rows import counted
from service.schemas import JobState, JobView, TrialState, TrialView

__all__ = ["what_was_tried", "why_it_stopped"]

_BEGINNINGS = {
    JobState.QUEUED: "It has not begun",
    JobState.RUNNING: "It goes on",
    JobState.PAUSED: "It is paused",
    JobState.STOPPING: "It is being stopped",
    JobState.SUCCEEDED: "It stopped",
    JobState.FAILED: "It failed",
    JobState.CANCELLED: "It was cancelled",
}

_KINDS = (
    (TrialState.DIVERGED, "diverged"),
    (TrialState.PRUNED, "stopped early"),
    (TrialState.FAILED, "failed"),
    (TrialState.CANCELLED, "cut off before the end"),
    (TrialState.RUNNING, "still running"),
)


def what_was_tried(job: JobView, trials: Sequence[TrialView]) -> str:
    """The trials in one or two sentences: how many of which kind, of what, and how they went."""
    spec = job.spec
    what = f"{spec.model.name} on {spec.data.name}, {counted(spec.training.epochs, 'epoch')} each"
    if not trials:
        return f"No trial has begun. Each would train {what}."
    confirming = sum(trial.kind == "confirm" for trial in trials)
    searching = len(trials) - confirming
    kinds = [f"{searching} at points that sampler {spec.search.sampler} proposed"] if searching else []
    kinds += [f"{confirming} to confirm the best with new seeds"] if confirming else []
    told = f"{counted(len(trials), 'trial')} of {what}: {' and '.join(kinds)}."
    states = [trial.state for trial in trials]
    fates = [f"{states.count(state)} {words}" for state, words in _KINDS if state in states]
    fated = f" Of these, {', '.join(fates)}." if fates else ""
    return f"{told}{fated} {job.progress.finished} of at most {spec.budget.max_trials} trials spent."


def why_it_stopped(job: JobView) -> str:
    """The job's state with its reason; while it runs on after its search, why that is over."""
    beginning, reason = _BEGINNINGS[job.state], job.reason.strip()
    is_over = job.stop_reason is not None and job.stop_reason != reason
    searched = f" The search is over: {_sentence(job.stop_reason or '')}" if is_over else ""
    return f"{beginning}: {_sentence(reason)}{searched}" if reason else f"{beginning}.{searched}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."
