"""Models and data sets of one's own: from allowed modules alone, and then as any other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.errors import DataError, FixNormError, ModelError
from fixnorm_core.models.build import build_model
from fixnorm_core.models.catalog import check_model
from fixnorm_core.reach import OutsideRoots, Reach, Roots
from fixnorm_core.spec import DataSpec, JobSpec, ModelSpec, TrainingSpec
from fixnorm_core.training.trainer import WEIGHTS_NAME, Trainer
from fixnorm_core.training.weights import load_classifier

MODULE = """
import os
import sys
from pathlib import Path
from subprocess import run
from subprocess import Popen as Renamed

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.datasets import ImageFolder

from fixnorm_core.data.own import OwnData

NUMBER = 3

def net(num_classes, bias=False):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, num_classes),
    )

def two_logits(num_classes): return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
def no_net(num_classes): return "a net"
def failing(num_classes): raise RuntimeError("out of order")
def leaving(num_classes): sys.exit(3)

def tensors(count=60):
    labels = torch.arange(count) % 2
    images = (torch.rand(count, 3, 8, 8) * 255).to(torch.uint8)
    return OwnData(train=TensorDataset(images, labels))

def parts():
    def part(n): return (torch.full((n, 1, 8, 8), n, dtype=torch.uint8), torch.arange(n) % 2)
    return OwnData(train=part(20), validation=part(10), test=part(6), classes=("a", "b"))

def folder(path): return OwnData(train=ImageFolder(path))
def files(path):
    names = sorted(Path(path).rglob("*.png"))
    return OwnData(train=[(name, int(name.parent.name == "tulip")) for name in names], classes=("rose", "tulip"))

def floats(): return OwnData(train=(torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 0, 1])))
def negative(): return OwnData(train=(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, -1])))
BLACK = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
def unnamed(): return OwnData(train=(BLACK, torch.tensor([0, 1, 0, 5])), classes=("a", "b"))
def mixed(): return OwnData(train=[("x.png", 0)], test=(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4)))
def nothing(): return None
"""

ALLOWED = Reach(modules=("mine_for_tests",))


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("mine_for_tests", "mine_for_tests_not"):
        (tmp_path / "code" / name).mkdir(parents=True)
        (tmp_path / "code" / name / "__init__.py").write_text("")
        (tmp_path / "code" / name / "deep.py").write_text(MODULE)
    (tmp_path / "code" / "mine_for_tests" / "broken.py").write_text("import no_such_package\n")
    (tmp_path / "code" / "mine_for_tests" / "quitting.py").write_text("raise SystemExit(4)\n")
    monkeypatch.syspath_prepend(tmp_path / "code")
    yield
    for name in [name for name in sys.modules if name.startswith("mine_for_tests")]:
        del sys.modules[name]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for grey, name in enumerate(("rose", "tulip")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (12, 12), (grey * 90 + number,) * 3).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def own(factory: str, **fields: object) -> DataSpec:
    return DataSpec.model_validate({"name": f"mine_for_tests.deep:{factory}"} | fields)


@pytest.mark.parametrize(
    "name",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "mine_for_tests_not.deep:net",
        "mine_for_testsx:net",
        "mine_for_tests.deep:_private",
        "mine_for_tests.__main__:net",
        "mine_for_tests._hidden:net",
        "mine_for_tests..deep:net",
        ".mine_for_tests:net",
        "mine_for_tests.deep:net.__class__",
        "mine_for_tests.deep:os.system",
        "mine_for_tests/deep:net",
        "../mine_for_tests:net",
        "mine_for_tests.deep:",
        ":net",
        ":",
        "mine_for_tests.deep:net\n",
        "mine_for_tests.deep:ne\u0442",
    ],
)
def test_other_modules_and_odd_names_are_refused_before_anything_is_imported(name: str) -> None:
    before = set(sys.modules)
    for check in (
        lambda: check_model(ModelSpec(name=name), reach=ALLOWED),
        lambda: check_data(DataSpec(name=name), reach=ALLOWED),
        lambda: build_model(ModelSpec(name=name), classes=2, channels=3, image_size=8, reach=ALLOWED),
        lambda: load_training_data(DataSpec(name=name), reach=ALLOWED),
    ):
        with pytest.raises((ModelError, DataError)) as refused:
            check()
        assert refused.value.way_out
    assert not {module for module in set(sys.modules) - before if module.startswith("mine_for_tests")}


def test_none_is_allowed_unless_somebody_says_so() -> None:
    with pytest.raises(ModelError, match=r"none is allowed here.*FIXNORM_ALLOWED_MODULES"):
        check_model(ModelSpec(name="mine_for_tests.deep:net"))
    check_model(ModelSpec(name="mine_for_tests.deep:net"), reach=ALLOWED)


@pytest.mark.parametrize("name", ["run", "Renamed", "Path", "ImageFolder"])
def test_what_an_allowed_module_has_only_imported_is_no_factory(name: str, tmp_path: Path) -> None:
    """``subprocess.run(args=..., shell=True)`` would be a shell for everybody who may submit."""
    options = {"args": f"touch {tmp_path / 'made'}", "shell": True}
    with pytest.raises(DataError, match=r"was defined in '.*', which is not allowed"):
        load_training_data(own(name, options=options), reach=ALLOWED)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mine_for_tests.deep:missing", "has no factory 'missing'"),
        ("mine_for_tests.deep:NUMBER", "has no factory 'NUMBER'"),
        ("mine_for_tests.none:net", "No module named 'mine_for_tests.none'.*PYTHONPATH"),
        ("mine_for_tests.broken:net", "No module named 'no_such_package'"),
        ("mine_for_tests.quitting:net", "SystemExit: 4"),
        ("mine_for_tests.deep:no_net", "returned str"),
        ("mine_for_tests.deep:failing", "raised RuntimeError: out of order"),
        ("mine_for_tests.deep:leaving", "raised SystemExit: 3"),
        ("mine_for_tests.deep:two_logits", "answers|cannot take"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        build_model(ModelSpec(name=name), classes=3, channels=3, image_size=8, reach=ALLOWED)


def test_an_option_that_a_factory_does_not_have_is_told() -> None:
    spec = ModelSpec(name="mine_for_tests.deep:net", options={"depth": 3})
    with pytest.raises(ModelError, match="unexpected keyword argument 'depth'"):
        build_model(spec, classes=3, channels=3, image_size=8, reach=ALLOWED)
    with pytest.raises(ModelError, match="no stem"):
        check_model(spec.model_copy(update={"stem": "small"}), reach=ALLOWED)


@pytest.mark.parametrize("factory", ["floats", "negative", "unnamed", "mixed", "nothing"])
def test_a_data_set_that_is_none_is_refused(factory: str) -> None:
    with pytest.raises(DataError, match=r"mine_for_tests\.deep:.*OwnData"):
        load_training_data(own(factory), reach=ALLOWED)


def test_images_in_memory_are_split_and_normalized_as_any_others_and_alike_every_time() -> None:
    spec = own("tensors", options={"count": 60}, test_fraction=0.2, validation_fraction=0.25)
    first, again = (load_training_data(spec, reach=ALLOWED) for _ in range(2))
    classes, test = load_test_split(spec, image_size=8, reach=ALLOWED)
    assert (len(first.train), len(first.validation), len(test)) == (36, 12, 12)
    assert (first.classes, first.channels, first.image_size, classes) == (("0", "1"), 3, 8, ("0", "1"))
    assert torch.equal(first.train.take(torch.arange(36)), again.train.take(torch.arange(36)))
    assert first.mean == again.mean
    assert 0.45 < first.mean[0] < 0.55
    assert (first.flip, first.shift) == (False, 0)
    other = load_training_data(spec.model_copy(update={"split_seed": 1}), reach=ALLOWED)
    assert not torch.equal(first.train.take(torch.arange(36)), other.train.take(torch.arange(36)))


def test_parts_that_are_given_are_kept_apart() -> None:
    data = load_training_data(own("parts"), reach=ALLOWED)
    _, test = load_test_split(own("parts"), image_size=8, reach=ALLOWED)
    assert [part.take(torch.tensor([0])).unique().item() for part in (data.train, data.validation, test)] == [20, 10, 6]
    assert data.channels == 1


@pytest.mark.parametrize("factory", ["folder", "files"])
@pytest.mark.parametrize("fields", [{}, {"storage": "stream"}, {"crop": "random_resized", "image_size": 8}])
def test_image_files_are_read_as_an_image_folders(photos: Path, factory: str, fields: dict[str, object]) -> None:
    spec = check_data(own(factory, path="photos", **fields), root=photos.parent, reach=ALLOWED)
    usual = load_training_data(DataSpec.model_validate({"name": "imagefolder", "path": str(photos)} | fields))
    data = load_training_data(spec, reach=ALLOWED)
    assert data.classes == usual.classes
    every = torch.arange(len(usual.train))
    assert torch.equal(data.train.take(every), usual.train.take(every))
    assert torch.equal(data.train.labels, usual.train.labels)


def test_images_of_ones_own_stay_in_the_roots_too(photos: Path, tmp_path: Path) -> None:
    reach = Reach(Roots.at([tmp_path / "root"]), ALLOWED.modules)
    with pytest.raises(OutsideRoots):
        check_data(own("files", path=str(photos)), root=tmp_path / "root", reach=reach)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "x").mkdir()
    for number, path in enumerate(sorted(photos.rglob("*.png"))):
        folder = tmp_path / "root" / "x" / path.parent.name
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.png").symlink_to(path)
    with pytest.raises(OutsideRoots):
        load_training_data(own("files", path=str(tmp_path / "root" / "x")), reach=reach)


def test_a_data_sets_options_are_for_ones_own() -> None:
    with pytest.raises(DataError, match="has no options"):
        check_data(DataSpec(options={"count": 3}))
    with pytest.raises(DataError, match="in memory"):
        load_training_data(own("tensors", storage="stream"), reach=ALLOWED)


def test_what_was_trained_is_loaded_by_those_who_allow_its_module(tmp_path: Path) -> None:
    job = JobSpec(
        model=ModelSpec(name="mine_for_tests.deep:net"),
        data=own("tensors"),
        training=TrainingSpec(epochs=1, batch_size=16),
    )
    trainer = Trainer(job.trial({"lr": 0.01, "fc_norm": 2.0}, seed=0), folder=tmp_path / "run", reach=ALLOWED)
    assert len(list(trainer)) == 1
    weights = tmp_path / "run" / WEIGHTS_NAME
    assert load_classifier(weights, reach=ALLOWED).classes == ("0", "1")
    with pytest.raises(FixNormError, match="may not be imported"):
        load_classifier(weights)
