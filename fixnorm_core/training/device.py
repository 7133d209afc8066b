"""Where a run computes, and how it is kept a pure function of its seed there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fixnorm_core.errors import SpecError
from fixnorm_core.spec import TrainingSpec

__all__ = ["pick_device", "place", "reproducible"]

_NARROW = 8

_memory: Any = torch.utils.deterministic  # its one setting is not in torch's type hints


def pick_device(name: str) -> torch.device:
    """The device for ``"auto"`` (CUDA where there is a GPU), ``"cpu"`` or ``"cuda"``.

    Raises:
        SpecError: If CUDA is asked for and torch sees no GPU.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise SpecError(
            f"training.device is {name!r}, but torch sees no GPU here",
            "Set training.device to auto or cpu, or give the trial a GPU (resources.gpus_per_trial) and a CUDA torch",
        )
    return torch.device("cuda", torch.cuda.current_device())


def place(model: nn.Module, device: torch.device, *, precision: str) -> nn.Module:
    """Moves a model, with its convolutions in the memory layout that trains faster there; everyone must use the same.

    Args:
        model: Any.
        device: Where to.
        precision: ``TrainingSpec.precision``.

    Measured on one CPU thread with the small residual network: an epoch on 8x8 digits takes 20 % less time with
    channels last, on 32x32 photographs 10 to 35 % less. In fp32 on a GPU the usual layout is kept; in half precision
    its matrix units want channels last (NVIDIA, "Convolutional Layers User's Guide").

    Models with a convolution of fewer than 8 output channels keep the usual layout on a CPU: with channels last, torch
    2.13 writes beyond its memory in their backward pass where the CPU has AVX2 and nothing newer, and the process
    aborts ("corrupted size vs. prev_size"; seen at widths 2 to 6, not with ``ONEDNN_MAX_CPU_ISA=AVX``). The layout is
    the same on every CPU, so that a run is.
    """
    last = precision != "fp32" if device.type != "cpu" else not _has_narrow_convolution(model)
    layout = torch.channels_last if last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)  # type: ignore[call-overload, no-any-return]


def _has_narrow_convolution(model: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) and module.out_channels < _NARROW for module in model.modules())


@contextmanager
def reproducible(device: torch.device, *, seed: int, training: TrainingSpec | None = None) -> Iterator[None]:
    """Seeds torch and settles how exactly it computes; afterwards all of it is as the caller had it.

    An operator that has no deterministic kernel on ``device`` makes torch warn, and runs.

    Args:
        device: Where the block computes; other GPUs keep their random state.
        seed: For everything in the block that draws from torch's global generators (initialisation, dropout).
        training: Its ``deterministic`` and ``tf32`` hold in the block; None takes the exact modes, as all that is
            measured and compared does.
    """
    exact = training is None or training.deterministic
    cuda = device.type == "cuda"
    tf32 = cuda and training is not None and training.tf32  # on a CPU "high" could mean bf16
    if cuda and exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        _memory.fill_uninitialized_memory,
        torch.get_float32_matmul_precision(),
    )
    try:
        torch.use_deterministic_algorithms(exact, warn_only=True)
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        _memory.fill_uninitialized_memory = False  # a debugging aid that costs a pass over memory
        with (
            torch.random.fork_rng(devices=[device.index] if cuda else []),
            # Without determinism the fastest kernel is found by trying
            torch.backends.cudnn.flags(enabled=True, benchmark=not exact, deterministic=exact, allow_tf32=tf32),
        ):
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _memory.fill_uninitialized_memory = before[2]
        torch.set_float32_matmul_precision(before[3])
