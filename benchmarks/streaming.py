"""Streamed training batches against torchvision's reference-style loader, at the same number of processes.

    FIXNORM_DATA_ROOT=... python benchmarks/streaming.py --blocks 5

Both read the same JPEG files (CIFAR-10 images enlarged to 500x375 with some detail added, since enlarged ones alone
compress unrealistically well), cut a random rectangle, resize it to 224x224, mirror every second one, and end in a
normalized float32 batch. No network is trained. Passes of the two are interleaved; a pass is timed from its start to
its last batch by the wall clock, and by the CPU time of all processes, which other work on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from fixnorm_core.data.batches import Augmentation, Normalization, training_batches
from fixnorm_core.data.mixing import transforms
from fixnorm_core.data.pool import PRELOADED, WorkerPool, _Answers
from fixnorm_core.data.streaming import StreamedSplit, _Centres
from fixnorm_core.vision import torchvision

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224

Pass = Callable[[], Iterator[Tensor]]


def make_folder(root: Path, *, source: Path, count: int, size: tuple[int, int]) -> None:
    """Writes JPEG files of quality 90 into ten class folders."""
    random = np.random.default_rng(0)
    for folder in sorted(source.iterdir()):
        (root / folder.name).mkdir(parents=True)
        for path in sorted(folder.iterdir())[: count // 10]:
            large = np.asarray(Image.open(path).convert("RGB").resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
            grain = random.normal(0.0, 6.0, large.shape[:2])[..., None]
            Image.fromarray((large + grain).clip(0, 255).astype(np.uint8)).save(
                root / folder.name / path.name, quality=90
            )


def ours(root: Path, *, workers: int, batch_size: int) -> Pass:
    """The trainer's own batches."""
    paths = sorted(root.rglob("*.jpg"))
    split = StreamedSplit(paths, torch.zeros(len(paths), dtype=torch.int64), SIDE, WorkerPool(workers))
    augmentation = Augmentation(flip=True, shift=0, crop_min_area=0.08)
    normalization = Normalization(MEAN, STD)
    epochs = iter(range(1, 10**6))

    def one_pass() -> Iterator[Tensor]:
        batches = training_batches(split, batch_size=batch_size, augmentation=augmentation, seed=0, epoch=next(epochs))
        return (normalization(images) for images, _ in batches)

    return one_pass


def reference(root: Path, *, workers: int, batch_size: int) -> Pass:
    """``references/classification`` of torchvision: an ImageFolder, and v2 transforms of one Pillow image at a time."""
    v2 = transforms()
    change = v2.Compose(
        [
            v2.RandomResizedCrop(SIDE, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.PILToTensor(),
            v2.ToDtype(torch.float, scale=True),
            v2.Normalize(mean=MEAN, std=STD),
            v2.ToPureTensor(),
        ]
    )
    loader = DataLoader(
        torchvision.datasets.ImageFolder(str(root), transform=change),
        batch_size=batch_size,
        shuffle=True,
        num_workers=workers,
        multiprocessing_context=multiprocessing.get_context("forkserver"),
        persistent_workers=True,
    )
    return lambda: (images for images, _ in loader)


def main() -> None:
    """Prints one line for each number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, nargs=2, default=[500, 375])
    options = parser.parse_args()
    torch.set_num_threads(1)
    source = Path(os.environ["FIXNORM_DATA_ROOT"]) / "cifar10" / "train"
    with tempfile.TemporaryDirectory() as scratch:
        make_folder(Path(scratch), source=source, count=options.images, size=tuple(options.size))
        bytes_each = statistics.mean(path.stat().st_size for path in Path(scratch).rglob("*.jpg"))
        print(f"{options.images} JPEG files of {options.size[0]}x{options.size[1]}, {bytes_each / 1024:.0f} KiB each")
        multiprocessing.set_forkserver_preload(PRELOADED)
        print(_starts(Path(scratch), workers=max(options.workers)), flush=True)
        for workers in options.workers:
            print(_compared(Path(scratch), workers=workers, options=options), flush=True)


def _starts(root: Path, *, workers: int) -> str:
    """Seconds until the first batch of two images, from nothing and then once more."""
    paths = tuple(str(path) for path in sorted(root.rglob("*.jpg"))[:2])
    parts = []
    for method in ("forkserver", "spawn"):
        took = []
        for _ in range(2):
            started = time.perf_counter(), _cpu_seconds()
            requests = [_Centres(paths, SIDE)] * workers
            loader = DataLoader(
                _Answers(),
                batch_size=None,
                sampler=requests,
                num_workers=workers,
                multiprocessing_context=multiprocessing.get_context(method),
            )
            answers = iter(loader)
            next(answers)
            took.append((time.perf_counter() - started[0], _cpu_seconds() - started[1]))
            del answers, loader
        parts.append(f"{method} " + ", then ".join(f"{wall:.1f} s wall, {cpu:.1f} s CPU" for wall, cpu in took))
    return f"start of {workers} processes: " + "; ".join(parts)


def _compared(root: Path, *, workers: int, options: argparse.Namespace) -> str:
    seconds: dict[str, list[tuple[float, float]]] = {}
    memory = {}
    passes = {}
    before: set[int] = set()
    for name, make in (("ours", ours), ("reference", reference)):
        passes[name] = make(root, workers=workers, batch_size=options.batch_size)
        _timed(passes[name])  # starts the processes
        family = {child.pid for child in psutil.Process().children(recursive=True)}
        readers = [psutil.Process(pid) for pid in family - before if psutil.Process(pid).name() == "pt_data_worker"]
        memory[name] = sum(reader.memory_full_info().uss for reader in readers) / 2**20  # what they share not counted
        seconds[name], before = [], family
    for block in range(options.blocks):
        for name in sorted(passes, reverse=bool(block % 2)):
            seconds[name].append(_timed(passes[name]))
    parts = [f"{workers} processes:"]
    for place, clock in enumerate(("wall", "CPU")):
        ratios = sorted(
            other[place] / own[place] for own, other in zip(seconds["ours"], seconds["reference"], strict=True)
        )
        speed = {name: options.images / statistics.median(one[place] for one in each) for name, each in seconds.items()}
        parts.append(
            f"{clock} ours {speed['ours']:.0f}/s, reference {speed['reference']:.0f}/s, ratio "
            f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f});"
        )
    parts.append(f"readers' memory ours {memory['ours']:.0f} MiB, reference {memory['reference']:.0f} MiB")
    return " ".join(parts)


def _timed(one_pass: Pass) -> tuple[float, float]:
    """Wall and CPU seconds of a pass, the latter over all processes."""
    started = time.perf_counter(), _cpu_seconds()
    for _ in one_pass():
        pass
    return time.perf_counter() - started[0], _cpu_seconds() - started[1]


def _cpu_seconds() -> float:
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:2]) for process in family)


if __name__ == "__main__":
    main()
