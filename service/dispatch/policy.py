"""What a job should do next: a pure function of what is known of it. The dispatcher acts on the answer.

A job searches, then runs its best point again with new seeds, then evaluates the weights of its best run on the test
split, once, and succeeds. Complete, diverged and pruned trials are charged to the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.spec import BudgetSpec
from fixnorm_core.tuning.attributes import CONFIRM, KIND
from fixnorm_core.tuning.recommend import Recommendation

__all__ = [
    "Action",
    "Ask",
    "Confirm",
    "EndSearch",
    "Evaluate",
    "Fail",
    "JobFacts",
    "Resume",
    "Succeed",
    "Wait",
    "decide",
]


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job.

    Attributes:
        budget: Its limits.
        trials: All its trials, by number.
        live: Numbers of the trials that an attempt is training now.
        search_over: Why the search has ended; None while it has not.
        sampler_stop: Why the sampler would end it now; None if it would not, or is not asked.
        best: What is recommended so far; None before a complete trial.
        to_confirm: The point whose accuracy is to be confirmed next; None before a complete trial.
        evaluating: Whether an attempt is evaluating now.
        evaluated_trial: The trial whose weights have been evaluated; None before that.
        evaluation_hopeless: Whether evaluating has failed too often to try again.
        fatal: Why no trial of the job can run; None when nothing says so.
        last_failure: Message of the last failed attempt.
    """

    budget: BudgetSpec
    trials: Sequence[FrozenTrial]
    live: frozenset[int] = field(default_factory=frozenset)
    search_over: str | None = None
    sampler_stop: str | None = None
    best: Recommendation | None = None
    to_confirm: dict[str, float] | None = None
    evaluating: bool = False
    evaluated_trial: int | None = None
    evaluation_hopeless: bool = False
    fatal: str | None = None
    last_failure: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the sampler for a point and train it."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """Train the best point again with a new seed."""

    params: dict[str, float]


@dataclass(frozen=True, slots=True)
class Resume:
    """Go on with a trial that no attempt is training: its worker or the server was lost."""

    number: int


@dataclass(frozen=True, slots=True)
class EndSearch:
    """Note why the search is over, then decide again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate the weights of this trial on the test split."""

    number: int


@dataclass(frozen=True, slots=True)
class Succeed:
    """All is done."""


@dataclass(frozen=True, slots=True)
class Fail:
    """The job cannot succeed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to start now."""

    reason: str


Action = Ask | Confirm | Resume | EndSearch | Evaluate | Succeed | Fail | Wait


def decide(facts: JobFacts) -> Action:
    """The next action. It is asked again after each action that is carried out, until the answer is to wait or end."""
    if facts.fatal is not None:
        return Fail(facts.fatal)
    if (failures := _failures_in_a_row(facts.trials)) >= facts.budget.max_failures:
        return Fail(f"{failures} trials in a row failed, the last one with: {facts.last_failure}")
    room = facts.budget.parallel_trials - len(facts.live)
    orphans = [
        trial.number for trial in facts.trials if trial.state is TrialState.RUNNING and trial.number not in facts.live
    ]
    if orphans:
        return Resume(orphans[0]) if room > 0 else Wait(_running(facts))
    if facts.search_over is None:
        return _search(facts, room=room)
    return _finish(facts, room=room)


def _search(facts: JobFacts, *, room: int) -> Action:
    planned = facts.budget.max_trials - facts.budget.confirm_runs
    finished = sum(_is_finished(trial) for trial in facts.trials)
    if finished >= planned:
        trials = "1 search trial" if planned == 1 else f"{planned} search trials"
        return EndSearch(f"the budget of {trials} is used up")
    if facts.sampler_stop is not None:
        return EndSearch(facts.sampler_stop)
    if room <= 0 or finished + len(facts.live) >= planned:
        return Wait(_running(facts))
    return Ask()


def _finish(facts: JobFacts, *, room: int) -> Action:
    searching = [trial for trial in facts.trials if trial.number in facts.live and not _is_confirming(trial)]
    if searching:  # their results can change which point is the best
        return Wait(_running(facts))
    if facts.best is None or facts.to_confirm is None:
        if facts.live:
            return Wait(_running(facts))
        return Fail("every trial diverged or was stopped: lower the upper end of search.space.lr")
    confirming = [trial for trial in facts.trials if _is_confirming(trial)]
    counted = sum(_is_finished(trial) or trial.number in facts.live for trial in confirming)
    if counted < facts.budget.confirm_runs:
        return Confirm(facts.to_confirm) if room > 0 else Wait(_running(facts))
    if facts.live:
        return Wait(_running(facts))
    if facts.evaluated_trial == facts.best.best_run:
        return Succeed()
    if facts.evaluation_hopeless:
        return Fail(f"the test accuracy could not be measured: {facts.last_failure}")
    return Wait("measuring the test accuracy") if facts.evaluating else Evaluate(facts.best.best_run)


def _running(facts: JobFacts) -> str:
    numbers = " and ".join(str(number) for number in sorted(facts.live))
    what = "trial" if len(facts.live) == 1 else "trials"
    return f"training {what} {numbers}"


def _is_finished(trial: FrozenTrial) -> bool:
    """Whether the budget is charged for it."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_confirming(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(KIND) == CONFIRM


def _failures_in_a_row(trials: Sequence[FrozenTrial]) -> int:
    failures = 0
    for trial in trials:
        if trial.state is TrialState.FAIL:
            failures += 1
        elif trial.state.is_finished():
            failures = 0
    return failures
