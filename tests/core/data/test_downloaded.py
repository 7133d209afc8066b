import hashlib
import pickle
import struct
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

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


@pytest.fixture
def cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataSpec:
    """A small set in CIFAR-10's files, whose checksums torchvision is told."""
    kind, folder = torchvision.datasets.CIFAR10, tmp_path / "set" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    labels = list(range(10)) * 3
    images = np.repeat(np.array(labels, dtype=np.uint8)[:, None] * 20, 3072, axis=1)
    names, digest = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(kind, "meta", {"filename": names, "key": "label_names", "md5": digest})
    monkeypatch.setattr(
        kind, "train_list", [write(f"data_batch_{n}", {"data": images, "labels": labels}) for n in "12"]
    )
    monkeypatch.setattr(kind, "test_list", [write("test_batch", {"data": images, "labels": labels})])
    return DataSpec(name="cifar10", path=str(folder.parent))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


class Evil:
    """Pickled, it is a call of whoever made it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("split", ["training", "test"])
def test_what_is_unpickled_is_what_was_checked(
    cifar10: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    """Whoever may write to the folder swaps the files in the instant after their checksums were found right."""
    real, mark, swapped = torchvision.datasets.cifar.check_integrity, tmp_path / "ran", []

    def check_then_swap(path: str, md5: str | None = None) -> bool:
        right = real(path, md5)
        if Path(path).name == "test_batch":  # the last to be checked before they are read
            for file in (tmp_path / "set" / "cifar-10-batches-py").iterdir():
                file.write_bytes(pickle.dumps(Evil(mark)))
                swapped.append(file)
        return bool(right)

    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", check_then_swap)
    if split == "training":
        data = load_training_data(cifar10)
        assert (len(data.train) + len(data.validation), data.classes) == (60, tuple("abcdefghij"))
        assert torch.equal(data.train.images[:, 0, 0, 0], (data.train.labels * 20).to(torch.uint8))
    else:
        assert len(load_test_split(cifar10, image_size=32)[1]) == 30
    assert swapped
    assert not mark.exists()


def test_nothing_is_unpickled_whose_checksum_is_wrong(
    cifar10: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/a.tar.gz")
    (tmp_path / "set" / "cifar-10-batches-py" / "data_batch_1").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(DataError, match="missing or damaged"):
        load_training_data(cifar10)
    assert not (tmp_path / "ran").exists()


def test_a_download_is_kept_for_the_next_time(
    cifar10: DataSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, archive = torchvision.datasets.CIFAR10, tmp_path / "web" / "set.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "set" / kind.base_folder, kind.base_folder)
    monkeypatch.setattr(kind, "filename", archive.name)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    spec = cifar10.model_copy(update={"path": str(tmp_path / "new")})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=archive.parent)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
        first = load_training_data(spec)
        server.shutdown()
    assert len(load_training_data(spec).train) == len(first.train) == 50
    assert [path.name for path in (tmp_path / "new").iterdir()] == [kind.base_folder]


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
