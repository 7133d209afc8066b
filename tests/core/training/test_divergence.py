from __future__ import annotations

import pytest
import torch

from fixnorm_core.training.divergence import DivergenceCheck


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_on_a_cpu_a_sum_that_is_not_finite_is_seen_at_once(broken: float) -> None:
    diverged = DivergenceCheck(torch.device("cpu"))
    total = torch.zeros((), dtype=torch.float64)

    assert not diverged(total + 1e300)
    assert diverged(total + broken)


@pytest.mark.gpu
def test_on_a_gpu_it_is_seen_one_look_later_and_the_host_never_waits_for_all_that_is_queued() -> None:
    diverged = DivergenceCheck(torch.device("cuda"))
    total = torch.zeros((), dtype=torch.float64, device="cuda")
    later = torch.ones_like(total)
    torch.cuda.synchronize()

    torch.cuda.set_sync_debug_mode("error")
    try:
        answers = [diverged(total)]
        total += float("nan")
        answers.append(diverged(total))
        torch.cuda._sleep(2_000_000_000)  # a second or so of work that no answer may wait for
        behind = torch.cuda.Event()
        later += 1
        behind.record()
        answers.append(diverged(total))
        assert not behind.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")

    assert answers == [False, False, True]
    torch.cuda.synchronize()
