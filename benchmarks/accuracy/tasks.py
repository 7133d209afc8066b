"""The tasks: real images, a network, a budget. Small enough that a run takes seconds on one CPU thread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.data.types import Split, TrainingData
from fixnorm_core.spec import DataSpec, ModelSpec, TrainingSpec

__all__ = ["TASKS", "Task", "load_task"]


_NARROW = ModelSpec(options={"width": 8})


@dataclass(frozen=True, slots=True)
class Task:
    """What is trained on what.

    Attributes:
        about: One line for the results page.
        data: The images; ``path`` is relative to the data root.
        model: The network.
        epochs: Passes.
        batch_size: Images a step.
    """

    about: str
    data: DataSpec
    model: ModelSpec = _NARROW
    epochs: int = 30
    batch_size: int = 64

    @property
    def training(self) -> TrainingSpec:
        """SGD with Nesterov momentum 0.9, 10 % warm-up, cosine."""
        return TrainingSpec(epochs=self.epochs, batch_size=self.batch_size, device="cpu")


def _cifar(images: int, *, side: int = 16) -> DataSpec:
    return DataSpec(
        name="imagefolder",
        path="cifar10",
        image_size=side,
        flip=True,
        shift=side // 8,
        train_limit=images,
        validation_limit=4000,
    )


_FEW = _cifar(1000)
_MANY = _cifar(10000)

TASKS: dict[str, Task] = {
    "over": Task(
        "over-fitting: CIFAR-10, 1,000 images of 16x16, flips alone, width 16, 30 epochs",
        _FEW.model_copy(update={"shift": 0}),
        ModelSpec(options={"width": 16}),
    ),
    "middle": Task("between: CIFAR-10, 1,000 images of 16x16, width 8, 40 epochs", _FEW, epochs=40),
    "under": Task("under-fitting: CIFAR-10, 10,000 images of 16x16, width 8, 4 epochs", _MANY, epochs=4),
    "base": Task("CIFAR-10, 1,000 images of 16x16, width 8, 8 layers, batch 64", _FEW),
    "width": Task("width 16", _FEW, ModelSpec(options={"width": 16})),
    "depth": Task("14 layers", _FEW, ModelSpec(options={"width": 8, "blocks": 2})),
    "deep": Task("26 layers", _FEW, ModelSpec(options={"width": 8, "blocks": 4})),
    "batch": Task("batch 256", _FEW, batch_size=256),
    "group": Task("GroupNorm", _FEW, ModelSpec(options={"width": 8, "norm": "group"})),
    "full-size": Task("32x32 images", _cifar(1000, side=32)),
    "digits": Task("handwritten digits, 8x8", DataSpec(train_limit=300), epochs=30),
    "gates": Task(
        "a network with squeeze-and-excitation: mobilenet_v2_scaled at a quarter of its width, 2,000 images, 12 epochs",
        _cifar(2000),
        ModelSpec(name="mobilenet_v2_scaled", options={"width_mult": 0.25}),
        epochs=12,
    ),
    "large": Task(
        "CIFAR-10, 4,000 images of 32x32, width 16, 14 layers, 12 epochs",
        _cifar(4000, side=32),
        ModelSpec(options={"width": 16, "blocks": 2}),
        epochs=12,
        batch_size=128,
    ),
}


@lru_cache(maxsize=4)
def load_task(name: str, root: Path) -> tuple[TrainingData, Split]:
    """The images of a task: what training sees, and the test split."""
    spec = check_data(TASKS[name].data, root=root)
    data = load_training_data(spec)
    return data, load_test_split(spec, image_size=data.image_size)[1]
