"""Image folders in an object store: a real S3-compatible server over HTTP, keys that are no file names, failures."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from buckets import KEY_ID, SECRET, Bucket, environment, picture, s3_server

from fixnorm_core.buckets import canonical_url, is_url, safe_parts
from fixnorm_core.data.catalog import check_data
from fixnorm_core.data.fetch import fetched
from fixnorm_core.data.load import load_test_split, load_training_data
from fixnorm_core.data.store import BucketDown
from fixnorm_core.errors import DataError
from fixnorm_core.reach import OutsideRoots, Reach, Roots
from fixnorm_core.spec import DataSpec

FLOWERS = {f"{name}/{n}.png": picture(start + n) for start, name in ((0, "rose"), (100, "tulip")) for n in range(5)}


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """The server as it is at first, with the environment that leads to it."""
    for name, value in environment(server.endpoint).items():
        monkeypatch.setenv(name, value)
    server.answers_badly, server.status, server.before = (lambda _: False), 500, (lambda _: None)
    server.requests.clear()
    return server


@pytest.fixture
def anew() -> Iterator[None]:
    """A process makes one client, with what its environment says then; here it makes another."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.fixture
def flowers(bucket: Bucket, request: pytest.FixtureRequest) -> str:
    """The address of an image folder that no other test uses."""
    prefix = sha256(request.node.name.encode()).hexdigest()
    bucket.put_all({f"{prefix}/{name}": content for name, content in FLOWERS.items()})
    bucket.requests.clear()
    return f"{bucket.url}/{prefix}"


@pytest.fixture
def reach(tmp_path: Path) -> Reach:
    return Reach(cache=str(tmp_path / "cache"))


def data(url: str, **more: object) -> DataSpec:
    return DataSpec.model_validate({"name": "imagefolder", "path": url, "image_size": 12, **more})


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fetch(url: str, reach: Reach) -> Path:
    spec, _ = fetched(data(url), reach)
    return Path(str(spec.path))


def key_of(url: str) -> str:
    return url.split("/", 3)[3]


@pytest.mark.parametrize("storage", ["memory", "stream"])
def test_it_is_read_as_the_same_folder_on_a_disk_is(flowers: str, reach: Reach, tmp_path: Path, storage: str) -> None:
    for name, content in FLOWERS.items():
        (tmp_path / "disk" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "disk" / name).write_bytes(content)
    closed = Reach(Roots.at([flowers]), cache=reach.cache)  # the cache is in no root
    there = load_training_data(data(flowers, storage=storage), reach=closed)
    here = load_training_data(data(str(tmp_path / "disk"), storage=storage))
    assert (there.classes, there.mean, there.std) == (here.classes, here.mean, here.std)
    for mine, other in ((there.train, here.train), (there.validation, here.validation)):
        for (images, labels), (as_images, as_labels) in zip(
            mine.in_order(batch_size=4), other.in_order(batch_size=4), strict=True
        ):
            assert images.equal(as_images)
            assert labels.equal(as_labels)
    assert load_test_split(data(flowers), image_size=12, reach=closed)[0] == ("rose", "tulip")


def test_each_object_is_fetched_once_and_what_has_changed_is_noticed(
    bucket: Bucket, flowers: str, reach: Reach
) -> None:
    bucket.put(f"{key_of(flowers)}/notes.txt", b"no image")
    bucket.put(f"{key_of(flowers)}/rose/.hidden.png", b"no image")
    bucket.put(f"{key_of(flowers)}/rose/", b"")  # what consoles put for a folder
    first = fetch(flowers, reach)
    assert files_in(first) == FLOWERS
    assert fetch(flowers, reach) == first
    assert sorted(bucket.fetched()) == sorted(f"{key_of(flowers)}/{name}" for name in FLOWERS)
    bucket.put(f"{key_of(flowers)}/rose/3.png", picture(77))
    second = fetch(flowers, reach)
    assert files_in(second) == FLOWERS | {"rose/3.png": picture(77)}
    assert files_in(first) == FLOWERS  # whoever reads it goes on


def test_what_is_missing_in_the_cache_is_not_used(flowers: str, reach: Reach) -> None:
    folder = fetch(flowers, reach)
    (folder / "rose" / "4.png").unlink()
    (folder / "tulip" / "4.png").write_bytes(b"")  # as after a power failure
    assert fetch(flowers, reach) == folder
    assert files_in(folder) == FLOWERS


def test_processes_at_once_fetch_it_once(bucket: Bucket, flowers: str, reach: Reach) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(flowers, reach))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert len(set(found)) == 1
    assert len(bucket.fetched()) == len(FLOWERS)


def test_one_that_is_killed_while_it_fetches_leaves_nothing_that_is_used(
    bucket: Bucket, flowers: str, reach: Reach, tmp_path: Path
) -> None:
    is_half, goes_on = threading.Event(), threading.Event()

    def stop_half_way(asked: str) -> None:
        if asked.endswith("/tulip/4.png"):
            is_half.set()
            goes_on.wait(60)

    bucket.before = stop_half_way
    code = (
        "import sys; from fixnorm_core.data.fetch import fetched; from fixnorm_core.reach import Reach; "
        "from fixnorm_core.spec import DataSpec; "
        "fetched(DataSpec(name='imagefolder', path=sys.argv[1]), Reach(cache=sys.argv[2]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code, flowers, str(reach.cache)], env=dict(os.environ))
    assert is_half.wait(60)
    child.send_signal(signal.SIGKILL)
    child.wait()
    goes_on.set()
    bucket.before = lambda _: None
    assert [path.name for path in (tmp_path / "cache").glob("*/*") if not path.name.startswith(".")] == []
    folder = fetch(flowers, reach)
    assert files_in(folder) == FLOWERS
    assert list(folder.parent.iterdir()) == [folder]  # what was half fetched is gone


def test_a_server_that_fails_at_times_costs_time_alone(bucket: Bucket, flowers: str, reach: Reach) -> None:
    failed: set[str] = set()

    def fails_once(asked: str) -> bool:
        fails = asked not in failed and asked.endswith(("3.png", f"/{bucket.name}"))
        failed.add(asked)
        return fails

    bucket.answers_badly = fails_once
    assert files_in(fetch(flowers, reach)) == FLOWERS


@pytest.mark.parametrize("what", ["/images", "tulip/2.png"])
def test_one_that_fails_always_is_down_and_leaves_nothing(
    bucket: Bucket, flowers: str, reach: Reach, tmp_path: Path, what: str
) -> None:
    bucket.answers_badly = lambda asked: asked.endswith(what)
    with pytest.raises(BucketDown, match=r"does not answer as it should .*\. It is tried again"):
        fetch(flowers, reach)
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"] == []
    bucket.answers_badly = lambda _: False
    assert files_in(fetch(flowers, reach)) == FLOWERS


def test_data_that_change_while_they_are_fetched_are_fetched_again(bucket: Bucket, flowers: str, reach: Reach) -> None:
    changes = [picture(200)]

    def change(asked: str) -> None:
        if asked.startswith("GET") and asked.endswith("/rose/1.png") and changes:
            new = changes.pop()
            bucket.put(f"{key_of(flowers)}/rose/0.png", new)
            bucket.remove(f"{key_of(flowers)}/rose/4.png")

    bucket.before = change
    found = files_in(fetch(flowers, reach))
    assert found == {name: each for name, each in FLOWERS.items() if name != "rose/4.png"} | {
        "rose/0.png": picture(200)
    }


def test_data_that_change_all_the_time_are_an_error(bucket: Bucket, flowers: str, reach: Reach) -> None:
    greys = iter(range(150, 250))

    def change(asked: str) -> None:
        if asked.startswith("GET") and asked.endswith("/rose/1.png"):
            bucket.put(f"{key_of(flowers)}/rose/0.png", picture(next(greys)))

    bucket.before = change
    with pytest.raises(DataError, match="changed 3 times while"):
        fetch(flowers, reach)


@pytest.mark.parametrize(
    "key",
    [
        "../../escaped.png",
        "rose/../../../escaped.png",
        "/etc/escaped.png",
        "rose//3.png",
        "./rose.png",
        "rose/1\x01.png",
        "x" * 256 + "/1.png",
        "rose/3.png/below.png",
    ],
)
def test_a_key_that_cannot_be_a_file_below_the_folder_is_refused_and_nothing_is_written(
    bucket: Bucket, reach: Reach, tmp_path: Path, key: str
) -> None:
    prefix = sha256(key.encode()).hexdigest()
    bucket.put_all({f"{prefix}/{name}": picture(1) for name in ("rose/3.png", key)})
    with pytest.raises(DataError, match="Rename or remove that object"):
        fetch(f"{bucket.url}/{prefix}", reach)
    assert not (tmp_path / "cache").exists()


def test_names_that_are_unusual_are_no_trouble(bucket: Bucket, flowers: str, reach: Reach) -> None:
    more = {"wild rose/ü+%20?&#=.png": picture(50), "wild rose/a*[b].PNG": picture(51), "wild rose/..x.y.png": b""}
    bucket.put_all({f"{key_of(flowers)}/{name}": content for name, content in more.items()})
    del more["wild rose/..x.y.png"]  # hidden
    assert files_in(fetch(flowers, reach)) == FLOWERS | more


@pytest.mark.parametrize("case", ["no bucket", "no images", "no credentials", "refused", "no endpoint"])
def test_what_will_not_go_well_later_either_is_said_to_the_operator(
    bucket: Bucket, reach: Reach, anew: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str
) -> None:
    url, told = f"{bucket.url}/{case.replace(' ', '-')}", "there are no images in"
    if case == "no bucket":
        url, told = "s3://nobodys-bucket/flowers", "there is no s3://nobodys-bucket/flowers"
    if case == "no credentials":
        told = "needs credentials"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    if case == "no endpoint":
        told = "AWS_ENDPOINT_URL or AWS_DEFAULT_REGION is not"
        monkeypatch.setenv("AWS_ENDPOINT_URL", "operator:endpoint-password@nowhere")
    if case == "refused":
        told = "may not be read: the store answers"
        from moto.core import responses

        monkeypatch.setattr(responses.settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0)  # the server looks who asks
    with pytest.raises(DataError, match=told) as raised:
        fetch(url, reach)
    assert not isinstance(raised.value, BucketDown)
    assert raised.value.way_out
    assert "endpoint-password" not in str(raised.value)
    assert_no_secret(str(raised.value))


def test_a_dead_endpoint_is_down_within_seconds_and_no_key_is_told(
    bucket: Bucket, reach: Reach, anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://operator:endpoint-password@127.0.0.1:9")
    with pytest.raises(BucketDown, match="does not answer as it should") as raised:
        fetch(f"{bucket.url}/flowers", reach)
    assert raised.value.__suppress_context__
    assert_no_secret(str(raised.value))
    assert "endpoint-password" not in str(raised.value)


def test_an_answer_that_more_tries_cannot_mend_is_fatal(flowers: str, bucket: Bucket, reach: Reach, anew: None) -> None:
    bucket.answers_badly, bucket.status = (lambda _: True), 501
    with pytest.raises(DataError, match="cannot be asked for as the environment") as raised:
        fetch(flowers, reach)
    assert not isinstance(raised.value, BucketDown)


def test_a_profile_that_does_not_exist_is_fatal(
    flowers: str, reach: Reach, anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(DataError, match=r"cannot be asked for as the environment .*ProfileNotFound") as raised:
        fetch(flowers, reach)
    assert not isinstance(raised.value, BucketDown)


def test_where_files_cannot_be_locked_it_fetches_all_the_same_and_leaves_others_downloads(
    flowers: str, reach: Reach, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_args: object, **_options: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", no_locks)
    assert reach.cache is not None
    running = Path(reach.cache) / sha256(flowers.encode()).hexdigest()[:16] / ".another.partial"
    running.mkdir(parents=True)
    assert len(list(fetch(flowers, reach).rglob("*.png"))) == len(FLOWERS)
    assert running.is_dir()


def test_what_others_fetch_is_left_to_them_until_it_is_abandoned(flowers: str, reach: Reach) -> None:
    assert reach.cache is not None
    home = Path(reach.cache) / sha256(flowers.encode()).hexdigest()[:16]
    running = [home / f".v.{host}.{os.getpid()}.a.partial" for host in ("elsewhere", socket.gethostname())]
    dead = subprocess.Popen(["true"])
    dead.wait()
    abandoned = [
        home / f".v.elsewhere.{os.getpid()}.b.partial",
        home / f".v.{socket.gethostname()}.{dead.pid}.a.partial",
    ]
    for each in (*running, *abandoned):
        each.mkdir(parents=True)
    os.utime(abandoned[0], (0, 0))
    fetch(flowers, reach)
    assert [each.is_dir() for each in (*running, *abandoned)] == [True, True, False, False]


def test_where_another_was_sooner_its_folder_stays(
    flowers: str, reach: Reach, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = fetch(flowers, reach)
    kept = ready.rename(ready.with_name("kept"))
    inode = kept.stat().st_ino
    bucket.requests.clear()

    def another_ends(asked: str) -> None:
        if kept.exists() and len(bucket.fetched()) == len(FLOWERS):  # in the last file's request
            kept.rename(ready)

    bucket.before = another_ends
    assert fetch(flowers, reach) == ready
    assert ready.stat().st_ino == inode
    assert [path.name for path in ready.parent.iterdir()] == [ready.name]


def test_a_cache_that_cannot_be_made_names_the_setting(flowers: str, reach: Reach, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="FIXNORM_DATA_CACHE") as raised:
        fetch(flowers, replace(reach, cache=str(tmp_path / "file" / "cache")))
    assert "Not a directory" in str(raised.value)


def test_without_the_extra_it_says_how_to_install_it(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r"not installed where trials run.*pip install"):
        fetch("s3://images/flowers", reach)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///key",
        "s3://UPPER/x",
        "s3://images/a/../b",
        "s3://images//x",
        "s3://images/x\x01y",
        "s3://key:word@images/x",
        "s3://127.0.0.1:9000/images",
        "http://127.0.0.1/images",
        "file:///etc",
        "gs://images/x",
    ],
)
def test_an_address_of_another_form_is_refused_before_anything_is_asked(url: str) -> None:
    assert is_url(url)
    with pytest.raises(DataError, match="is not s3://BUCKET") as raised:
        check_data(data(url), reach=Reach())
    assert "key:word" not in str(raised.value)


def test_only_addresses_below_the_roots_are_in_reach(tmp_path: Path) -> None:
    reach = Reach(Roots.at([tmp_path, "s3://images/team-a/"]))
    for url in ("s3://images/team-a", "s3://images/team-a/flowers/"):
        assert check_data(data(url), reach=reach).path == url.rstrip("/")
    for url in ("s3://images", "s3://images/team-ab", "s3://images/team-b/x", "s3://other/team-a"):
        with pytest.raises(OutsideRoots, match="s3://images/team-a"):
            check_data(data(url), reach=reach)
        with pytest.raises(OutsideRoots):  # where it would be fetched, too
            fetched(data(url), reach)
    with pytest.raises(OutsideRoots):
        check_data(data("s3://images/team-a"), reach=Reach(Roots.at([tmp_path])))
    with pytest.raises(DataError):
        check_data(data("simplecache::s3://images/team-a"), reach=reach)
    with pytest.raises(DataError, match="is kept in a folder"):
        check_data(DataSpec(name="cifar10", path="s3://images/team-a"), reach=reach)


def test_an_address_has_one_form_and_a_key_is_names() -> None:
    assert canonical_url("s3://my-bucket/a/b/") == "s3://my-bucket/a/b"
    assert safe_parts("rose/1.png") == ("rose", "1.png")
    assert [safe_parts(key) for key in ("", "a/../b", "a\x7f", "\ud800", "ü" * 128, "a?versionId=1")] == [None] * 6
    assert not any(is_url(path) for path in ("/a/b", "a/b", "./s3:/x", "C:\\x"))


def assert_no_secret(text: str) -> None:
    assert KEY_ID not in text
    assert SECRET not in text
