"""Every decision of the dispatcher, on facts made by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.spec import BudgetSpec
from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND
from fixnorm_core.tuning.recommend import recommend, to_confirm
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
from service.dispatch.limits import Times, is_overdue, until_next_limit
from service.dispatch.policy import JobFacts, decide
from service.dispatch.rests import Rest
from service.dispatch.rounds import part
from service.schemas import JobState

BUDGET = BudgetSpec(max_trials=4, confirm_runs=1, parallel_trials=2, max_failures=2)
SPACE = {name: FloatDistribution(1e-4, 10, log=True) for name in ("lr", "fc_norm")}


def trial(
    number: int, value: float | None = None, *, state: TrialState | None = None, confirm: bool = False, lr: float = 0.01
) -> FrozenTrial:
    state = state or (TrialState.COMPLETE if value is not None else TrialState.RUNNING)
    made = create_trial(
        state=state,
        value=value,
        params={"lr": lr, "fc_norm": 2.0},
        distributions=SPACE,
        user_attrs={KIND: CONFIRM} if confirm else {},
    )
    made.number = number
    return made


def decision(
    trials: list[FrozenTrial], *, live: set[int] | None = None, budget: BudgetSpec = BUDGET, **facts: object
) -> Action:
    best = recommend(trials, validation_examples=100)
    facts.setdefault("to_confirm", to_confirm(trials, validation_examples=100, top_k=budget.confirm_top_k))
    return decide(JobFacts(budget, trials, live=frozenset(live or ()), best=best, **facts))  # type: ignore[arg-type]


def test_a_new_job_asks() -> None:
    assert decision([]) == Ask()


def test_it_asks_again_while_there_is_room_beside_a_running_trial() -> None:
    assert decision([trial(0)], live={0}) == Ask()


def test_it_waits_when_as_many_trials_run_as_may() -> None:
    assert decision([trial(0), trial(1)], live={0, 1}) == Wait("training trials 0 and 1")


def test_a_trial_that_rests_keeps_its_place_and_is_not_tried_before_its_time() -> None:
    rest = Rest(datetime(2030, 1, 1, 12, tzinfo=UTC), "the worker was lost")
    assert decision([trial(0), trial(1)], live={1}, resting={0: rest}) == Wait(
        "training trial 1; trial 0 is tried again at 12:00:00 UTC: the worker was lost"
    )
    finished = [trial(0, 0.9), trial(1, 0.9), trial(2)]
    assert isinstance(decision(finished, resting={2: rest}), Wait)  # one more would be more than was planned
    assert isinstance(decision(finished, resting={2: rest}, search_over="x"), Wait)


def test_running_trials_count_against_the_budget_so_that_it_is_never_exceeded() -> None:
    trials = [trial(0, 0.5), trial(1, 0.6), trial(2)]
    assert decision(trials, live={2}) == Wait("training trial 2")


def test_a_running_trial_that_nobody_trains_is_resumed_before_anything_is_asked() -> None:
    assert decision([trial(0), trial(1)], live={1}) == Resume(0)


def test_a_failed_trial_is_not_charged() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.FAIL), trial(2, 0.6)]
    assert decision(trials) == Ask()


def test_a_trial_that_was_stopped_early_is_charged_and_is_no_failure() -> None:
    trials = [trial(0, state=TrialState.FAIL), trial(1, state=TrialState.PRUNED), trial(2, state=TrialState.FAIL)]
    assert decision(trials) == Ask()
    trials = [trial(0, 0.5), trial(1, state=TrialState.PRUNED), trial(2, 0.6)]
    assert decision(trials) == EndSearch("max_trials 4 is used up: 3 for the search, 1 for confirming what it found")


def test_the_search_ends_when_its_part_of_the_budget_is_used_up() -> None:
    trials = [trial(number, 0.5 + number / 10) for number in range(3)]
    assert decision(trials) == EndSearch("max_trials 4 is used up: 3 for the search, 1 for confirming what it found")
    one = BUDGET.model_copy(update={"max_trials": 1, "confirm_runs": 0})
    assert decide(JobFacts(one, trials[:1])) == EndSearch("max_trials 1 is used up")


def test_the_search_ends_when_the_sampler_wants_it_to() -> None:
    assert decision([trial(0, 0.5)], sampler_stop="nothing to gain") == EndSearch("nothing to gain")


def test_the_best_point_is_confirmed_once_all_search_trials_have_ended() -> None:
    trials = [trial(0, 0.5), trial(1, 0.6, lr=0.1)]
    assert decision(trials, search_over="x") == Confirm({"lr": 0.1, "fc_norm": 2.0})
    assert decision([*trials, trial(2)], live={2}, search_over="x") == Wait("training trial 2")


def test_a_running_confirming_trial_counts_as_one() -> None:
    trials = [trial(0, 0.5), trial(1, confirm=True)]
    assert decision(trials, live={1}, search_over="x") == Wait("training trial 1")


def test_the_weights_of_the_best_run_are_evaluated_once_and_then_the_job_succeeds() -> None:
    trials = [trial(0, 0.5), trial(1, 0.6, confirm=True)]
    assert decision(trials, search_over="x") == Evaluate(1)
    assert decision(trials, search_over="x", evaluating=True) == Wait("measuring the test accuracy")
    assert decision(trials, search_over="x", evaluated=frozenset({1})) == Succeed("x")


def test_failures_in_a_row_fail_the_job_and_name_the_last() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.FAIL), trial(2, state=TrialState.FAIL)]
    assert decision(trials, last_failure="no such file") == Fail(
        "2 trials in a row failed, the last one with: no such file"
    )


def test_a_success_between_two_failures_starts_the_count_again() -> None:
    trials = [trial(0, state=TrialState.FAIL), trial(1, 0.5), trial(2, state=TrialState.FAIL)]
    assert decision(trials) == Ask()


def test_trials_that_were_ended_from_outside_are_no_failures() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.FAIL), trial(2, state=TrialState.FAIL)]
    assert decision(trials, ended=frozenset({1, 2})) == Ask()


def test_each_of_the_best_points_gets_its_runs_the_least_run_first_and_in_parallel() -> None:
    budget = BudgetSpec(max_trials=8, confirm_top_k=2, confirm_runs=2, parallel_trials=3)
    trials = [trial(0, 0.9, lr=0.1), trial(1, 0.8, lr=0.2), trial(2, 0.5, lr=0.3)]
    order = []
    for number in range(3, 6):
        action = decision(trials, live={each.number for each in trials[3:]}, budget=budget, search_over="x")
        assert isinstance(action, Confirm)
        order.append(action.params["lr"])
        trials.append(trial(number, confirm=True, lr=action.params["lr"]))
    assert order == [0.1, 0.2, 0.1]
    assert decision(trials, live={3, 4, 5}, budget=budget, search_over="x") == Wait("training trials 3 and 4 and 5")


def test_a_diverged_point_hands_what_is_left_of_its_runs_to_the_next_and_the_budget_is_kept() -> None:
    budget = BudgetSpec(max_trials=5, confirm_runs=2)
    trials = [trial(0, 0.9, lr=0.1), trial(1, 0.8, lr=0.2), trial(2, 0.1, confirm=True, lr=0.1)]
    trials[2].set_user_attr(DIVERGED, True)
    assert decision(trials, budget=budget, search_over="x") == Confirm({"lr": 0.2, "fc_norm": 2.0})
    trials.append(trial(3, 0.7, confirm=True, lr=0.2))
    assert decision(trials, budget=budget, search_over="x") == Evaluate(1)


HOUR = timedelta(hours=1)
TIMED = BudgetSpec(max_trials=9, confirm_runs=2, parallel_trials=2, max_time=8 * HOUR)


def test_a_job_whose_time_is_over_ends_all_its_trials_and_keeps_the_best() -> None:
    times = Times(job=8 * HOUR, trial=HOUR)
    trials = [trial(0, 0.5), trial(1, 0.6, lr=0.1), trial(2, lr=0.2), trial(3, lr=0.3)]
    over = "max_time of 8h is over"
    assert decision(trials, live={2}, budget=TIMED, times=times) == EndSearch(over)
    assert decision(trials, live={2}, budget=TIMED, times=times, search_over=over) == EndTrials((2, 3), over)
    ended = [*trials[:2], trial(2, state=TrialState.FAIL), trial(3, state=TrialState.FAIL)]
    facts = {"budget": TIMED, "times": times, "search_over": over, "ended": frozenset({2, 3})}
    assert decision(ended, **facts) == Evaluate(1)
    assert decision(ended, **facts, evaluating=True) == Wait("measuring the test accuracy")
    assert decision(ended, **facts, evaluated=frozenset({1})) == Succeed(
        f"{over}; max_time left no time for 2 of 2 confirming runs"
    )


def test_confirming_runs_are_ended_by_max_time_too() -> None:
    times = Times(job=8 * HOUR, trial=HOUR)
    trials = [trial(0, 0.5), trial(1, 0.6, confirm=True), trial(2, confirm=True)]
    assert decision(trials, live={2}, budget=TIMED, times=times, search_over="x") == EndTrials(
        (2,), "max_time of 8h is over"
    )


def test_a_job_whose_time_is_over_before_any_trial_was_complete_fails_and_says_what_to_change() -> None:
    action = decision([trial(0, state=TrialState.FAIL)], budget=TIMED, times=Times(job=9 * HOUR), search_over="x")
    assert action == Fail(
        "max_time of 8h is over before a trial was complete: raise budget.max_time or lower training.epochs"
    )


def test_no_trial_is_started_that_would_leave_no_time_to_confirm() -> None:
    trials = [trial(0, 0.5)]
    assert decision(trials, budget=TIMED, times=Times(job=6 * HOUR, trial=HOUR)) == Ask()
    assert decision(trials, budget=TIMED, times=Times(job=6.1 * HOUR, trial=HOUR)) == EndSearch(
        "max_time of 8h leaves no time for another trial and 2 runs to confirm: a trial takes 1h"
    )


def test_no_confirming_run_is_started_that_would_not_end_in_time() -> None:
    trials = [trial(0, 0.5), trial(1, 0.6, confirm=True)]
    late = Times(job=7.5 * HOUR, trial=HOUR)
    assert decision(trials, budget=TIMED, times=late, search_over="x") == Evaluate(1)
    in_time = Times(job=6.5 * HOUR, trial=HOUR)
    assert decision(trials, budget=TIMED, times=in_time, search_over="x") == Confirm({"lr": 0.01, "fc_norm": 2.0})


def test_a_trial_that_reaches_the_target_ends_the_search_and_the_other_trials_and_is_confirmed() -> None:
    budget = BudgetSpec(max_trials=9, confirm_runs=1, parallel_trials=2, target_accuracy=0.9)
    trials = [trial(0, 0.899), trial(1, 0.9, lr=0.1), trial(2)]
    reached = "trial 1 reached target_accuracy 90 %: 90.00 %"
    assert decision(trials[:1], budget=budget) == Ask()
    assert decision(trials, live={2}, budget=budget) == EndSearch(reached)
    assert decision(trials, live={2}, budget=budget, search_over=reached) == EndTrials((2,), reached)
    ended = [*trials[:2], trial(2, state=TrialState.FAIL)]
    confirm = Confirm({"lr": 0.1, "fc_norm": 2.0})
    assert decision(ended, budget=budget, search_over=reached) == confirm
    confirming = [*ended, trial(3, confirm=True, lr=0.1)]
    assert decision(confirming, live={3}, budget=budget, search_over=reached) == Wait("training trial 3")


def test_a_trial_that_diverged_or_was_stopped_early_reaches_no_target() -> None:
    lucky = trial(0, 0.95)
    lucky.set_user_attr(DIVERGED, True)
    stopped = trial(1, 0.95, state=TrialState.PRUNED)
    assert decision([lucky, stopped], budget=BudgetSpec(target_accuracy=0.9)) == Ask()


def test_a_search_without_progress_ends_and_lets_the_running_trials_finish() -> None:
    budget = BudgetSpec(parallel_trials=2, tolerance=0.002, max_trials_without_progress=3)
    trials, times = [trial(0, 0.5), trial(1)], Times(trials_without_progress=3)
    ends = EndSearch(
        "the last 3 trials have not raised the best accuracy by more than 0.2 points (max_trials_without_progress)"
    )
    assert decision(trials, live={1}, budget=budget, times=times) == ends
    assert decision(trials, live={1}, budget=budget, times=times, search_over="x") == Wait("training trial 1")
    timed = BudgetSpec(max_time_without_progress=2 * HOUR)
    assert decision(trials[:1], budget=timed, times=Times(without_progress=1.9 * HOUR)) == Ask()
    assert decision(trials[:1], budget=timed, times=Times(without_progress=2 * HOUR)) == EndSearch(
        "no trial has raised the best accuracy for 2h (max_time_without_progress)"
    )


def test_a_job_whose_trials_all_diverged_fails_and_says_what_to_change() -> None:
    trials = [trial(number, 0.1) for number in range(3)]
    for each in trials:
        each.set_user_attr(DIVERGED, True)
    action = decision(trials, search_over="x")
    assert isinstance(action, Fail)
    assert "search.space.lr" in action.reason


PAUSED = {"state": JobState.PAUSED, "reason": "paused by request"}
STOPPING = {"state": JobState.STOPPING}
SEARCHED = [trial(0, 0.5), trial(1, 0.6, lr=0.1)]


def test_a_paused_job_starts_no_trial_no_confirming_run_no_evaluation_and_resumes_nothing() -> None:
    waiting = Wait("paused by request")
    assert decision([], **PAUSED) == waiting
    assert decision([trial(0)], live={0}, **PAUSED) == waiting
    assert decision([trial(0)], **PAUSED) == waiting
    assert decision(SEARCHED, search_over="x", **PAUSED) == waiting
    assert decision([*SEARCHED, trial(2, 0.6, lr=0.1, confirm=True)], search_over="x", **PAUSED) == waiting


def test_a_paused_job_keeps_to_its_limits() -> None:
    budget = BUDGET.model_copy(update={"max_time": timedelta(hours=1)})
    times = Times(job=timedelta(hours=2))
    over = "max_time of 1h is over"
    assert decision([trial(0)], live={0}, budget=budget, times=times, **PAUSED) == EndSearch(over)
    ending = decision([trial(0)], live={0}, budget=budget, times=times, search_over=over, **PAUSED)
    assert ending == EndTrials((0,), over)


def test_a_paused_job_whose_last_trials_fail_fails() -> None:
    failed = [trial(number, state=TrialState.FAIL) for number in range(2)]
    assert decision(failed, last_failure="boom", **PAUSED) == Fail("2 trials in a row failed, the last one with: boom")


def test_a_job_that_is_stopped_notes_why_its_search_is_over_once() -> None:
    assert decision(SEARCHED, **STOPPING) == EndSearch("stopped by request")
    assert decision(SEARCHED, search_over="x", **STOPPING) == EndSearch("x; stopped by request")


def test_a_stopped_job_lets_finish_what_runs_then_evaluates_its_best_without_confirming_it() -> None:
    over = {"search_over": "stopped by request", **STOPPING}
    assert decision([*SEARCHED, trial(2)], live={2}, **over) == Wait("training trial 2")
    assert decision([*SEARCHED, trial(2, confirm=True)], live={2}, **over) == Wait("training trial 2")
    assert decision([*SEARCHED, trial(2)], **over) == Resume(2)
    assert decision(SEARCHED, **over) == Evaluate(1)
    done = decision(SEARCHED, evaluated=frozenset({1}), **over)
    assert done == Succeed("stopped by request; 1 of 1 confirming runs left out")
    confirmed = [*SEARCHED, trial(2, 0.6, lr=0.1, confirm=True)]
    assert decision(confirmed, evaluated=frozenset({1}), **over) == Succeed("stopped by request")


def test_a_stopped_job_gives_up_a_trial_that_was_only_asked_for() -> None:
    over = {"search_over": "stopped by request", **STOPPING}
    ending = decision([*SEARCHED, trial(2)], unstarted=frozenset({2}), **over)
    assert ending == EndTrials((2,), "stopped by request")


def test_a_stopped_job_with_nothing_complete_is_cancelled_and_failures_do_not_take_its_result_away() -> None:
    over = {"search_over": "stopped by request", **STOPPING}
    assert decision([], **over) == Cancel("stopped by request before a trial was complete")
    failed = [trial(number, state=TrialState.FAIL) for number in (2, 3)]
    assert decision(failed, **over) == Cancel("stopped by request before a trial was complete")
    assert decision([*SEARCHED, *failed], **over) == Evaluate(1)


SPENT = [trial(0, 0.6), trial(1, 0.5, lr=0.1), trial(2, 0.5, lr=0.2), trial(3, 0.65, confirm=True)]
REOPENED = {"earlier": frozenset({0, 1, 2, 3}), "settled": frozenset({0, 1, 2, 3}), "evaluated": frozenset({3})}


def again(trials: list[FrozenTrial], budget: BudgetSpec, **facts: object) -> Action:
    confirm = to_confirm(trials, validation_examples=100, earlier=frozenset({0, 1, 2, 3}))
    return decision(trials, budget=budget, to_confirm=confirm, **REOPENED | facts)  # type: ignore[arg-type]


def test_a_reopened_search_goes_on_and_keeps_as_many_runs_to_confirm_as_the_first() -> None:
    seven = BUDGET.model_copy(update={"max_trials": 7})
    found = [*SPENT, trial(4, 0.5, lr=0.3)]
    assert again(SPENT, seven) == again(found, seven) == Ask()
    found.append(trial(5, 0.9, lr=0.4))
    assert again(found, seven) == EndSearch(
        "max_trials 7 is used up: 5 for the search, 1 that confirmed before, 1 for confirming what it found"
    )
    assert again(found, seven, search_over="x") == Confirm({"lr": 0.4, "fc_norm": 2.0})
    assert again([*found, trial(6, 0.9, lr=0.4, confirm=True)], seven, search_over="x") == Evaluate(5)


def test_a_point_that_an_earlier_round_has_confirmed_is_not_confirmed_again_while_it_is_the_best() -> None:
    seven = BUDGET.model_copy(update={"max_trials": 7})
    assert again([*SPENT, trial(4, 0.5, lr=0.3), trial(5, 0.5, lr=0.4)], seven, search_over="x") == Succeed("x")


def test_an_extension_by_one_trial_is_for_the_search() -> None:
    five = BUDGET.model_copy(update={"max_trials": 5})
    assert again(SPENT, five) == Ask()
    found = [*SPENT, trial(4, 0.9, lr=0.3)]
    assert again(found, five) == EndSearch("max_trials 5 is used up")
    assert again(found, five, search_over="x") == Succeed("x")  # its point is not confirmed, the other one is


def test_no_parting_of_any_budget_gives_more_trials_than_it_has_or_the_search_none() -> None:
    for max_trials in range(1, 12):
        for confirm in range(max_trials):
            budget = BudgetSpec(max_trials=max_trials, confirm_runs=confirm)
            for searched in range(max_trials):
                for confirmed in range(max_trials - searched):
                    shares = part(budget, searched=searched, confirmed=confirmed)
                    assert shares.search + shares.confirming == max_trials
                    assert shares.search > searched
                    assert shares.confirming == confirmed + shares.kept
                    assert shares.kept <= confirm
            assert part(budget, searched=0, confirmed=0).search == budget.search_trials


def test_what_ended_an_earlier_round_does_not_end_the_next_one() -> None:
    failed = [trial(number, state=TrialState.FAIL) for number in range(2)]
    assert decision(failed, last_failure="x") == Fail("2 trials in a row failed, the last one with: x")
    assert decision(failed, earlier=frozenset({0, 1}), last_failure="x") == Ask()
    aimed = BUDGET.model_copy(update={"target_accuracy": 0.5})
    assert isinstance(decision([trial(0, 0.6)], budget=aimed), EndSearch)
    assert decision([trial(0, 0.6)], budget=aimed, earlier=frozenset({0})) == Ask()


def test_a_confirming_trial_that_was_created_just_before_the_search_was_reopened_is_ended_untrained() -> None:
    seven = BUDGET.model_copy(update={"max_trials": 7})
    created = [*SPENT, trial(4, confirm=True)]
    assert again(created, seven, unstarted=frozenset({4})) == EndTrials((4,), "the search goes on")
    assert again(created, seven, unstarted=frozenset({4}), search_over="x") == Resume(4)


def test_a_confirming_trial_that_runs_when_the_search_is_reopened_goes_on_beside_it() -> None:
    eight = BUDGET.model_copy(update={"max_trials": 8})
    trials = [*SPENT[:3], trial(3, confirm=True)]
    assert decision(trials, live={3}, budget=eight, settled=frozenset({0, 1, 2, 3})) == Ask()


def test_failed_points_that_are_to_be_tried_again_come_before_new_ones_and_before_what_the_sampler_thinks() -> None:
    trials = [trial(0, state=TrialState.FAIL), trial(1, 0.5)]
    wanted = {"to_retry": (0,), "earlier": frozenset({0, 1})}
    assert decision(trials, **wanted) == Retry(0)
    assert decision(trials, **wanted, sampler_stop="nothing to gain") == Retry(0)
    full = [*trials, trial(2, 0.5), trial(3, 0.5)]
    assert isinstance(decision(full, **wanted), EndSearch)  # the budget comes before everything
    assert decision([*trials, trial(2), trial(3)], **wanted, live={2, 3}) == Wait("training trials 2 and 3")


def test_a_deadline_ends_a_job_as_max_time_does_and_earlier_if_it_comes_earlier() -> None:
    dated = BUDGET.model_copy(update={"deadline": datetime(2030, 5, 1, 6, tzinfo=UTC), "max_time": 9 * HOUR})
    trials = [trial(0, 0.5), trial(1)]
    late = Times(job=2 * HOUR, trial=HOUR, before_deadline=1.5 * HOUR)
    assert decision(trials, live={1}, budget=dated, times=late) == EndSearch(
        "the deadline 2030-05-01 06:00 UTC leaves no time for another trial and 1 run to confirm: a trial takes 1h"
    )
    over = Times(job=2 * HOUR, trial=HOUR, before_deadline=timedelta(0))
    passed = "the deadline 2030-05-01 06:00 UTC has passed"
    assert decision(trials, live={1}, budget=dated, times=over) == EndSearch(passed)
    assert decision(trials, live={1}, budget=dated, times=over, search_over="x") == EndTrials((1,), passed)
    assert until_next_limit(dated, late) == 1.5 * HOUR


def test_an_attempt_that_takes_too_long_is_ended_whatever_state_the_job_is_in() -> None:
    timed = BUDGET.model_copy(update={"max_trial_time": HOUR})
    for state in (JobState.RUNNING, JobState.PAUSED, JobState.STOPPING):
        action = decision([trial(0)], live={0}, budget=timed, overdue=("j.0.1",), state=state)
        assert action == EndAttempts(("j.0.1",), "max_trial_time of 1h is over")
    begun = datetime(2030, 1, 1, 12, tzinfo=UTC)
    assert [is_overdue(timed, begun, begun + each * HOUR) for each in (0.99, 1.0)] == [False, True]
    assert not is_overdue(BUDGET, begun, begun + 99 * HOUR)
    assert until_next_limit(timed, Times(attempt=0.25 * HOUR)) == 0.75 * HOUR


def test_so_many_failures_in_all_fail_the_job_but_not_one_that_is_stopping() -> None:
    strict = BUDGET.model_copy(update={"max_failed": 2, "max_failures": 9})
    trials = [trial(0, state=TrialState.FAIL), trial(1, 0.5), trial(2, state=TrialState.FAIL)]
    assert decision(trials[:2], budget=strict) == Ask()
    assert decision(trials, budget=strict, ended=frozenset({0})) == Ask()
    assert decision(trials, budget=strict, earlier=frozenset({0})) == Ask()
    assert decision(trials, budget=strict, last_failure="no such file") == Fail(
        "2 trials failed in all (max_failed), the last one with: no such file"
    )
    assert isinstance(decision(trials, budget=strict, state=JobState.STOPPING), EndSearch)
