"""Images in an object store that hold something else than was put there."""

from __future__ import annotations

from pathlib import Path

import pytest
from buckets import picture, reached, s3_server

from fixnorm_core.artifacts import ArtifactStore
from fixnorm_core.data.fetch import fetched
from fixnorm_core.data.store import BucketDown
from fixnorm_core.reach import Reach
from fixnorm_core.spec import DataSpec


def test_an_image_that_is_damaged_is_told_of_and_no_fault_of_the_job(tmp_path: Path) -> None:
    with s3_server() as bucket, reached(bucket):
        store = ArtifactStore(f"{bucket.url}/flowers")
        for place in range(4):
            store.write(f"train/{'rose' if place % 2 else 'tulip'}/{place}.png", picture(place))  # with its checksum
        bucket.damage("flowers/train/rose/1.png")
        with pytest.raises(BucketDown, match="something below s3://images/flowers is damaged"):
            fetched(DataSpec(name="imagefolder", path=store.url, image_size=12), Reach(cache=str(tmp_path)))
        assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []
