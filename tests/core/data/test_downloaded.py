import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec
from fixnorm_core.vision import torchvision


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(header + values.astype(np.uint8).tobytes())


@pytest.fixture
def fashion_mnist(tmp_path: Path) -> DataSpec:
    """A small set in the files that torchvision would have downloaded."""
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = np.broadcast_to(labels[:, None, None] * 20, (count, 28, 28))
        write_idx(tmp_path / "FashionMNIST" / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(tmp_path / "FashionMNIST" / "raw" / f"{prefix}-labels-idx1-ubyte", labels)
    return DataSpec(name="fashion_mnist", path=str(tmp_path))


def test_files_that_are_there_are_read_without_a_download(fashion_mnist: DataSpec) -> None:
    data = load_training_data(fashion_mnist)
    assert (len(data.train), len(data.validation), data.channels, data.image_size) == (50, 10, 1, 28)
    assert data.classes[9] == "Ankle boot"
    assert torch.equal(data.train.images[:, 0, 0, 0], (data.train.labels * 20).to(torch.uint8))


def test_shipped_test_split_is_the_test_split(fashion_mnist: DataSpec) -> None:
    assert len(load_test_split(fashion_mnist, image_size=28)[1]) == 20


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_failed_download_says_where_files_belong(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = "http://127.0.0.1:9/"  # nothing listens there
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", nowhere + "a.tar.gz")
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", nowhere + "b.tar.gz")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [nowhere])
    with pytest.raises(DataError, match=r"cannot be downloaded.*use data set imagefolder") as caught:
        load_training_data(DataSpec(name=name, path=str(tmp_path / "sets")))
    assert str(tmp_path / "sets") in str(caught.value)
    assert list((tmp_path / "sets").iterdir()) == []
