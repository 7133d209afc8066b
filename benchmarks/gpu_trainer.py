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
from lean_loop import lean_epoch

from fixnorm_core.data.types import Split, TrainingData
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
        "lean": lambda: lean_epoch(data, trial, device=device, fused=None),
        "lean, fused": lambda: lean_epoch(data, trial, device=device, fused=True),
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
