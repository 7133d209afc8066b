import math

import pytest
import torch

from fixnorm_core.spec import ScheduleSpec
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


def after_warmup(schedule: ScheduleSpec) -> list[float]:
    return [learning_rate_factor(step, steps=100, warmup_fraction=0.1, schedule=schedule) for step in range(10, 100)]


def test_line_falls_evenly_to_one_step_before_zero() -> None:
    assert after_warmup(ScheduleSpec(name="linear")) == pytest.approx([1 - step / 90 for step in range(90)])


def test_steps_fall_by_the_factor_at_each_share_of_the_run() -> None:
    schedule = ScheduleSpec(name="step", milestones=(0.05, 0.5, 0.75), factor=0.5)
    assert after_warmup(schedule) == [0.5] * 40 + [0.25] * 25 + [0.125] * 25


def test_schedule_is_written_by_its_name_and_milestones_must_rise() -> None:
    assert ScheduleSpec.model_validate("linear").name == "linear"
    with pytest.raises(ValueError, match="do not rise"):
        ScheduleSpec(name="step", milestones=(0.5, 0.5))


def test_a_power_bends_the_whole_curve_and_keeps_its_peak() -> None:
    whole = [learning_rate_factor(step, steps=50, warmup_fraction=0.2) for step in range(50)]
    bent = [
        learning_rate_factor(step, steps=50, warmup_fraction=0.2, schedule=ScheduleSpec(power=0.5))
        for step in range(50)
    ]
    assert bent == pytest.approx([math.sqrt(share) for share in whole])
    assert max(bent) == 1.0
