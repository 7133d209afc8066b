"""How a job's budget is parted between searching and confirming, also when its search is reopened. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

from fixnorm_core.spec import BudgetSpec

__all__ = ["Shares", "part"]


@dataclass(frozen=True, slots=True)
class Shares:
    """Trials that may finish, over all rounds; together they are ``max_trials``.

    Attributes:
        search: To search.
        confirming: To confirm points.
        kept: Those of ``confirming`` that are for what this search finds.
    """

    search: int
    confirming: int
    kept: int


def part(budget: BudgetSpec, *, searched: int, confirmed: int) -> Shares:
    """The shares of a search that was reopened after so many trials; of a first one after none.

    What confirmed points before stays spent. As many runs again are kept to confirm what is found from now on, but the
    search has one trial at least: whoever extends a job wants to see another point.

    Args:
        budget: As it holds now.
        searched: Search trials of the searches before.
        confirmed: Confirming runs of these.
    """
    kept = min(budget.confirming_trials, max(budget.max_trials - searched - confirmed - 1, 0))
    return Shares(search=budget.max_trials - confirmed - kept, confirming=confirmed + kept, kept=kept)
