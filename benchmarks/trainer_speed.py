"""The trainer's epochs against a lean loop of the same mathematics, and against a loader that augments with Pillow.

Run ``FIXNORM_DATA_ROOT=... python benchmarks/trainer_speed.py``. Blocks of one epoch of each kind are interleaved, and
each is timed by the CPU time of this process on one thread, so that other work on the machine counts for little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import DataLoader

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_training_data
from fixnorm_core.data.types import TrainingData
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training.fit import Fit
from fixnorm_core.vision import torchvision

BATCH, RATE, MOMENTUM, DECAY = 64, 0.1, 0.9, 5e-4


def lean_epoch(data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    """An epoch written by hand: images and labels as tensors, flips and shifts a batch at a time."""
    model = _model(data, trial)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (data.mean, data.std))

    def epoch() -> None:
        model.train()
        total = torch.zeros(())
        for index in torch.randperm(len(data.train)).split(BATCH):
            images = _shifted(data.train.images[index], by=data.shift, flip=data.flip)
            loss = functional.cross_entropy(model((images.float() / 255 - mean) / std), data.train.labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total += loss.detach()

    return epoch


def loader_epoch(data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    """An epoch in the style of torchvision's reference: a DataLoader that transforms one Pillow image at a time."""
    transforms = torchvision.transforms
    change = transforms.Compose(
        [
            transforms.RandomCrop(data.image_size, padding=data.shift),
            *([transforms.RandomHorizontalFlip()] if data.flip else []),
            transforms.PILToTensor(),
            transforms.ConvertImageDtype(torch.float),
            transforms.Normalize(data.mean, data.std),
        ]
    )
    pictures = [transforms.functional.to_pil_image(image) for image in data.train.images]
    labels = data.train.labels.tolist()
    images = list(zip(pictures, labels, strict=True))
    loader = DataLoader(images, batch_size=BATCH, shuffle=True, collate_fn=lambda batch: _collated(batch, change))  # type: ignore[arg-type]
    model = _model(data, trial)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)

    def epoch() -> None:
        model.train()
        for batch, targets in loader:
            loss = functional.cross_entropy(model(batch), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            loss.item()

    return epoch


def our_epoch(data: TrainingData, trial: TrialSpec) -> Callable[[], None]:
    """An epoch of the trainer, with weight decay, since the others know no FixNorm."""
    fit = Fit(trial, data, device=torch.device("cpu"))
    return lambda: fit.train_epoch(1) and None


def main() -> None:
    """Prints one line for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    root = os.environ.get("FIXNORM_DATA_ROOT")
    specs = [DataSpec(train_limit=options.images, validation_limit=10)]
    if root:
        folder = DataSpec(name="imagefolder", path="cifar10", shift=4, train_limit=options.images, validation_limit=10)
        specs.append(check_data(folder, root=Path(root)))
    for spec in specs:
        print(_compared(spec, blocks=options.blocks), flush=True)


def _compared(spec: DataSpec, *, blocks: int) -> str:
    data = load_training_data(spec)
    trial = TrialSpec(
        model=ModelSpec(options={"width": 8}),
        data=spec,
        training=TrainingSpec(epochs=1, batch_size=BATCH, device="cpu", warmup_fraction=0.0),
        method=Method.WEIGHT_DECAY,
        params={"lr": RATE, "weight_decay": DECAY},
        seed=0,
    )
    kinds = {"ours": our_epoch, "lean": lean_epoch, "loader": loader_epoch}
    epochs = {name: make(data, trial) for name, make in kinds.items()}
    seconds = [{name: _cpu_seconds(epoch) for name, epoch in epochs.items()} for _ in range(blocks + 1)][1:]
    parts = [f"{spec.name} ({len(data.train)} images of {data.image_size}x{data.image_size}):"]
    for name in ("lean", "loader"):
        ratios = sorted(block[name] / block["ours"] for block in seconds)
        parts.append(f"ours/{name} {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return " ".join(parts)


def _model(data: TrainingData, trial: TrialSpec) -> torch.nn.Module:
    model = build_model(trial.model, classes=len(data.classes), channels=data.channels, image_size=data.image_size)
    return model.to(memory_format=torch.channels_last)


def _shifted(images: torch.Tensor, *, by: int, flip: bool) -> torch.Tensor:
    """One shift for a batch and flips image by image: the cheapest way that is in use."""
    side = images.shape[-1]
    y, x = torch.randint(2 * by + 1, (2,)).tolist()
    padded = functional.pad(images.float(), (by,) * 4, mode="reflect")[..., y : y + side, x : x + side]
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored, padded.flip(3), padded) if flip else padded


def _collated(
    batch: list[tuple[object, int]], change: Callable[[object], torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.stack([change(image) for image, _ in batch]), torch.tensor([label for _, label in batch])


def _cpu_seconds(epoch: Callable[[], None]) -> float:
    started = time.process_time()
    epoch()
    return time.process_time() - started


if __name__ == "__main__":
    main()
