import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import confusion_matrix

from fixnorm_core import load_classifier
from fixnorm_core.data.load import load_test_split
from fixnorm_core.data.types import TrainingData
from fixnorm_core.errors import DataError, WeightsError
from fixnorm_core.files import replacing
from fixnorm_core.spec import DataSpec, TrialSpec
from fixnorm_core.training import checkpoint
from fixnorm_core.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fixnorm_core.training.evaluate import evaluate_weights
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer

MakeTrial = Callable[..., TrialSpec]


@pytest.fixture
def weights(make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path) -> Path:
    list(Trainer(make_trial(), folder=tmp_path, data=small_digits))
    return tmp_path / WEIGHTS_NAME


def test_classifier_carries_what_it_needs(weights: Path, make_trial: MakeTrial, small_digits: TrainingData) -> None:
    classifier = load_classifier(weights)
    assert not classifier.model.training
    assert classifier.classes == tuple("0123456789")
    assert (classifier.channels, classifier.image_size) == (1, 8)
    assert classifier.trial == make_trial()


def test_predictions_are_those_that_are_evaluated(weights: Path, make_trial: MakeTrial) -> None:
    _, test = load_test_split(make_trial().data, image_size=8)
    probabilities = load_classifier(weights).predict(test.images)
    evaluation = evaluate_weights(weights, split="test")
    assert evaluation.split == "test"
    assert evaluation.examples == len(test) == 359
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(359))
    assert (probabilities.argmax(dim=1) == test.labels).double().mean().item() == evaluation.accuracy
    picked = probabilities[torch.arange(359), test.labels].double()
    assert -picked.log().mean().item() == pytest.approx(evaluation.loss, rel=1e-4)
    assert evaluation.loss < math.log(10)


def test_classes_are_counted_as_the_predictions_have_them(weights: Path, make_trial: MakeTrial) -> None:
    _, test = load_test_split(make_trial().data, image_size=8)
    classifier = load_classifier(weights)
    expected = confusion_matrix(test.labels, classifier.predict(test.images).argmax(dim=1))
    found = evaluate_weights(weights, split="test")
    assert [each.name for each in found.classes] == list(classifier.classes)
    assert [each.examples for each in found.classes] == expected.sum(axis=1).tolist()
    assert [each.predicted for each in found.classes] == expected.sum(axis=0).tolist()
    assert [each.correct for each in found.classes] == expected.diagonal().tolist()
    wrong = {
        (str(label), str(predicted)): count
        for (label, predicted), count in np.ndenumerate(expected)
        if label != predicted and count
    }
    assert {(each.label, each.predicted): each.count for each in found.confusions} == wrong
    assert [each.count for each in found.confusions] == sorted(wrong.values(), reverse=True)
    assert found.complete
    assert found.overall.accuracy == expected.trace() / len(test)
    cut = found.model_copy(update={"confusions": found.confusions[:-1]})
    assert not cut.complete


def test_no_images_give_no_predictions(weights: Path) -> None:
    assert load_classifier(weights).predict(torch.zeros(0, 1, 8, 8, dtype=torch.uint8)).shape == (0, 10)


def test_predictions_of_grey_files_are_those_of_the_images_that_are_evaluated(
    weights: Path, make_trial: MakeTrial, tmp_path: Path
) -> None:
    _, test = load_test_split(make_trial().data, image_size=8)
    paths = [tmp_path / f"{index}.png" for index in range(len(test))]
    for path, image in zip(paths, test.images, strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    probabilities = load_classifier(weights).predict_files(paths)
    assert torch.equal(probabilities, load_classifier(weights).predict(test.images))
    assert (probabilities.argmax(dim=1) == test.labels).double().mean().item() == (
        evaluate_weights(weights, split="test").accuracy
    )


def test_a_picture_that_is_not_there_is_refused_without_talk_of_a_job(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.png cannot be read as an image") as refused:
        load_classifier(weights).predict_files([tmp_path / "missing.png"])
    assert refused.value.way_out == "Give the path of an image, or leave it out"


def test_predictions_of_oblong_colour_files_are_those_that_are_evaluated(make_trial: MakeTrial, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for part, label, index in itertools.product(("train", "test"), ("cat", "dog"), range(20)):
        path = tmp_path / "pets" / part / label / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, size=(20, 31, 3), dtype=np.uint8)).save(path)
    data = DataSpec(name="imagefolder", path=str(tmp_path / "pets"), image_size=16)
    list(Trainer(make_trial(data=data, epochs=1, batch_size=8), folder=tmp_path))
    classifier = load_classifier(tmp_path / WEIGHTS_NAME)
    paths = sorted((tmp_path / "pets" / "test").glob("*/*.png"))
    labels = torch.tensor([classifier.classes.index(path.parent.name) for path in paths])
    evaluation = evaluate_weights(tmp_path / WEIGHTS_NAME, split="test")
    probabilities = classifier.predict_files(map(str, paths))
    assert (probabilities.argmax(dim=1) == labels).double().mean().item() == evaluation.accuracy
    picked = probabilities[torch.arange(40), labels].double()
    assert -picked.log().mean().item() == pytest.approx(evaluation.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("images", "way_out"),
    [
        (torch.zeros(2, 1, 8, 8), "pixels of 0 to 255"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"1 channel \(grey\), not 3"),
        (torch.zeros(8, 8).byte(), "resize"),
        (torch.zeros(2, 1, 9, 9).byte(), "resize"),
    ],
)
def test_images_of_another_kind_are_refused(weights: Path, images: torch.Tensor, way_out: str) -> None:
    with pytest.raises(ValueError, match=rf"takes uint8 \(n, 1, 8, 8\): .*{way_out}"):
        load_classifier(weights).predict(images)


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_truncated_weights_are_refused(weights: Path, kept: float) -> None:
    content = weights.read_bytes()
    weights.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises(WeightsError, match=r"weights\.safetensors cannot be read as a weights file"):
        load_classifier(weights)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        evaluate_weights(tmp_path / "none.safetensors", split="test")


def test_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="not one of this software's weights"):
        load_classifier(tmp_path / "foreign.safetensors")


def test_weights_that_do_not_fit_their_model_are_refused(weights: Path) -> None:
    with safe_open(weights, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(weights)
    del tensors["head.weight"]
    save_file(tensors, weights, metadata=metadata)
    with pytest.raises(WeightsError, match="does not fit model 'small_resnet'"):
        load_classifier(weights)


def test_loading_leaves_the_random_state_alone(weights: Path) -> None:
    before = torch.random.get_rng_state()
    load_classifier(weights)
    assert torch.equal(torch.random.get_rng_state(), before)


def a_checkpoint() -> Checkpoint:
    return Checkpoint(
        "mine", {"w": torch.ones(3)}, {"state": {0: {"momentum_buffer": torch.zeros(3)}}}, {"average": {}}, ()
    )


def test_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = load_checkpoint(save_checkpoint(tmp_path, a_checkpoint(), keep=2), fingerprint="mine")
    assert torch.equal(found.model["w"], torch.ones(3))
    assert torch.equal(found.optimizer["state"][0]["momentum_buffer"], torch.zeros(3))


def test_foreign_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "foreign.pt")
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "foreign.pt", fingerprint="mine")


def test_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    torch.save({"format": checkpoint._FORMAT, "trap": Path}, tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "trap.pt", fingerprint="mine")


@pytest.mark.parametrize("kept", [0, 10, 200, 600])
def test_truncated_checkpoint_is_refused(tmp_path: Path, kept: int) -> None:
    path = save_checkpoint(tmp_path, a_checkpoint(), keep=2)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsError, match="not a whole checkpoint"):
        load_checkpoint(path, fingerprint="mine")


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write_half() -> None:
        with replacing(path) as file:
            file.write(b"half of the n")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_half()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_process_go_when_the_run_ends(
    make_trial: MakeTrial, small_digits: TrainingData, tmp_path: Path
) -> None:
    (tmp_path / ".checkpoint-000001.pt.abc.partial").write_bytes(b"half")
    list(Trainer(make_trial(), folder=tmp_path, data=small_digits))
    assert not list(tmp_path.glob(".*"))
