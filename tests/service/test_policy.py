"""Every decision of the dispatcher, on facts made by hand."""

from __future__ import annotations

from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from fixnorm_core.spec import BudgetSpec
from fixnorm_core.tuning.attributes import CONFIRM, DIVERGED, KIND
from fixnorm_core.tuning.recommend import recommend, to_confirm
from service.dispatch.policy import (
    Action,
    Ask,
    Confirm,
    EndSearch,
    Evaluate,
    Fail,
    JobFacts,
    Resume,
    Succeed,
    Wait,
    decide,
)

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


def decision(trials: list[FrozenTrial], *, live: set[int] | None = None, **facts: object) -> Action:
    best = recommend(trials, validation_examples=100)
    confirm = to_confirm(trials, validation_examples=100)
    return decide(
        JobFacts(BUDGET, trials, live=frozenset(live or ()), best=best, to_confirm=confirm, **facts)  # type: ignore[arg-type]
    )


def test_a_new_job_asks() -> None:
    assert decision([]) == Ask()


def test_it_asks_again_while_there_is_room_beside_a_running_trial() -> None:
    assert decision([trial(0)], live={0}) == Ask()


def test_it_waits_when_as_many_trials_run_as_may() -> None:
    assert decision([trial(0), trial(1)], live={0, 1}) == Wait("training trials 0 and 1")


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
    assert decision(trials) == EndSearch("the budget of 3 search trials is used up")


def test_the_search_ends_when_its_part_of_the_budget_is_used_up() -> None:
    trials = [trial(number, 0.5 + number / 10) for number in range(3)]
    assert decision(trials) == EndSearch("the budget of 3 search trials is used up")
    one = BUDGET.model_copy(update={"max_trials": 1, "confirm_runs": 0})
    assert decide(JobFacts(one, trials[:1])) == EndSearch("the budget of 1 search trial is used up")


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
    assert decision(trials, search_over="x", evaluated_trial=1) == Succeed()


def test_failures_in_a_row_fail_the_job_and_name_the_last() -> None:
    trials = [trial(0, 0.5), trial(1, state=TrialState.FAIL), trial(2, state=TrialState.FAIL)]
    assert decision(trials, last_failure="no such file") == Fail(
        "2 trials in a row failed, the last one with: no such file"
    )


def test_a_success_between_two_failures_starts_the_count_again() -> None:
    trials = [trial(0, state=TrialState.FAIL), trial(1, 0.5), trial(2, state=TrialState.FAIL)]
    assert decision(trials) == Ask()


def test_a_job_whose_trials_all_diverged_fails_and_says_what_to_change() -> None:
    trials = [trial(number, 0.1) for number in range(3)]
    for each in trials:
        each.set_user_attr(DIVERGED, True)
    action = decision(trials, search_over="x")
    assert isinstance(action, Fail)
    assert "search.space.lr" in action.reason
