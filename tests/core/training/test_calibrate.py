"""Running statistics from the data."""

from __future__ import annotations

import torch
from torch import nn

from fixnorm_core.training.calibrate import set_running_statistics


def test_evaluation_on_that_batch_equals_training_mode() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    images = torch.randn(64, 3, 12, 12)
    set_running_statistics(model, images)
    trained = model(images)
    torch.testing.assert_close(model.eval()(images), trained, rtol=1e-2, atol=1e-2)  # unbiased against biased variance


def test_momentum_is_as_before_and_no_batch_is_counted() -> None:
    norm = nn.BatchNorm2d(3, momentum=None)
    set_running_statistics(norm, torch.randn(8, 3, 4, 4))
    assert norm.momentum is None
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 0


def test_a_model_without_batchnorm_is_not_run() -> None:
    runs: list[nn.Module] = []
    model = nn.Conv2d(3, 4, 3)
    model.register_forward_pre_hook(lambda module, _: runs.append(module))
    set_running_statistics(model, torch.randn(4, 3, 8, 8))
    assert runs == []
