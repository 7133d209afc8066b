"""Linear algebra stays in the calling thread while the sampler works, and only then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
import scipy.linalg  # noqa: F401  its library is one of those that are limited
from optuna.distributions import FloatDistribution
from threadpoolctl import threadpool_info, threadpool_limits

from fixnorm_core.tuning.belief import Belief
from fixnorm_core.tuning.one_thread import one_thread
from fixnorm_core.tuning.sampler import FixNormSampler


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As on a machine of two cores; the tests' own environment asks for one."""
    with threadpool_limits(2, user_api="blas"):
        assert threads() == {2}
        yield


def fail() -> None:
    assert threads() == {1}
    raise RuntimeError


def test_it_is_lifted_after_an_error_too() -> None:
    with pytest.raises(RuntimeError):
        one_thread()(fail)()
    assert threads() == {2}


def test_several_threads_leave_no_limit_behind() -> None:
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        with one_thread():
            inside.set()
            go.wait(60)

    second = threading.Thread(target=other)
    with one_thread():
        second.start()
        assert inside.wait(60)
        assert threads() == {1}
    go.set()
    second.join()
    assert threads() == {2}


def test_a_suggestion_the_belief_and_the_stop_are_worked_out_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    learn = Belief.learn

    def watched(*args: Any, **options: Any) -> Belief:
        seen.append(threads())
        return learn(*args, **options)

    monkeypatch.setattr(Belief, "learn", watched)
    space = {"lr": FloatDistribution(1e-4, 1.0, log=True), "fc_norm": FloatDistribution(0.25, 16.0, log=True)}
    sampler = FixNormSampler(space, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(2):
        study.tell(study.ask(space), 0.5)
    before = len(seen)
    sampler.stop_reason(study)
    sampler.expected(study, [{"lr": 0.1, "fc_norm": 1.0}])
    assert 1 <= before == len(seen) - 2
    assert set(map(frozenset, seen)) == {frozenset({1})}
    assert threads() == {2}
