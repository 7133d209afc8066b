"""The recipes that want a GPU, on a tiny folder and a CPU: they build, train, write a checkpoint and resume exactly."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.changes import Change
from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_training_data
from fixnorm_core.models.build import build_model
from fixnorm_core.recipes import find_recipe
from fixnorm_core.reports import EpochReport
from fixnorm_core.spec import JobSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

LARGE = {
    "cifar10-resnet18": ["data.name=imagefolder", "data.image_size=8"],
    "imagenet-resnet50": ["data.image_size=32", "model.stem=imagenet"],
    "imagenet-efficientnet-b0": ["data.image_size=32", "model.stem=imagenet"],
    "imagenet-mobilenet-v2-scaled": ["data.image_size=32", "model.stem=imagenet"],
}
"""What is made smaller for a CPU, beside the length and the resources; all else is the recipe's."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(name: str, folder: Path) -> JobSpec:
    written = [
        f"data.path={folder}",
        "data.train_limit=24",
        "training.epochs=2",
        "training.batch_size=12",
        "resources={cpus_per_trial: 1}",
        *LARGE[name],
    ]
    job = find_recipe(name).job(changes=[Change.parse(change) for change in written])
    return job.model_copy(update={"data": check_data(job.data)})


def timeless(reports: list[EpochReport]) -> list[EpochReport]:
    return [report.model_copy(update={"seconds": 0.0, "images_per_second": 0.0}) for report in reports]


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_trains_writes_a_checkpoint_and_resumes_bit_for_bit(
    name: str, tiny_imagenet: Path, tmp_path: Path
) -> None:
    job = small(name, tiny_imagenet)
    trial = job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=job.seed)
    data = load_training_data(job.data)
    assert (data.crop_min_area is not None) == name.startswith("imagenet")
    trainer = Trainer(trial, folder=tmp_path / "whole", data=data)
    whole = list(trainer)
    list(islice(Trainer(trial, folder=tmp_path / "resumed", data=data), 1))
    assert [path.name for path in (tmp_path / "resumed").glob("checkpoint-*")]
    resumed = list(Trainer(trial, folder=tmp_path / "resumed", data=data))

    assert timeless(resumed) == timeless(whole)
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "resumed"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert not whole[-1].diverged

    torch.manual_seed(0)
    fresh = dict(build_model(job.model, classes=3, channels=3, image_size=data.image_size).named_parameters())
    roles = trainer.result().roles
    assert len(roles.head) == 1
    moved = [key for key in roles.scale_invariant if not torch.equal(expected[key], fresh[key].detach())]
    assert moved == list(roles.scale_invariant)
    if job.training.ema_decay is None:  # an average of weights that turn is shorter than each of them
        norms = torch.stack([expected[key].double().norm() for key in roles.scale_invariant])
        # the step sums up to two million squares in fp32, which is off by up to 1.4e-4 here
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=1e-3, atol=0)
    assert whole[-1].head_bound is not None
    assert whole[-1].head_norm <= whole[-1].head_bound * (1 + 1e-5)
    afresh = evaluate_weights(tmp_path / "whole" / WEIGHTS_NAME, split="validation")
    assert (afresh.accuracy, afresh.loss) == (whole[-1].validation_accuracy, whole[-1].validation_loss)
