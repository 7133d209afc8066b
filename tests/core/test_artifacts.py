"""Objects of trials in a store: a real S3-compatible server over HTTP."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from buckets import Bucket, reached, s3_server

from fixnorm_core.artifacts import ArtifactStore, Damaged
from fixnorm_core.data import store as data_store
from fixnorm_core.data.store import BucketDown, Pace
from fixnorm_core.errors import DataError


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket) -> Iterator[Bucket]:
    with reached(server):
        yield server


@pytest.fixture
def store(bucket: Bucket) -> ArtifactStore:
    return ArtifactStore(f"{bucket.url}/a/b")


def test_a_large_file_is_put_in_parts_and_fetched_and_copied_whole(
    store: ArtifactStore, bucket: Bucket, tmp_path: Path
) -> None:
    content = os.urandom(20 * 2**20)
    (tmp_path / "large").write_bytes(content)
    bucket.requests.clear()
    store.put(tmp_path / "large", "one/large")
    assert sum(asked.startswith("PUT") for asked in bucket.requests) == 3
    assert store.get("one/large", tmp_path / "below" / "fetched")
    assert (tmp_path / "below" / "fetched").read_bytes() == content
    store.copy("one/large", "two/large")
    assert store.find() == {"one/large": len(content), "two/large": len(content)}
    assert store.read("two/large", start=5, end=9) == content[5:9]
    assert store.read("two/large", start=len(content)) == b""
    store.remove(["one/large", "two/large", "never/there"])
    assert store.find() == {}


def test_an_upload_that_is_cut_off_leaves_nothing_that_is_seen_and_what_was_there(
    store: ArtifactStore, bucket: Bucket, tmp_path: Path
) -> None:
    store.write("cut/large", b"before")
    (tmp_path / "large").write_bytes(bytes(20 * 2**20))
    puts: list[str] = []

    def fails_after_one(asked: str) -> bool:
        if asked.startswith("PUT"):
            puts.append(asked)
        return len(puts) > 1

    bucket.answers_badly = fails_after_one
    with pytest.raises(BucketDown):
        store.put(tmp_path / "large", "cut/large")
    bucket.answers_badly = lambda _: False
    assert store.read("cut/large") == b"before"


def test_a_store_that_sends_less_than_it_tells_gives_no_file(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("short", b"0123456789")
    store.size("short")
    real = store._opened.get_file

    def cut_off(name: str, to: str) -> None:
        real(name, to)
        os.truncate(to, 4)

    monkeypatch.setattr(store._opened, "get_file", cut_off)
    with pytest.raises(BucketDown, match="was changed or cut off"):
        store.get("short", tmp_path / "short")
    assert [*tmp_path.iterdir()] == []


def test_what_is_not_what_was_put_there_gives_no_file(store: ArtifactStore, bucket: Bucket, tmp_path: Path) -> None:
    for name, size in (("small", 1), ("large", 20 * 2**20)):
        (tmp_path / name).write_bytes(os.urandom(size))
        store.put(tmp_path / name, f"same/{name}")
        store.copy(f"same/{name}", f"same/{name}-copied")
        for kept in (name, f"{name}-copied"):
            assert store.get(f"same/{kept}", tmp_path / "fetched")
            bucket.damage(f"a/b/same/{kept}")
            bucket.requests.clear()
            with pytest.raises(Damaged, match=f"s3://images/a/b/same/{kept} is damaged"):
                store.get(f"same/{kept}", tmp_path / "damaged")
            assert len(bucket.fetched()) == 2  # it could have been on the way
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fetched", "large", "small"]
    bucket.put("a/b/same/untold", b"by an older release")
    assert store.get("same/untold", tmp_path / "untold")


def test_what_is_not_there_is_no_error_to_look_for(store: ArtifactStore, tmp_path: Path) -> None:
    assert store.size("nothing") is None
    assert store.read("nothing") is None
    assert not store.get("nothing", tmp_path / "nothing")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(DataError, match="there is no s3://images/a/b/nothing"):
        store.copy("nothing", "to")


def test_names_that_begin_alike_are_others(store: ArtifactStore) -> None:
    for name in ("trials/1/x", "trials/10/x"):
        store.write(name, b"")
    assert set(store.find("trials/1")) == {"trials/1/x"}


def test_where_many_names_in_one_request_are_refused_each_is_removed_by_itself(
    store: ArtifactStore, bucket: Bucket
) -> None:
    for name in ("many/1", "many/2"):
        store.write(name, b"x")
    bucket.answers_badly, bucket.status = (lambda asked: asked.startswith("POST")), 501
    store.remove(["many/1", "many/2"])
    bucket.answers_badly = lambda _: False
    assert store.find("many") == {}


def test_it_is_asked_again_with_longer_pauses_for_a_while_and_no_longer(bucket: Bucket) -> None:
    slept: list[float] = []
    bucket.answers_badly = lambda _: True
    store = ArtifactStore(f"{bucket.url}/a", 20.0, Pace.QUICK, sleep=slept.append, clock=lambda: sum(slept))
    with pytest.raises(BucketDown):
        store.size("x")
    assert slept == [1.0, 2.0, 4.0, 8.0]


def test_a_refusal_is_the_callers_fault_only_where_the_address_is(bucket: Bucket) -> None:
    bucket.answers_badly, bucket.status = (lambda _: True), 403
    for excused in (False, True):
        with pytest.raises(DataError, match="may not be written") as raised:
            ArtifactStore(f"{bucket.url}/a", excused=excused).size("x")
        assert isinstance(raised.value, BucketDown) is excused


def test_what_answers_as_no_store_does_is_down(bucket: Bucket, tmp_path: Path) -> None:
    """A proxy's page that asks for a password, say."""
    for name in ("file", "large"):
        (tmp_path / name).write_bytes(bytes(1 if name == "file" else 9 * 2**20))
    bucket.answers_badly, bucket.status = (lambda _: True), 200
    store = ArtifactStore(f"{bucket.url}/a")
    asked: list[Callable[[], object]] = [
        store.check,
        lambda: store.size("x"),
        lambda: store.read("x"),
        lambda: store.get("x", tmp_path / "to"),
        lambda: store.put(tmp_path / "file", "x"),
        lambda: store.put(tmp_path / "large", "x"),
        lambda: store.copy("x", "y"),
    ]
    for ask in asked:
        with pytest.raises(BucketDown, match="is no object store"):
            ask()


@pytest.mark.parametrize("continues", [False, True])
def test_a_store_that_takes_connections_and_says_nothing_is_down_whatever_is_sent(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, continues: bool
) -> None:
    """The time for an answer begins when all is sent, which it never is where the store has to say "100 Continue"."""
    monkeypatch.setitem(Pace.QUICK.config, "connect_timeout", 0.2)
    monkeypatch.setitem(Pace.QUICK.config, "read_timeout", 0.3)
    monkeypatch.setattr(data_store, "_SLOWEST_BYTES", 2**26)
    (tmp_path / "large").write_bytes(bytes(7 * 2**20))  # more than sockets hold
    pool = ThreadPoolExecutor(1)
    with silent(continues=continues) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = ArtifactStore(f"{bucket.url}/a", pace=Pace.QUICK)
        asked: dict[str, Callable[[], object]] = {
            "check": store.check,
            "write": lambda: store.write("empty", b""),
            "put": lambda: store.put(tmp_path / "large", "large"),
            "copy": lambda: store.copy("one", "other"),
            "remove": lambda: store.remove(["one"]),
        }
        for what, ask in asked.items():
            answer = pool.submit(ask)
            try:
                with pytest.raises(BucketDown, match="does not answer as it should"):
                    answer.result(timeout=20)
            except TimeoutError:
                pytest.fail(f"{what} is waited for without end")


@contextmanager
def silent(*, continues: bool) -> Iterator[str]:
    """The address of what takes connections, asks for what is to be sent or not, and reads nothing of that."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                    if continues and b"100-continue" in taken[-1].recv(2**14):
                        taken[-1].sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                except OSError:
                    return

        taking = threading.Thread(target=take)
        taking.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            for connection in taken:  # whoever still waits is told
                connection.close()
            taking.join()
