"""What a job should do next: a pure function of what is known of it. The dispatcher acts on the answer.

A job searches, then runs its best points again with new seeds, then evaluates the weights of its best run on the test
split, once, and succeeds. Complete, diverged and pruned trials are charged to the budget.

A paused job starts nothing, while its limits hold as ever. One that is being stopped lets finish what runs, a trial
whose worker was lost included, and goes straight to the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from fixnorm_core.spec import BudgetSpec, duration_text
from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND
from fixnorm_core.tuning.recommend import Recommendation, point_of
from service.dispatch.actions import (
    Action,
    Ask,
    Cancel,
    Confirm,
    EndAttempts,
    EndSearch,
    EndTrials,
    Evaluate,
    Fail,
    Resume,
    Retry,
    Succeed,
    Wait,
)
from service.dispatch.limits import Times, no_progress, no_time_for_a_trial, time_is_up
from service.dispatch.rests import Rest
from service.dispatch.rounds import Shares, part
from service.schemas import JobState

__all__ = ["JobFacts", "decide"]

_STOPPED = "stopped by request"


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What is known of a job.

    Attributes:
        budget: Its limits.
        trials: All its trials, by number.
        state: Where it is.
        reason: Why it is there, as stored; said again of a paused one.
        live: Numbers of the trials that an attempt is training now.
        waits: What trials that run wait for, by number, where that takes long.
        unstarted: Numbers of the unfinished trials that no attempt has ever trained.
        resting: Trials that wait to be tried again, by number; they keep their place beside the live ones.
        search_over: Why the search has ended; None while it has not.
        sampler_stop: Why the sampler would end it now; None if it would not, or is not asked.
        times: How long things have taken.
        ended: Numbers of the failed trials that were ended from outside: by a limit, or with the server.
        earlier: Numbers of the trials that were begun before the job was last reopened: what ends a job, or its search,
            is looked for in the others.
        settled: Numbers of the trials that were begun before its search was.
        to_retry: Numbers of the failed trials whose points somebody wants tried again.
        best: What is recommended; None before a complete trial, and while the search goes on.
        to_confirm: The points whose accuracies are to be confirmed, the best first; none as long as there is no best.
        evaluating: Whether an attempt is evaluating now.
        evaluation_rests: What the evaluation waits for before it is tried again; None when it does not.
        evaluated: The trials whose weights have been evaluated: one, and another when the job was extended since.
        evaluation_hopeless: Whether evaluating has failed too often to try again.
        overdue: Ids of the attempts that have run for longer than any may.
        fatal: Why no trial of the job can run; None when nothing says so.
        last_failure: Message of the last failed attempt.
    """

    budget: BudgetSpec
    trials: Sequence[FrozenTrial]
    state: JobState = JobState.RUNNING
    reason: str = ""
    live: frozenset[int] = field(default_factory=frozenset)
    waits: Mapping[int, str] = field(default_factory=dict)
    unstarted: frozenset[int] = field(default_factory=frozenset)
    resting: Mapping[int, Rest] = field(default_factory=dict)
    search_over: str | None = None
    sampler_stop: str | None = None
    times: Times = field(default_factory=Times)
    ended: frozenset[int] = field(default_factory=frozenset)
    earlier: frozenset[int] = field(default_factory=frozenset)
    settled: frozenset[int] = field(default_factory=frozenset)
    to_retry: Sequence[int] = ()
    best: Recommendation | None = None
    to_confirm: Sequence[dict[str, float]] = ()
    evaluating: bool = False
    evaluation_rests: Rest | None = None
    evaluated: frozenset[int] = field(default_factory=frozenset)
    evaluation_hopeless: bool = False
    overdue: tuple[str, ...] = ()
    fatal: str | None = None
    last_failure: str = ""

    @property
    def busy(self) -> frozenset[int]:
        """Numbers of the trials that have a place: they are trained now, or will be after a rest."""
        return self.live.union(self.resting)

    @property
    def shares(self) -> Shares:
        """How its budget is parted."""
        spent = [trial for trial in self.trials if trial.number in self.settled and trial.state is not TrialState.FAIL]
        confirmed = sum(map(_is_confirming, spent))
        return part(self.budget, searched=len(spent) - confirmed, confirmed=confirmed)


def decide(facts: JobFacts) -> Action:
    """The next action. It is asked again after each action that is carried out, until the answer is to wait or end."""
    if facts.fatal is not None:
        return Fail(facts.fatal)
    if facts.overdue:
        assert facts.budget.max_trial_time is not None
        return EndAttempts(facts.overdue, f"max_trial_time of {duration_text(facts.budget.max_trial_time)} is over")
    stopping = facts.state is JobState.STOPPING
    if not stopping and (failures := _failures_in_a_row(facts)) >= facts.budget.max_failures:
        return Fail(f"{failures} trials in a row failed, the last one with: {facts.last_failure}")
    if not stopping and (reason := _too_many_failed(facts)) is not None:
        return Fail(reason)
    if stopping and _STOPPED not in (facts.search_over or ""):
        return EndSearch("; ".join(filter(None, (facts.search_over, _STOPPED))))
    if (action := _end_at_once(facts)) is not None:
        return action
    if surplus := _surplus(facts):
        return EndTrials(surplus, "the budget has no room for it")
    if facts.state is JobState.PAUSED:
        return Wait(facts.reason)
    if stopping and facts.unstarted:
        return EndTrials(tuple(sorted(facts.unstarted)), _STOPPED)
    if facts.search_over is None and (early := _asked_too_early(facts)):
        return EndTrials(early, "the search goes on")
    room = facts.budget.parallel_trials - len(facts.busy)
    orphans = [trial.number for trial in _unfinished(facts) if trial.number not in facts.busy]
    if orphans:
        return Resume(orphans[0]) if room > 0 else Wait(_running(facts))
    if facts.search_over is None:
        return _search(facts, room=room)
    return _finish(facts, room=room)


def _end_at_once(facts: JobFacts) -> Action | None:
    """What the limits ask for that do not let running trials finish."""
    up = time_is_up(facts.budget, facts.times)
    reason = up or _target_reached(facts)
    if reason is None:
        return None
    if facts.search_over is None:
        return EndSearch(reason)
    doomed = tuple(trial.number for trial in _unfinished(facts) if up or not _is_confirming(trial))
    return EndTrials(doomed, reason) if doomed else None


def _target_reached(facts: JobFacts) -> str | None:
    target = facts.budget.target_accuracy
    for trial in facts.trials:
        if trial.state is not TrialState.COMPLETE or _is_confirming(trial) or trial.user_attrs.get(DIVERGED):
            continue
        if trial.number in facts.earlier:
            continue
        if target is not None and trial.value is not None and trial.value >= target:
            return f"trial {trial.number} reached target_accuracy {100 * target:g} %: {100 * trial.value:.2f} %"
    return None


def _search(facts: JobFacts, *, room: int) -> Action:
    budget, shares = facts.budget, facts.shares
    searching = [trial for trial in facts.trials if not _is_confirming(trial)]
    finished = sum(map(_is_finished, searching))
    if finished >= shares.search:
        return EndSearch(_used_up(budget, shares))
    reason = no_progress(budget, facts.times) or facts.sampler_stop
    if reason is not None and not facts.to_retry:
        return EndSearch(reason)
    if room <= 0 or finished + sum(trial.number in facts.busy for trial in searching) >= shares.search:
        return Wait(_running(facts))
    if (reason := no_time_for_a_trial(budget, facts.times, confirming=shares.kept)) is not None:
        return EndSearch(reason)
    return Retry(facts.to_retry[0]) if facts.to_retry else Ask()


def _used_up(budget: BudgetSpec, shares: Shares) -> str:
    if not shares.kept:
        return f"max_trials {budget.max_trials} is used up"
    spent = shares.confirming - shares.kept
    before = f", {spent} that confirmed before" if spent else ""
    searched = f"{shares.search} for the search{before}"
    # True before and after these runs: it stays as the reason of the job's end
    return f"max_trials {budget.max_trials} is used up: {searched}, {shares.kept} for confirming what it found"


def _finish(facts: JobFacts, *, room: int) -> Action:
    searching = [trial for trial in facts.trials if trial.number in facts.busy and not _is_confirming(trial)]
    if searching:  # their results can change which points are the best
        return Wait(_running(facts))
    if facts.best is None:
        return Wait(_running(facts)) if facts.busy else _end_without_result(facts)
    point = _next_to_confirm(facts)
    left_out = _left_out(facts) if point is not None else None
    if point is not None and left_out is None:
        return Confirm(point) if room > 0 else Wait(_running(facts))
    if facts.busy:
        return Wait(_running(facts))
    if facts.best.best_run in facts.evaluated:
        return Succeed("; ".join(filter(None, (facts.search_over, left_out))))
    if facts.evaluation_hopeless:
        return Fail(f"the test accuracy could not be measured: {facts.last_failure}")
    if facts.evaluation_rests is not None:
        return Wait(_again("the test accuracy", facts.evaluation_rests))
    if not facts.evaluating:
        return Evaluate(facts.best.best_run)
    return Wait(", ".join(("measuring the test accuracy", *facts.waits.values())))


def _end_without_result(facts: JobFacts) -> Action:
    if facts.state is JobState.STOPPING:
        return Cancel(f"{_STOPPED} before a trial was complete")
    return Fail(_nothing_to_recommend(facts))


def _nothing_to_recommend(facts: JobFacts) -> str:
    up = time_is_up(facts.budget, facts.times)
    if up is not None and not any(_is_finished(trial) for trial in facts.trials):
        more = "raise budget.max_time" if up.startswith("max_time") else "give it a later budget.deadline"
        return f"{up} before a trial was complete: {more} or lower training.epochs"
    return "every trial diverged or was stopped: lower the upper end of search.space.lr"


def _next_to_confirm(facts: JobFacts) -> dict[str, float] | None:
    """The point with the fewest confirming runs, the best of several; None when all have theirs."""
    counted = [trial for trial in facts.trials if _is_finished(trial) or trial.number in facts.busy]
    runs = _confirming_runs(facts, counted)
    fewest = min(runs, default=facts.budget.confirm_runs)
    if sum(map(_is_confirming, counted)) >= facts.shares.confirming or fewest >= facts.budget.confirm_runs:
        return None
    return facts.to_confirm[runs.index(fewest)]


def _left_out(facts: JobFacts) -> str | None:
    """Why the confirming runs that are still missing are left out; None if they are not."""
    budget, times = facts.budget, facts.times
    finished = [trial for trial in facts.trials if _is_finished(trial)]
    lacking = sum(max(0, budget.confirm_runs - runs) for runs in _confirming_runs(facts, finished))
    done = sum(_is_confirming(trial) and trial.number not in facts.settled for trial in finished)
    wanted = min(facts.shares.kept, done + lacking)
    if facts.state is JobState.STOPPING:
        return f"{wanted - done} of {wanted} confirming runs left out"
    if time_is_up(budget, times) or no_time_for_a_trial(budget, times, confirming=0):
        limit = "max_time" if budget.max_time is not None else "the deadline"
        return f"{limit} left no time for {wanted - done} of {wanted} confirming runs"
    return None


def _confirming_runs(facts: JobFacts, trials: Sequence[FrozenTrial]) -> list[int]:
    """How many of these confirm each of the points that are to be confirmed."""
    counted = [point_of(trial.params) for trial in trials if _is_confirming(trial)]
    return [counted.count(point_of(params)) for params in facts.to_confirm]


def _running(facts: JobFacts) -> str:
    """What runs, and what waits to be tried again. Times of day, not seconds left: each new reason is an event."""
    numbers = " and ".join(str(number) for number in sorted(facts.live))
    what = "trial" if len(facts.live) == 1 else "trials"
    running = [f"training {what} {numbers}"] if facts.live else []
    running += [f"trial {number} is {reason}" for number, reason in sorted(facts.waits.items())]
    return "; ".join(running + [_again(f"trial {number}", rest) for number, rest in sorted(facts.resting.items())])


def _again(what: str, rest: Rest) -> str:
    return f"{what} is tried again at {rest.until:%H:%M:%S} UTC: {rest.reason}"


def _is_finished(trial: FrozenTrial) -> bool:
    """Whether the budget is charged for it."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def _is_confirming(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(KIND) == CONFIRM


def _unfinished(facts: JobFacts) -> list[FrozenTrial]:
    return [trial for trial in facts.trials if trial.state is TrialState.RUNNING]


def _surplus(facts: JobFacts) -> tuple[int, ...]:
    """Trials that nobody trains and the budget has no room for.

    A trial is created in Optuna's own transaction. A server that was suspended just before it creates one more than the
    budget has, and so does a database whose answer is lost.
    """
    found: list[int] = []
    for confirming, budget in ((False, facts.shares.search), (True, facts.shares.confirming)):
        of_kind = [trial for trial in facts.trials if _is_confirming(trial) is confirming]
        waiting = [trial.number for trial in _unfinished(facts) if _is_confirming(trial) is confirming]
        waiting = [number for number in waiting if number not in facts.live]
        taken = sum(_is_finished(trial) or trial.number in facts.live for trial in of_kind)
        found += waiting[max(0, budget - taken) :]
    return tuple(found)


def _asked_too_early(facts: JobFacts) -> tuple[int, ...]:
    """Confirming trials that were created but not started when the search was reopened: another may be the best now."""
    return tuple(trial.number for trial in facts.trials if trial.number in facts.unstarted and _is_confirming(trial))


def _too_many_failed(facts: JobFacts) -> str | None:
    failed = [trial for trial in facts.trials if trial.state is TrialState.FAIL and trial.number not in facts.ended]
    count, limit = sum(trial.number not in facts.earlier for trial in failed), facts.budget.max_failed
    if limit is None or count < limit:
        return None
    trials = "1 trial" if count == 1 else f"{count} trials"
    return f"{trials} failed in all (max_failed), the last one with: {facts.last_failure}"


def _failures_in_a_row(facts: JobFacts) -> int:
    failures = 0
    for trial in facts.trials:
        if trial.number in facts.earlier:
            continue
        if trial.state is TrialState.FAIL:
            failures += trial.number not in facts.ended
        elif trial.state.is_finished():
            failures = 0
    return failures
