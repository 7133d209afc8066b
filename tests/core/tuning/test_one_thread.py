"""Linear algebra stays in the calling thread while the sampler works, and only then."""

from __future__ import annotations

import os
import subprocess
import sys
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


def test_of_several_threads_none_lifts_the_limit_of_another_or_leaves_one_behind() -> None:
    """In a process of its own, whose linear algebra no other limit holds, as the fixture's does here."""
    code = """
import threading
import scipy.linalg
from threadpoolctl import threadpool_info
from fixnorm_core.tuning.one_thread import one_thread

def threads():
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

def other():
    came.set()
    with one_thread():
        inside.set()
        left.wait()
        print(threads())

print(threads())
came, inside, left = (threading.Event() for _ in range(3))
second = threading.Thread(target=other)
with one_thread():
    second.start()
    came.wait()
    inside.wait(1)
    print(threads())
left.set()
second.join()
print(threads())
"""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["{2}", "{1}", "{1}", "{2}"]


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
