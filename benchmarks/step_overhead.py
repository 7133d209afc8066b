"""What FixNorm adds to a training step: whole steps with it and with the base optimizer alone, in turns, in one run.

    python benchmarks/step_overhead.py --blocks 40

Two equal networks train side by side, a few steps (a block) with the one and then with the other; which goes first
changes every time. Each pair of blocks gives one ratio of their times. The spread is that of the median over bootstrap
samples of the ratios. On the CPU, time is this process's CPU time on one thread, which other processes disturb least;
on a GPU it is the device's, between events. The step of the optimizer is also timed alone, many times over, and given
as a share of the whole step: that is the sharper number where the whole steps are noisy. The control holds nothing, so
that its distance from 1 is the error of the method of measuring.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fixnorm_core import FixNorm


@dataclass(frozen=True, slots=True)
class Case:
    """A network, its batch and where it trains."""

    name: str
    model: Callable[[], nn.Module]
    classes: int
    image_size: int
    batch: int
    device: torch.device
    steps_per_block: int
    bf16: bool = False


def main() -> None:
    """Parses the command line, measures every case that this machine can run, prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="pairs of blocks")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="only the cases of this device")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | variant | step ratio | spread | FixNorm alone, share of a step |\n|---|---|---|---|---|")
    for case in _cases():
        if arguments.device not in (None, case.device.type):
            continue
        for variant, options in _VARIANTS.items():
            ratio, spread, share = measure(case, options=options, blocks=arguments.blocks)
            print(f"| {case.name} | {variant} | {ratio:.4f} | ± {spread:.4f} | {share:.2%} |", flush=True)


_VARIANTS: dict[str, dict[str, object]] = {
    "control: nothing held": {"fc_norm": None, "weight_norm": None},
    "default": {},
    "foreach=False": {"foreach": False},
    'granularity="filter"': {"granularity": "filter"},
    'momentum_radial="remove"': {"momentum_radial": "remove"},
}


def _cases() -> list[Case]:
    cpu = torch.device("cpu")
    small, deep = (partial(_small_resnet, blocks=blocks) for blocks in (1, 3))
    cases = [
        Case("small_resnet, width 16, 8 layers, batch 128, fp32, CPU", small, 10, 32, 128, cpu, 1),
        Case("small_resnet, width 16, 20 layers, batch 128, fp32, CPU", deep, 10, 32, 128, cpu, 1),
    ]
    if torch.cuda.is_available():
        where, name = torch.device("cuda"), torch.cuda.get_device_name()
        cases.append(Case(f"resnet50, batch 256, bf16, {name}", _resnet50, 1000, 224, 256, where, 10, bf16=True))
    return cases


def _small_resnet(*, blocks: int) -> nn.Module:
    # Here and below imported where it is needed: a GPU machine may have torch, torchvision and NumPy and no more
    from fixnorm_core.models.build import build_model
    from fixnorm_core.spec import ModelSpec

    spec = ModelSpec(options={"width": 16, "blocks": blocks})
    return build_model(spec, classes=10, channels=3, image_size=32)


def _resnet50() -> nn.Module:
    from fixnorm_core.vision import torchvision

    model: nn.Module = torchvision.models.resnet50(num_classes=1000)
    return model.to(memory_format=torch.channels_last)


def measure(case: Case, *, options: dict[str, object], blocks: int) -> tuple[float, float, float]:
    """The median ratio of step times, its bootstrap standard deviation, and the projection's share of a plain step."""
    torch.manual_seed(0)
    model = case.model().to(case.device)
    images = torch.randn(case.batch, 3, case.image_size, case.image_size, device=case.device)
    labels = torch.randint(case.classes, (case.batch,), device=case.device)
    twin = copy.deepcopy(model)
    held = FixNorm(_sgd(model), model, example_input=images[:8], **({"fc_norm": 2.0} | options))  # type: ignore[arg-type]
    train = partial(_train, images=images, labels=labels, steps=case.steps_per_block, bf16=case.bf16)
    with_it, without = partial(train, model, held), partial(train, twin, _sgd(twin))
    clock = _gpu_time if case.device.type == "cuda" else _cpu_time
    for block in (with_it, without, with_it, without):
        block()
    ratios, plain_times = [], []
    for index in range(blocks):
        first, second = (with_it, without) if index % 2 else (without, with_it)
        times = {first: clock(first), second: clock(second)}
        ratios.append(times[with_it] / times[without])
        plain_times.append(times[without] / case.steps_per_block)
    alone = [clock(held.step) - clock(held.base.step) for _ in range(200)]
    medians = np.median(np.random.default_rng(0).choice(ratios, (2000, len(ratios))), axis=1)
    share = statistics.median(alone) / statistics.median(plain_times)
    return statistics.median(ratios), float(medians.std()), share


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)


def _train(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, images: Tensor, labels: Tensor, steps: int, bf16: bool
) -> None:
    for _ in range(steps):
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _cpu_time(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _gpu_time(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


if __name__ == "__main__":
    main()
