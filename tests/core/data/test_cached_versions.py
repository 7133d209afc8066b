"""What is fetched of object stores does not fill a disk for ever: what nobody uses goes, what a process uses stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from buckets import Bucket, environment, picture, s3_server

from fixnorm_core.data import versions
from fixnorm_core.data.fetch import fetched
from fixnorm_core.data.versions import hold, make_room
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec
from service.settings import Settings

DAY_SECONDS = 86400.0
FETCH = """
import sys
from fixnorm_core.data.fetch import fetched
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec

cache, *urls = sys.argv[1:]
for url in urls:
    print(fetched(DataSpec(name="imagefolder", path=url, image_size=12), Reach(cache=cache))[0].path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    from s3fs import S3FileSystem

    with s3_server() as bucket, pytest.MonkeyPatch.context() as patched:
        for name, value in environment(bucket.endpoint).items():
            patched.setenv(name, value)
        for name in ("a", "b", "c", "d"):
            bucket.put_all({f"{name}/{label}/0.png": picture(ord(name) + label) for label in range(2)})
        S3FileSystem.clear_instance_cache()
        yield bucket
        S3FileSystem.clear_instance_cache()


@contextmanager
def process_that_uses(bucket: Bucket, names: Sequence[str], cache: Path) -> Iterator[list[Path]]:
    """Where it has them."""
    command = [sys.executable, "-c", FETCH, str(cache), *(f"{bucket.url}/{name}" for name in names)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield [Path(process.stdout.readline().strip()) for _ in names]
        finally:
            process.stdin.close()


def fetch(bucket: Bucket, name: str, reach: Reach) -> Path:
    spec = DataSpec(name="imagefolder", path=f"{bucket.url}/{name}", image_size=12)
    return Path(str(fetched(spec, reach)[0].path))


def age(folder: Path, *, days: float) -> None:
    then = time.time() - days * DAY_SECONDS
    os.utime(versions._lock_of(folder), (then, then))


def test_what_no_process_has_used_for_so_long_goes_when_something_is_fetched_and_nothing_else(
    bucket: Bucket, tmp_path: Path
) -> None:
    with process_that_uses(bucket, ["a", "b"], tmp_path) as (old, young):
        pass
    with process_that_uses(bucket, ["c"], tmp_path) as (used,):
        age(old, days=31)
        age(young, days=29)
        age(used, days=400)  # by a process that has read it into memory, and lives
        reach = Reach(cache=str(tmp_path), cache_days=30)
        fetch(bucket, "b", reach)
        assert old.is_dir()  # nothing was fetched
        mine = fetch(bucket, "d", reach)
        assert [each.is_dir() for each in (old, young, used, mine)] == [False, True, True, True]
        assert not old.parent.exists()
        assert not versions._lock_of(old).exists()
    make_room(tmp_path, days=30)  # that process has ended
    assert not used.exists()
    age(mine, days=31)
    make_room(tmp_path, days=30)
    assert mine.is_dir()  # this one has not
    assert (fetch(bucket, "a", reach), old.is_dir()) == (old, True)


def test_an_older_version_goes_too_and_the_one_that_is_there_now_stays(bucket: Bucket, tmp_path: Path) -> None:
    with process_that_uses(bucket, ["a"], tmp_path) as (before,):
        pass
    bucket.put("a/0/1.png", picture(7))
    try:
        now = fetch(bucket, "a", Reach(cache=str(tmp_path), cache_days=0))
    finally:
        bucket.remove("a/0/1.png")
    assert before.parent == now.parent
    assert list(now.parent.iterdir()) == [now]


def test_beyond_the_limit_what_was_unused_for_longest_goes_and_no_more_than_must(
    bucket: Bucket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with process_that_uses(bucket, ["a", "b", "c"], tmp_path) as found:
        pass
    for days, folder in zip((2, 3, 1), found, strict=True):
        age(folder, days=days)
    size = sum(path.stat().st_size for path in found[0].rglob("*.png"))
    fetch(bucket, "d", Reach(cache=str(tmp_path), cache_bytes=3 * size + 10))
    assert [folder.is_dir() for folder in found] == [True, False, True]
    assert "FIXNORM_DATA_CACHE_GIB" not in caplog.text
    with process_that_uses(bucket, ["a", "c"], tmp_path):
        mine = fetch(bucket, "b", Reach(cache=str(tmp_path), cache_bytes=10))
        assert [folder.is_dir() for folder in found] == [True, True, True]
        assert mine == found[1]
    assert "beyond FIXNORM_DATA_CACHE_GIB" in caplog.text


def test_where_files_cannot_be_locked_nothing_is_removed_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    folder = tmp_path / ("0" * 16) / ("1" * 32)
    folder.mkdir(parents=True)
    hold(folder, size=5)
    assert "it could be removed while it is in use" in caplog.text
    make_room(tmp_path, days=0, limit=0)
    assert folder.is_dir()


def test_the_operator_sets_both(tmp_path: Path) -> None:
    given = Settings(state_dir=tmp_path, data_cache_days=7, data_cache_gib=0.5).reach(tokens=True)
    assert (given.cache_days, given.cache_bytes) == (7, 2**29)
    usual = Settings(state_dir=tmp_path).reach(tokens=False)
    assert (usual.cache_days, usual.cache_bytes) == (30, None)
