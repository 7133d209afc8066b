import math

import pytest
import torch

from fixnorm_core.training.schedule import learning_rate_factor


def curve(steps: int, warmup_fraction: float) -> list[float]:
    return [learning_rate_factor(step, steps=steps, warmup_fraction=warmup_fraction) for step in range(steps)]


def test_rises_linearly_then_falls_to_nearly_zero() -> None:
    factors = curve(100, 0.1)
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(factors) == factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert 0 < factors[-1] < 0.001


def test_without_warmup_it_is_torchs_cosine() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    expected = []
    for _ in range(50):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert curve(50, 0.0) == pytest.approx(expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup_fraction", [0.0, 0.5, 0.99])
def test_short_runs_have_a_positive_rate_and_reach_the_peak(steps: int, warmup_fraction: float) -> None:
    factors = curve(steps, warmup_fraction)
    assert all(0 < factor <= 1 and math.isfinite(factor) for factor in factors)
    assert max(factors) == 1.0


@pytest.mark.parametrize("step", [-1, 10])
def test_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=r"must be in \[0, 10\)"):
        learning_rate_factor(step, steps=10, warmup_fraction=0.1)
