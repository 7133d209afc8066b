from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.study import Study

from fixnorm_core.tuning.attributes import DIVERGED
from fixnorm_core.tuning.sampler import FixNormSampler

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "fc_norm": FloatDistribution(0.25, 16.0, log=True),
}


def test_a_search_that_has_found_a_noisy_peak_ends_with_a_sentence() -> None:
    study, sampler = run_study(trials=24, noise=0.01)
    reason = sampler.stop_reason(study)
    assert reason is not None
    assert reason.startswith("No point is expected to gain more than the seed noise (0.0")
    assert "after 24 trials" in reason


@pytest.mark.parametrize("seed", range(4))
def test_a_search_does_not_end_before_a_peak_can_be_placed(seed: int) -> None:
    study, sampler = run_study(trials=3, noise=0.005, seed=seed)
    assert sampler.stop_reason(study) is None


def test_a_search_that_has_only_diverged_does_not_end() -> None:
    sampler = FixNormSampler(SPACE, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for number in range(15):
        trial = study.ask(SPACE)
        trial.set_user_attr(DIVERGED, True)
        study.tell(trial, 0.1 + 0.001 * number)
    assert sampler.stop_reason(study) is None


def test_a_search_whose_values_are_all_the_same_does_not_end() -> None:
    sampler = FixNormSampler(SPACE, seed=0)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(15):
        study.tell(study.ask(SPACE), 0.1)
    assert sampler.stop_reason(study) is None


def test_the_reason_is_a_pure_function_of_the_study() -> None:
    study, sampler = run_study(trials=24, noise=0.01)
    assert FixNormSampler(SPACE, seed=0).stop_reason(study) == sampler.stop_reason(study)


def test_a_study_of_several_objectives_is_refused() -> None:
    study = optuna.create_study(directions=["maximize", "maximize"])
    with pytest.raises(ValueError, match="multi-objective"):
        FixNormSampler(SPACE).stop_reason(study)


def run_study(*, trials: int, noise: float, seed: int = 0) -> tuple[Study, FixNormSampler]:
    rng = np.random.default_rng(seed)
    sampler = FixNormSampler(SPACE, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for _ in range(trials):
        trial = study.ask(SPACE)
        away = math.log10(trial.params["lr"] / 0.03) ** 2 + math.log10(trial.params["fc_norm"] / 3.0) ** 2
        study.tell(trial, 0.8 - 0.1 * away + noise * rng.standard_normal())
    return study, sampler
