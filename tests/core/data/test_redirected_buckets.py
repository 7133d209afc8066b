"""A store that sends a request to another host: that host is not asked, so it gets no keys and gives no data."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from buckets import SECRET, Bucket, environment, picture, s3_server

from fixnorm_core.data.fetch import fetched
from fixnorm_core.data.store import BucketDown, explained, open_store
from fixnorm_core.errors import DataError
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec


@dataclass
class Elsewhere:
    """Another host; a port of its own is one to a client."""

    address: str = ""
    asked: list[str] = field(default_factory=list)


@contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    found = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        def handle_one_request(self) -> None:
            found.asked.append(self.rfile.readline().decode())
            self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with s3_server() as bucket:
        bucket.put_all({f"greys/{label}/{n}.png": picture(10 * label + n) for label in range(2) for n in range(3)})
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    from s3fs import S3FileSystem

    for name, value in (environment(server.endpoint) | {"AWS_SESSION_TOKEN": "of-a-session"}).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield server
    server.answers_badly, server.status, server.headers = (lambda _: False), 500, {}
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("region", [None, "eu-west-1"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("what", ["/images", "/1/2.png"])
def test_what_is_read_is_not_asked_for_elsewhere(
    bucket: Bucket, tmp_path: Path, what: str, status: int, region: str | None
) -> None:
    with elsewhere() as other:
        bucket.answers_badly, bucket.status = (lambda asked: asked.endswith(what)), status
        bucket.headers = {"location": f"{other.address}/images"}
        if region is not None:  # for which botocore asks the same endpoint once more
            bucket.headers["x-amz-bucket-region"] = region
        spec = DataSpec(name="imagefolder", path="s3://images/greys", image_size=12)
        with pytest.raises(DataError, match=f"answers {status}, which sends the request elsewhere") as raised:
            fetched(spec, Reach(cache=str(tmp_path)))
    assert not isinstance(raised.value, BucketDown)  # more tries would not mend it
    assert "AWS_ENDPOINT_URL" in raised.value.way_out
    assert "AWS_DEFAULT_REGION" in raised.value.way_out
    assert not any(secret in str(raised.value) for secret in (SECRET, "of-a-session", other.address))
    assert other.asked == []
    assert not list(tmp_path.rglob("*.png"))


def test_a_region_in_an_answer_cannot_name_a_host(bucket: Bucket, tmp_path: Path) -> None:
    with elsewhere() as other:
        bucket.answers_badly, bucket.status = (lambda _: True), 301
        bucket.headers = {"x-amz-bucket-region": f"@{other.address.removeprefix('http://')}/"}
        spec = DataSpec(name="imagefolder", path="s3://images/greys", image_size=12)
        with pytest.raises(DataError, match="cannot be asked for as the environment"):
            fetched(spec, Reach(cache=str(tmp_path)))
    assert other.asked == []


@pytest.mark.parametrize("status", [301, 307])
def test_what_is_written_does_not_go_elsewhere(bucket: Bucket, status: int) -> None:
    with elsewhere() as other:
        bucket.answers_badly, bucket.status = (lambda asked: asked.startswith("PUT")), status
        bucket.headers = {"location": f"{other.address}/images/x"}
        with pytest.raises(DataError, match=f"answers {status}"), explained("s3://images", writes=True):
            open_store("s3://images").pipe_file("images/checkpoint", b"weights")
    assert other.asked == []
