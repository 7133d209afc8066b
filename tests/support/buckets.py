"""A real S3-compatible server on loopback, moto's, which fails when it is told to."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

__all__ = ["KEY_ID", "SECRET", "Bucket", "environment", "image_file", "picture", "reached", "s3_server"]

KEY_ID, SECRET = "AKIAFIXNORMTESTS0000", "a-secret-of-the-operators-that-nobody-reads"


@dataclass
class Bucket:
    """The server, with one bucket on it.

    Attributes:
        endpoint: Its address.
        name: The bucket's.
        requests: Method and path of what it was asked.
        answers_badly: Whether a request gets ``status`` for an answer.
        status: A 500 unless told otherwise.
        headers: Of such an answer.
        before: Called before each request is answered.
    """

    endpoint: str
    name: str = "images"
    requests: list[str] = field(default_factory=list)
    answers_badly: Callable[[str], bool] = lambda _: False
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    before: Callable[[str], None] = lambda _: None

    @property
    def url(self) -> str:
        return f"s3://{self.name}"

    def put(self, key: str, content: bytes) -> None:
        _objects().put_object(self.name, key, content)

    def put_all(self, files: dict[str, bytes]) -> None:
        for key, content in files.items():
            self.put(key, content)

    def damage(self, key: str) -> None:
        """Changes the middle byte of an object, and nothing that the store says of it."""
        found = _objects().get_object(self.name, key)
        content = bytearray(found.value)
        content[len(content) // 2] ^= 1
        found.value = bytes(content)

    def remove(self, key: str) -> None:
        _objects().delete_object(self.name, key)

    def keys(self, below: str = "") -> list[str]:
        """Of what is there."""
        return sorted(key for key in _objects().buckets[self.name].keys if key.startswith(below))

    def content(self, key: str) -> bytes:
        """What an object holds."""
        return bytes(_objects().get_object(self.name, key).value)

    def fetched(self) -> list[str]:
        """The keys of objects that were asked for."""
        return [path.split(f"/{self.name}/", 1)[1] for path in self.requests if path.startswith(f"GET /{self.name}/")]


def environment(endpoint: str) -> dict[str, str]:
    """What an operator sets."""
    return {
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextmanager
def s3_server() -> Iterator[Bucket]:
    try:
        import s3fs  # noqa: F401 - the tests are nothing without it
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server
    except ImportError as error:
        missing = f"{error.name} is not installed; the extra dev has it"
        refusal = pytest.fail.Exception if os.environ.get("FIXNORM_CI") == "1" else pytest.skip.Exception
        raise refusal(missing) from None

    class Silent(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    answer = DomainDispatcherApplication(create_backend_app)
    bucket = Bucket("")

    def serve(environ: dict[str, Any], start: Any) -> Any:
        asked = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        bucket.requests.append(asked)
        bucket.before(asked)
        if bucket.answers_badly(asked):
            start(f"{bucket.status} No", [("content-type", "text/plain"), *bucket.headers.items()])
            return [b""]
        return answer(environ, start)

    server = make_server("127.0.0.1", 0, serve, threaded=True, request_handler=Silent)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    bucket.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        _objects().create_bucket(bucket.name, "us-east-1")
        yield bucket
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        _objects().reset()


@contextmanager
def reached(bucket: Bucket) -> Iterator[Bucket]:
    """This process asks the server as an operator has it do; afterwards it answers as it should again."""
    from s3fs import S3FileSystem

    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment(bucket.endpoint).items():
            patched.setenv(name, value)
        S3FileSystem.clear_instance_cache()  # it would remember what it has listed, and its settings
        try:
            yield bucket
        finally:
            bucket.answers_badly, bucket.before, bucket.status = (lambda _: False), (lambda _: None), 500
            S3FileSystem.clear_instance_cache()


def _objects() -> Any:
    """What the server keeps, which is in this process: no test waits for a client of its own."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return s3_backends[DEFAULT_ACCOUNT_ID]["aws"]


def picture(grey: int, *, side: int = 12) -> bytes:
    """A PNG of which no two are alike."""
    return image_file(np.full((side, side, 3), grey % 256, dtype=np.uint8))


def image_file(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
