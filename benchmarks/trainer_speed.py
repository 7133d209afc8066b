"""The trainer's epochs against a lean loop of the same mathematics, and against loaders that augment with Pillow.

    FIXNORM_DATA_ROOT=... python benchmarks/trainer_speed.py            # images per second
    FIXNORM_DATA_ROOT=... python benchmarks/trainer_speed.py --memory   # peak memory

The loops, all with the same network, optimizer and batch size, and fp32:

- ours: the trainer, with weight decay, since the others know no FixNorm.
- lean: written by hand, the images in memory, flips and shifts a batch at a time, torch's defaults.
- lean, fused: the same with ``SGD(fused=True)``, which the trainer uses.
- crops: a DataLoader that takes decoded Pillow images from memory and crops, flips and normalizes one at a time.
- reference: torchvision's references/classification/presets.py without extras (RandomResizedCrop,
  RandomHorizontalFlip, PILToTensor, ConvertImageDtype, Normalize) on an ImageFolder, which decodes a file for every
  image, with 0 workers or 1.

Speed: blocks of one epoch of each kind are interleaved, and each is timed by the CPU time of this process on one thread
and of the worker it started, so that other work on the machine counts for little and a worker gets no CPU for nothing.
Memory: each loop runs in a process of its own, twice over an epoch, whose peak resident size the kernel tells (VmHWM);
the processes import the same modules.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from lean_loop import MOMENTUM, lean_epoch
from torch.nn import functional
from torch.utils.data import DataLoader

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_training_data
from fixnorm_core.data.types import TrainingData
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.fit import Fit
from fixnorm_core.vision import torchvision

BATCH, RATE, DECAY = 64, 0.1, 5e-4


def crops_epoch(data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    """An epoch over a DataLoader that transforms decoded Pillow images one at a time."""
    transforms = torchvision.transforms
    change = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=data.shift),
            *([transforms.RandomHorizontalFlip()] if data.flip else []),
            *_to_normalized(data),
        ]
    )
    pictures = [(change, transforms.functional.to_pil_image(image)) for image in data.train.images]
    items = list(zip(pictures, data.train.labels.tolist(), strict=True))
    return _loader_epoch(DataLoader(items, batch_size=BATCH, shuffle=True, collate_fn=_changed), data, trial)  # type: ignore[arg-type]


def reference_epoch(data: TrainingData, trial: TrialSpec, *, workers: int) -> Callable[[], None]:
    """An epoch of torchvision's reference: files decoded and transformed one at a time, by so many workers."""
    transforms = torchvision.transforms
    change = transforms.Compose(
        [
            *([transforms.Grayscale()] if data.channels == 1 else []),
            transforms.RandomResizedCrop(data.image_size),
            *([transforms.RandomHorizontalFlip()] if data.flip else []),
            *_to_normalized(data),
        ]
    )
    folder = Path(tempfile.mkdtemp(prefix="fixnorm-"))
    for number, (image, label) in enumerate(zip(data.train.images, data.train.labels.tolist(), strict=True)):
        path = folder / data.classes[label] / f"{number}.{'png' if data.channels == 1 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        transforms.functional.to_pil_image(image).save(path)
    files = torchvision.datasets.ImageFolder(str(folder), change)
    return _loader_epoch(DataLoader(files, batch_size=BATCH, shuffle=True, num_workers=workers), data, trial)


def our_epoch(data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    """An epoch of the trainer, with weight decay, since the others know no FixNorm."""
    fit = Fit(trial, data, device=torch.device("cpu"))
    return lambda: fit.train_epoch(1) and None


KINDS: dict[str, Callable[[TrainingData, TrialSpec], Callable[[], None]]] = {
    "ours": our_epoch,
    "lean": lean_epoch,
    "lean, fused": partial(lean_epoch, fused=True),
    "crops": crops_epoch,
    "reference, 0 workers": partial(reference_epoch, workers=0),
    "reference, 1 worker": partial(reference_epoch, workers=1),
}
MEMORY_KINDS = ("ours", "lean", "lean, fused")


def main() -> None:
    """Prints one line for each data set and other loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--memory", action="store_true", help="peak memory in place of speed")
    parser.add_argument("--one", metavar="KIND", help="only run this loop on the first data set, for --memory")
    parser.add_argument("--cifar10", action="store_true", help="only CIFAR-10")
    options = parser.parse_args()
    torch.set_num_threads(1)
    specs = _data(images=options.images, only_cifar10=options.cifar10)
    if options.one:
        print(_peak_mib(options.one, specs[0], width=options.width))
        return
    print("| images | against | median | smallest to largest |\n|---|---|---|---|")
    for spec in specs:
        compare = _compared_memory if options.memory else _compared
        for line in compare(spec, blocks=options.blocks, width=options.width, images=options.images):
            print(line, flush=True)


def _data(*, images: int, only_cifar10: bool) -> list[DataSpec]:
    root = os.environ.get("FIXNORM_DATA_ROOT")
    specs = [] if only_cifar10 else [DataSpec(train_limit=images, validation_limit=10)]
    if root:
        folder = DataSpec(name="imagefolder", path="cifar10", shift=4, train_limit=images, validation_limit=10)
        specs.append(check_data(folder, root=Path(root)))
    return specs


def _trial(spec: DataSpec, *, width: int) -> TrialSpec:
    return TrialSpec(
        model=ModelSpec(options={"width": width}),
        data=spec,
        training=TrainingSpec(epochs=1, batch_size=BATCH, device="cpu", warmup_fraction=0.0),
        method=Method.WEIGHT_DECAY,
        params={"lr": RATE, "weight_decay": DECAY},
        seed=0,
    )


def _compared(spec: DataSpec, *, blocks: int, width: int, images: int) -> list[str]:
    data, trial = load_training_data(spec), _trial(spec, width=width)
    epochs = {name: make(data, trial) for name, make in KINDS.items()}
    seconds = []
    for block in range(blocks + 1):
        # Who goes first alternates, so that nobody always gets the warmer caches
        order = list(epochs) if block % 2 else list(epochs)[::-1]
        seconds.append({name: _cpu_seconds(epochs[name]) for name in order})
    del seconds[0]
    name = f"{spec.name}, {images} of {data.image_size}x{data.image_size}, width {width}"
    return [
        _line(name, other, [block[other] / block["ours"] for block in seconds]) for other in KINDS if other != "ours"
    ]


def _compared_memory(spec: DataSpec, *, blocks: int, width: int, images: int) -> list[str]:
    own = [str(Path(__file__).resolve()), "--images", str(images), "--width", str(width)]
    own += ["--cifar10"] if spec.name == "imagefolder" else []
    peaks: dict[str, list[float]] = {kind: [] for kind in MEMORY_KINDS}
    for _ in range(blocks):
        for kind in MEMORY_KINDS:
            answer = subprocess.run([sys.executable, *own, "--one", kind], check=True, capture_output=True, text=True)
            peaks[kind].append(float(answer.stdout.split()[-1]))
    name = f"{spec.name}, {images}, width {width}"
    lines = [f"| {name} | {kind}, MiB | {statistics.median(got):.0f} | {min(got):.0f} to {max(got):.0f} |"
             for kind, got in peaks.items()]  # fmt: skip
    for other in MEMORY_KINDS[1:]:
        lines.append(_line(name, other, [ours / its for ours, its in zip(peaks["ours"], peaks[other], strict=True)]))
    return lines


def _line(name: str, other: str, ratios: list[float]) -> str:
    return f"| {name} | {other} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"


def _peak_mib(kind: str, spec: DataSpec, *, width: int) -> float:
    """Of this process, after two epochs. Not ``ru_maxrss``, which a process inherits from the one that started it."""
    epoch = KINDS[kind](load_training_data(spec), _trial(spec, width=width))
    for _ in range(2):
        epoch()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(peak) / 1024


def _loader_epoch(loader: DataLoader[object], data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    model = _model(data, trial)
    optimizer = _sgd(model)

    def epoch() -> None:
        model.train()
        for batch, targets in loader:
            loss = functional.cross_entropy(model(batch), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def _to_normalized(data: TrainingData) -> list[object]:
    transforms = torchvision.transforms
    return [
        transforms.PILToTensor(),
        transforms.ConvertImageDtype(torch.float),
        transforms.Normalize(data.mean, data.std),
    ]


def _sgd(model: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)


def _model(data: TrainingData, trial: TrialSpec) -> torch.nn.Module:
    model = build_model(trial.model, classes=len(data.classes), channels=data.channels, image_size=data.image_size)
    return model.to(memory_format=torch.channels_last)


def _changed(batch: list[tuple[tuple[Callable[[object], torch.Tensor], object], int]]) -> tuple[torch.Tensor, ...]:
    return torch.stack([change(image) for (change, image), _ in batch]), torch.tensor([label for _, label in batch])


def _cpu_seconds(epoch: Callable[[], None]) -> float:
    started = _used_seconds()
    epoch()
    return _used_seconds() - started


def _used_seconds() -> float:
    """CPU time of this process and of children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
