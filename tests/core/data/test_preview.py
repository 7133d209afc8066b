"""What a bucket holds is told by its list, as it would be after a fetch; some images of a folder are looked at."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from buckets import Bucket, image_file, picture, reached, s3_server
from PIL import Image

from fixnorm_core.data.counts import count_by_class
from fixnorm_core.data.fetch import fetched
from fixnorm_core.data.preview import list_names
from fixnorm_core.data.sample import MOST_IMAGES, look_at_some
from fixnorm_core.data.store import BucketDown, NotEquipped
from fixnorm_core.errors import DataError
from fixnorm_core.reach import OutsideRoots, Reach, Roots
from fixnorm_core.spec import DataSpec


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    with s3_server() as server, reached(server):
        yield server


def folder(url: str) -> DataSpec:
    return DataSpec(name="imagefolder", path=url, image_size=12)


FLAT = {f"{label}/{n}.png": n for label, many in (("rose", 9), ("tulip", 5)) for n in range(many)}
LAYOUTS = {
    "flat": [*FLAT, "rose/deep/er/x.png", "notes.txt", ".hidden/x.png"],
    "split": [*(f"train/{name}" for name in FLAT), "test/rose/1.png", "valid/tulip/1.jpg", "valid/tulip/2.jpg"],
    "a class named train": ["train/1.png", "train/2.png", "train/3.png", "other/1.png", "other/2.png", "other/3.png"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_bucket_is_counted_as_the_folder_that_is_fetched_from_it(bucket: Bucket, layout: str, tmp_path: Path) -> None:
    bucket.put_all({f"below/{name}": picture(n) for n, name in enumerate(LAYOUTS[layout])})
    bucket.put("beside.png", picture(0))
    spec = folder(f"{bucket.url}/below")
    counted = count_by_class(spec)
    assert bucket.fetched() == []
    there, reach = fetched(spec, Reach(cache=str(tmp_path)))
    assert counted == count_by_class(there, reach=reach)
    assert counted is not None


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ([], "there are no images in s3://images"),
        (["notes.txt"], "there are no images in s3://images"),
        (["x.png", "y.png"], "s3://images holds no class folders"),
        (["rose/x.png"], "s3://images holds a single class, 'rose'"),
        (["train/rose/x.png", "train/fern/x.png", "test/oak/x.png"], "s3://images/test has a class 'oak'"),
        (["rose/../x.png"], "cannot be a file's name"),
    ],
)
def test_a_bucket_that_is_no_image_folder_is_told_by_its_address(bucket: Bucket, keys: list[str], told: str) -> None:
    bucket.put_all({key: picture(n) for n, key in enumerate(keys)})
    with pytest.raises(DataError) as refused:
        count_by_class(folder(bucket.url))
    assert told in str(refused.value)
    assert "fixnorm-names" not in str(refused.value)


def test_a_store_that_refuses_or_fails_says_so_without_a_long_wait(bucket: Bucket) -> None:
    with pytest.raises(DataError, match="there is no s3://nowhere"):
        count_by_class(folder("s3://nowhere"))
    bucket.answers_badly, bucket.status = (lambda _: True), 403
    with pytest.raises(DataError, match="s3://images may not be read"):
        count_by_class(folder(bucket.url))
    bucket.requests.clear()
    bucket.status = 500
    with pytest.raises(BucketDown):
        count_by_class(folder(bucket.url))
    assert len(bucket.requests) <= 2


def test_a_process_without_keys_says_that_it_is_the_one_without(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_") and "KEY" in name]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(NotEquipped):
        count_by_class(folder(bucket.url))


def test_a_list_is_read_page_by_page_until_it_is_too_long_or_takes_too_long(bucket: Bucket) -> None:
    bucket.put_all({f"{label}/{n}.png": b"x" for label in "ab" for n in range(600)})
    found = list_names(bucket.url, images_only=True, most=1200)
    assert found is not None
    assert len(set(found)) == 1200
    assert list_names(bucket.url, images_only=True, most=1199) is None
    bucket.requests.clear()
    assert list_names(bucket.url, images_only=True, most=1200, clock=itertools.count(step=60).__next__) is None
    assert len(bucket.requests) == 1


def jpeg(path: Path, *, side: int = 64) -> bytes:
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).save(path)
    return path.read_bytes()


def test_images_that_a_trial_could_not_read_are_found_among_few(tmp_path: Path) -> None:
    pets = tmp_path / "pets"
    for label in ("cat", "dog"):
        for n in range(5):
            whole = jpeg(pets / label / f"{n}.jpg")
            (pets / label / f"{n}.png").write_bytes(image_file(np.zeros((9, 9, 3), dtype=np.uint8)))
    assert look_at_some(pets).damaged == ()
    (pets / "cat" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pets / "cat" / "cut.png").write_bytes(picture(3, side=40)[:-20])
    (pets / "dog" / "empty.webp").touch()
    (pets / "dog" / "page.jpg").write_text("<html>not found</html>")
    seen = look_at_some(pets)
    assert seen.looked_at == 24
    assert {path.name for path in seen.damaged} == {"cut.jpg", "cut.png", "empty.webp", "page.jpg"}


def test_of_many_images_some_are_looked_at_in_every_class_and_not_for_long(tmp_path: Path) -> None:
    for label in "abc":
        (tmp_path / "set" / label).mkdir(parents=True)
        for n in range(MOST_IMAGES):
            (tmp_path / "set" / label / f"{n}.png").touch()
    seen = look_at_some(tmp_path / "set")
    assert (seen.looked_at, len(seen.damaged)) == (MOST_IMAGES, MOST_IMAGES)
    assert {path.parent.name for path in seen.damaged} == set("abc")
    clock = itertools.count(step=0.5).__next__
    assert look_at_some(tmp_path / "set", clock=lambda: float(clock())).looked_at == 4


def test_no_image_out_of_reach_is_looked_at(tmp_path: Path) -> None:
    jpeg(tmp_path / "secret.jpg")
    for label in "ab":
        jpeg(tmp_path / "set" / label / "x.jpg")
    (tmp_path / "set" / "a" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(OutsideRoots):
        look_at_some(tmp_path / "set", reach=Reach(roots=Roots.at([tmp_path / "set"])))
