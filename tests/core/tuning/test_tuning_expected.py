"""What the sampler expects at a point, free of the seed's noise."""

from __future__ import annotations

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from fixnorm_core.tuning.sampler import FixNormSampler

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "fc_norm": FloatDistribution(0.25, 16.0, log=True)}
RATES = (1e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2, 0.1)
ACCURACIES = (0.40, 0.55, 0.56, 0.60, 0.54, 0.38)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_a_lucky_run_is_expected_to_be_lower_than_it_was_and_repeats_settle_it(direction: str) -> None:
    sign = 1.0 if direction == "maximize" else -1.0
    study = optuna.create_study(direction=direction)
    lucky = {"lr": 1.6e-2, "fc_norm": 2.0}
    for rate, accuracy in zip(RATES, ACCURACIES, strict=True):
        study.add_trial(_trial(rate, sign * accuracy))
    sampler = FixNormSampler(SPACE, seed=1)

    [once] = sampler.expected(study, [lucky])
    for _ in range(4):
        study.add_trial(_trial(1.6e-2, sign * 0.56))
    [repeated] = sampler.expected(study, [lucky])

    assert sign * once < 0.60
    assert sign * repeated == pytest.approx(0.57, abs=0.012)


def test_without_a_complete_trial_nothing_is_expected() -> None:
    with pytest.raises(ValueError, match="no complete trial"):
        FixNormSampler(SPACE, seed=1).expected(optuna.create_study(direction="maximize"), [{"lr": 0.1, "fc_norm": 1.0}])


def _trial(rate: float, value: float) -> optuna.trial.FrozenTrial:
    return create_trial(params={"lr": rate, "fc_norm": 2.0}, distributions=SPACE, value=value)
