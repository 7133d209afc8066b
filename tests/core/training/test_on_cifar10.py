from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.spec import DataSpec, TrialSpec
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]

pytestmark = pytest.mark.cifar10


@pytest.fixture
def photographs(cifar10_root: Path) -> DataSpec:
    spec = DataSpec(
        name="imagefolder", path="cifar10", train_limit=1000, validation_limit=500, test_limit=300, image_size=16
    )
    return check_data(spec, root=cifar10_root)


def test_images_are_read_at_their_own_size_and_in_equal_shares(photographs: DataSpec) -> None:
    data = load_training_data(photographs.model_copy(update={"image_size": None}))
    assert (data.image_size, data.channels) == (32, 3)
    assert data.classes == (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    assert data.train.labels.bincount().tolist() == [100] * 10
    assert data.validation.labels.bincount().tolist() == [50] * 10
    assert all(0.4 < mean < 0.55 for mean in data.mean)  # photographs, not black frames
    assert len(load_test_split(photographs, image_size=16)[1]) == 300


def test_it_learns_resumes_exactly_and_its_accuracy_is_that_of_its_weights(
    photographs: DataSpec, make_trial: MakeTrial, tmp_path: Path
) -> None:
    trial = make_trial(data=photographs, epochs=6, batch_size=50)
    data = load_training_data(photographs)
    trainer = Trainer(trial, folder=tmp_path / "whole", data=data)
    reports = list(trainer)
    result = trainer.result()
    assert result.validation_accuracy > 0.2  # chance is 0.1, standard error 0.018
    assert reports[-1].train_loss < reports[0].train_loss

    afresh = evaluate_weights(tmp_path / "whole" / WEIGHTS_NAME, split="validation")
    assert (afresh.accuracy, afresh.loss) == (result.validation_accuracy, result.validation_loss)

    list(islice(iter(Trainer(trial, folder=tmp_path / "resumed", data=data)), 2))
    list(Trainer(trial, folder=tmp_path / "resumed", data=data))
    expected, found = (load_file(tmp_path / run / WEIGHTS_NAME) for run in ("whole", "resumed"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)
