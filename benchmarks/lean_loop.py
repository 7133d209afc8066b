"""The lean loop that the trainer is compared with: what a careful person writes by hand for one run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import TrialSpec

__all__ = ["MOMENTUM", "lean_epoch"]

MOMENTUM = 0.9


def lean_epoch(
    data: TrainingData, trial: TrialSpec, *, device: torch.device | None = None, fused: bool | None = None
) -> Callable[[], None]:
    """An epoch of SGD with weight decay: images and labels as tensors, flips and shifts a batch at a time.

    Args:
        data: In memory.
        trial: Its model, batch size, learning rate and weight decay; ``bf16`` is by autocast.
        device: Where; None takes the CPU.
        fused: Of torch's SGD; None takes torch's default.
    """
    device = torch.device("cpu") if device is None else device
    assert isinstance(data.train, Split)
    model = build_model(trial.model, classes=len(data.classes), channels=data.channels, image_size=data.image_size)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rate, decay = trial.params["lr"], trial.params["weight_decay"]
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=decay, fused=fused
    )
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (data.mean, data.std))
    half = trial.training.precision == "bf16"

    def epoch() -> None:
        model.train()
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(images), device=device).split(trial.training.batch_size):
            batch = (_shifted(images[index], by=data.shift, flip=data.flip) / 255 - mean) / std
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
                loss = functional.cross_entropy(model(batch), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()

    return epoch


def _shifted(images: torch.Tensor, *, by: int, flip: bool) -> torch.Tensor:
    """As floats; one shift for a batch and flips image by image: the cheapest way that is in use."""
    side = images.shape[-1]
    y, x = torch.randint(2 * by + 1, (2,)).tolist()
    padded = functional.pad(images.float(), (by,) * 4, mode="reflect")[..., y : y + side, x : x + side]
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, padded.flip(3), padded) if flip else padded
