import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fixnorm_core.data.catalog import DATA_SETS, check_data
from fixnorm_core.errors import DataError
from fixnorm_core.spec import DataSpec


def save_image(path: Path, *, colour: int = 100, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 0, 0)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for name in ("cat", "dog"):
        save_image(root / name / "1.png")
    return root


def refusal(root: Path, **fields: object) -> str:
    with pytest.raises(DataError) as caught:
        check_data(DataSpec(**({"name": "imagefolder"} | fields)), root=root)
    assert caught.value.way_out
    return str(caught.value)


def test_names_are_those_of_the_issue() -> None:
    assert set(DATA_SETS) == {"digits", "imagefolder", "cifar10", "cifar100", "fashion_mnist"}


def test_unknown_name_gets_a_near_match(tmp_path: Path) -> None:
    message = refusal(tmp_path, name="cifar-10")
    assert "'cifar-10'" in message
    assert "Did you mean 'cifar10'?" in message


def test_digits_need_nothing() -> None:
    assert check_data(DataSpec(), root=None) == DataSpec()


def test_digits_refuse_a_path(tmp_path: Path) -> None:
    assert "'elsewhere'" in refusal(tmp_path, name="digits", path="elsewhere")


def test_relative_path_starts_from_the_root(photos: Path) -> None:
    spec = check_data(DataSpec(name="imagefolder", path="photos"), root=photos.parent)
    assert spec.path == str(photos)


def test_absolute_path_needs_no_root(photos: Path) -> None:
    spec = DataSpec(name="imagefolder", path=str(photos))
    assert check_data(spec, root=None) == spec


def test_relative_path_without_a_root_says_where_paths_start() -> None:
    with pytest.raises(DataError, match=r"'photos' is relative.*FIXNORM_DATA_ROOT.*'\./photos'.*beside the job file"):
        check_data(DataSpec(name="imagefolder", path="photos"), root=None)


def test_downloaded_set_is_kept_under_the_root_by_name(tmp_path: Path) -> None:
    assert check_data(DataSpec(name="cifar100"), root=tmp_path).path == str(tmp_path / "cifar100")


def test_image_folder_needs_a_path(tmp_path: Path) -> None:
    assert "needs a path" in refusal(tmp_path)


def test_missing_folder_says_what_was_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path, path="no/where")
    assert f"{tmp_path / 'no/where'} does not exist" in message
    assert "'./no/where'" in message
    assert "./" not in refusal(tmp_path, path=str(tmp_path / "no" / "where"))  # no way to mean it otherwise


def test_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    assert "is a file" in refusal(tmp_path, path="photos.zip")


def test_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "photos" / "1.png")
    assert "holds no class folders" in refusal(tmp_path, path="photos")


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "dog").mkdir()
    assert "no images in" in refusal(tmp_path, path="photos")


def test_empty_class_is_named(photos: Path) -> None:
    (photos / "emu").mkdir()
    (photos / "emu" / "notes.txt").touch()
    assert "no images of class 'emu'" in refusal(photos.parent, path="photos")


def test_single_class_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "photos" / "cat" / "1.png")
    assert "a single class, 'cat'" in refusal(tmp_path, path="photos")


def test_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "test/emu"):
        save_image(tmp_path / "photos" / place / "1.png")
    assert "test has a class 'emu'" in refusal(tmp_path, path="photos")


def test_unlabelled_test_folder_is_refused(tmp_path: Path) -> None:
    for place in ("train/cat/1.png", "train/dog/1.png", "test/1.png"):
        save_image(tmp_path / "photos" / place)
    assert "test holds no class folders" in refusal(tmp_path, path="photos")


def test_two_validation_folders_are_refused(tmp_path: Path) -> None:
    for place in ("train/cat", "train/dog", "val/cat", "valid/cat"):
        save_image(tmp_path / "photos" / place / "1.png")
    assert "2 validation folders: val, valid" in refusal(tmp_path, path="photos")


def test_train_may_be_the_name_of_a_class(tmp_path: Path) -> None:
    for name in ("train", "bus"):
        save_image(tmp_path / "photos" / name / "1.png")
    assert check_data(DataSpec(name="imagefolder", path="photos"), root=tmp_path).path == str(tmp_path / "photos")


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"storage": "stream"}, "data.storage is stream"), ({"crop": "random_resized"}, "data.crop is")],
)
@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_streaming_is_for_image_folders(tmp_path: Path, name: str, fields: dict[str, object], words: str) -> None:
    message = refusal(tmp_path, name=name, **fields)
    assert f"{words}" in message
    assert f"data set '{name}' comes as one array" in message


def test_a_folder_may_be_streamed_and_cropped(photos: Path) -> None:
    spec = DataSpec(name="imagefolder", path="photos", image_size=1024, storage="stream", crop="random_resized")
    assert check_data(spec, root=photos.parent).storage == "stream"


def test_checking_imports_no_torch() -> None:
    code = "import sys, fixnorm_core.data.catalog; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
