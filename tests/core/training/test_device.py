from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import TrainingSpec, TrialSpec
from fixnorm_core.training.device import place, reproducible
from fixnorm_core.training.fit import Fit
from fixnorm_core.training.trainer import Trainer

MakeTrial = Callable[..., TrialSpec]
CPU = torch.device("cpu")


def modes() -> dict[str, Any]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn deterministic": torch.backends.cudnn.deterministic,
        "cudnn tries kernels": torch.backends.cudnn.benchmark,
        "cudnn tf32": torch.backends.cudnn.allow_tf32,
        "matmul": torch.get_float32_matmul_precision(),
    }


EXACT = {
    "deterministic": True,
    "cudnn deterministic": True,
    "cudnn tries kernels": False,
    "cudnn tf32": False,
    "matmul": "highest",
}
ANY_KERNEL = {"deterministic": False, "cudnn deterministic": False, "cudnn tries kernels": True}
TF32 = {"cudnn tf32": True, "matmul": "high"}


def block(device: str, **training: Any) -> AbstractContextManager[None]:
    return reproducible(torch.device(device), seed=0, training=TrainingSpec(**training) if training else None)


@pytest.mark.parametrize("training", [{}, {"deterministic": True, "tf32": False}], ids=["none given", "defaults"])
def test_without_a_word_everything_is_exact_and_the_callers_modes_come_back(training: dict[str, Any]) -> None:
    before = modes()
    with block("cpu", **training):
        assert modes() == EXACT
    assert modes() == before


def test_determinism_is_given_up_where_that_is_asked_for() -> None:
    before = modes()
    with block("cpu", deterministic=False):
        assert modes() == EXACT | ANY_KERNEL
    assert modes() == before


def test_a_cpu_has_no_tf32() -> None:
    with block("cpu", tf32=True):
        assert modes() == EXACT


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_gpu_takes_tf32_where_that_is_asked_for(deterministic: bool) -> None:
    before = modes()
    with block("cuda", deterministic=deterministic, tf32=True):
        assert modes() == EXACT | ({} if deterministic else ANY_KERNEL) | TF32
    assert modes() == before


def test_training_follows_the_option_and_evaluation_stays_exact(
    make_trial: MakeTrial, small_digits: TrainingData
) -> None:
    fit = Fit(make_trial(deterministic=False), small_digits, device=CPU)
    seen = set()
    fit.model.register_forward_hook(lambda model, *_: seen.add((model.training, modes()["deterministic"])))
    fit.train_epoch(1)
    fit.validate()
    assert seen == {(True, False), (False, True)}


def test_a_faster_mode_is_another_run(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(Trainer(make_trial(), folder=tmp_path, data=small_digits))
    faster = Trainer(make_trial(deterministic=False), folder=tmp_path, data=small_digits)
    assert "of another run" in caplog.text
    assert len(list(faster)) == 4


@pytest.mark.parametrize(("width", "channels_last"), [(4, False), (8, True)])
def test_narrow_convolutions_keep_the_layout_whose_kernels_stay_within_their_memory(
    width: int, channels_last: bool
) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.Conv2d(width, 16, 3))
    placed = place(model, CPU, precision="fp32")
    (first, second) = (layer.weight for layer in placed.children())
    assert first.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert second.is_contiguous(memory_format=torch.channels_last) is channels_last
