"""The recipes for a CPU, as they are: their first trial learns what it is meant to learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fixnorm_core.data.catalog import check_data
from fixnorm_core.recipes import find_recipe
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer
from fixnorm_core.tuning.choice import default_start


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def first_trial(name: str, *, root: Path, folder: Path) -> float:
    """Test accuracy of the recipe's first trial, trained in full."""
    job = find_recipe(name).job()
    job = job.model_copy(update={"data": check_data(job.data, root=root)})
    start = default_start(job.search, training=job.training)
    assert start is not None
    list(Trainer(job.trial(start, seed=job.seed), folder=folder))
    return evaluate_weights(folder / WEIGHTS_NAME, split="test").accuracy


def test_digits_first_trial_reads_what_a_support_vector_machine_reads(tmp_path: Path) -> None:
    # 98.3 % here, 359 images: a standard error of 0.7 points
    assert first_trial("digits", root=tmp_path, folder=tmp_path) > 0.96


@pytest.mark.cifar10
def test_cifar10_smalls_first_trial_learns_in_ten_epochs(cifar10_root: Path, tmp_path: Path) -> None:
    # 57.9 % here, 2,000 images: a standard error of 1.1 points; chance is 10 %
    assert first_trial("cifar10-small", root=cifar10_root, folder=tmp_path) > 0.5
