"""The trainer's epochs on a GPU against a lean loop of the same mathematics: time, and peak memory.

    python benchmarks/gpu_trainer.py --blocks 10

ResNet-18 on 10,000 random 32x32 images on the device, batch 256, bf16 autocast, SGD with Nesterov momentum and weight
decay, flips and shifts. Epochs of the two are interleaved, which goes first changes every time, and each is timed from
a finished device to a finished device. Peak memory is the allocator's, each loop alone on the device.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional

from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.fit import Fit

_SHIFT, _SIDE = 4, 32


def main() -> None:
    """Prints a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=10)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="resnet18")
    options = parser.parse_args()
    device = torch.device(options.device)
    data = _noise(options.images)
    trial = TrialSpec(
        model=ModelSpec(name=options.model),
        data=DataSpec(),
        training=TrainingSpec(
            epochs=1, batch_size=options.batch, device=options.device, precision="bf16", warmup_fraction=0.0
        ),
        method=Method.WEIGHT_DECAY,
        params={"lr": 0.1, "weight_decay": 5e-4},
        seed=0,
    )
    kinds: dict[str, Callable[[], Callable[[], None]]] = {
        "trainer": lambda: _ours(trial, data, device),
        "lean": lambda: _lean(trial, data, device, fused=None),
        "lean, fused": lambda: _lean(trial, data, device, fused=True),
    }
    peaks = {name: _peak_bytes(make, device) for name, make in kinds.items()}
    epochs = {name: make() for name, make in kinds.items()}
    times: list[dict[str, float]] = []
    for block in range(options.blocks + 1):
        order = list(epochs) if block % 2 else list(epochs)[::-1]
        times.append({name: _seconds(epochs[name], device) for name in order})
    print("| the trainer against | images per second, ratio | smallest to largest | peak memory, ratio |")
    print("|---|---|---|---|")
    for other in ("lean", "lean, fused"):
        ratios = sorted(block[other] / block["trainer"] for block in times[1:])
        memory = f"{peaks['trainer'] / peaks[other]:.3f}" if peaks[other] else "-"
        print(f"| {other} | {statistics.median(ratios):.3f} | {ratios[0]:.3f} to {ratios[-1]:.3f} | {memory} |")


def _ours(trial: TrialSpec, data: TrainingData, device: torch.device) -> Callable[[], None]:
    fit = Fit(trial, data, device=device)
    return lambda: fit.train_epoch(1) and None


def _lean(trial: TrialSpec, data: TrainingData, device: torch.device, *, fused: bool | None) -> Callable[[], None]:
    model = build_model(trial.model, classes=len(data.classes), channels=3, image_size=_SIDE)
    model = model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused)
    images, labels = data.train.images.to(device), data.train.labels.to(device)
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (data.mean, data.std))

    def epoch() -> None:
        model.train()
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(images), device=device).split(trial.training.batch_size):
            y, x = torch.randint(2 * _SHIFT + 1, (2,)).tolist()
            batch = (images[index].float() / 255 - mean) / std
            batch = functional.pad(batch, (_SHIFT,) * 4, mode="reflect")[..., y : y + _SIDE, x : x + _SIDE]
            batch = torch.where(torch.rand(len(batch), 1, 1, 1, device=device) < 0.5, batch.flip(3), batch)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = functional.cross_entropy(model(batch), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()

    return epoch


def _seconds(epoch: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    started = time.perf_counter()
    epoch()
    _wait(device)
    return time.perf_counter() - started


def _peak_bytes(make: Callable[[], Callable[[], None]], device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    make()()
    _wait(device)
    return torch.cuda.max_memory_allocated(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _noise(images: int) -> TrainingData:
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, 3, _SIDE, _SIDE), generator=random, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % 10)

    return TrainingData(
        classes=tuple("0123456789"),
        channels=3,
        image_size=_SIDE,
        train=split(images),
        validation=split(10),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        flip=True,
        shift=_SHIFT,
    )


if __name__ == "__main__":
    main()
