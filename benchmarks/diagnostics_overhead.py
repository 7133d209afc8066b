"""What the diagnostics of every epoch add to training.

    python benchmarks/diagnostics_overhead.py --blocks 30

Epochs with diagnostics and epochs of an equal run without them are interleaved, validation included, and each is timed
by the CPU time of this process on one thread. The control compares two runs without. The diagnostics of an epoch are
also timed alone, many times over and without the training around them, and given as a share of an epoch: the sharper
number where whole epochs scatter.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.reports import EpochDiagnostics, RoleDiagnostics
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec
from fixnorm_core.training import fit
from fixnorm_core.training.diagnostics import Diagnostics

_BATCH = 64


class Nothing(Diagnostics):
    """Measures nothing."""

    def begin(self, *, steps: int) -> None:
        """Of no step."""

    @contextmanager
    def watching(self, index: int) -> Iterator[None]:  # noqa: ARG002
        """Of no step."""
        yield

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Of no image."""
        yield

    def summary(self) -> EpochDiagnostics:
        """Nothing."""
        none = RoleDiagnostics()
        return EpochDiagnostics(scale_invariant=none, head=none, free=none)


def main() -> None:
    """Prints one line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| images | variant | epoch ratio, median | middle half | alone, share of an epoch |\n|---|---|---|---|---|")
    cases = [("8x8 grey, 1,000 images", 1, 8, 1000), ("32x32 colour, 500 images", 3, 32, 500)]
    for name, channels, side, images in cases:
        data = _noise(channels=channels, side=side, images=images)
        for variant, kind in (("diagnostics", Diagnostics), ("control: none", Nothing)):
            print(f"| {name} | {variant} | {_compared(data, kind, blocks=options.blocks)} |", flush=True)


def _compared(data: TrainingData, kind: type[Diagnostics], *, blocks: int) -> str:
    runs = [_run(data, kind), _run(data, Nothing)]
    pairs, plain = [], []
    for block in range(blocks + 2):
        # Which of the two goes first alternates, so that neither gets the warmer caches
        order = (0, 1) if block % 2 else (1, 0)
        seconds = {place: _epoch(runs[place]) for place in order}
        pairs.append(seconds[0] / seconds[1])
        plain.append(seconds[1])
    ratios = sorted(pairs[2:])
    quarter = len(ratios) // 4
    share = _alone(runs[0], steps=-(-len(data.train) // _BATCH)) / statistics.median(plain)
    return f"{statistics.median(ratios):.3f} | {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f} | {share:.2%}"


def _alone(run: fit.Fit, *, steps: int) -> float:
    """Median seconds of one epoch's measurements around steps that do nothing; feeding the head is counted with it."""
    diagnostics, head = run._diagnostics, run.model.get_submodule("head")
    features = torch.randn(200, run.model.get_parameter("head.weight").shape[1])

    def once() -> float:
        started = time.process_time()
        diagnostics.begin(steps=steps)
        for index in range(steps):
            with diagnostics.watching(index):
                pass
        with torch.inference_mode(), diagnostics.validating():
            head(features)
        diagnostics.summary()
        return time.process_time() - started

    return statistics.median(once() for _ in range(200))


def _run(data: TrainingData, kind: type[Diagnostics]) -> fit.Fit:
    fit.Diagnostics = kind  # type: ignore[misc]
    trial = TrialSpec(
        model=ModelSpec(options={"width": 8}),
        data=DataSpec(),
        training=TrainingSpec(epochs=1, batch_size=_BATCH, device="cpu"),
        method=Method.FIXNORM,
        params={"lr": 0.008, "fc_norm": 2.0},
        seed=0,
    )
    return fit.Fit(trial, data, device=torch.device("cpu"))


def _epoch(run: fit.Fit) -> float:
    started = time.process_time()
    run.train_epoch(1)
    run.validate()
    run.diagnostics()
    return time.process_time() - started


def _noise(*, channels: int, side: int, images: int) -> TrainingData:
    random = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        pixels = torch.randint(256, (count, channels, side, side), generator=random, dtype=torch.uint8)
        return Split(pixels, torch.arange(count) % 10)

    return TrainingData(
        classes=tuple("0123456789"),
        channels=channels,
        image_size=side,
        train=split(images),
        validation=split(images // 5),
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        flip=False,
        shift=1,
    )


if __name__ == "__main__":
    main()
