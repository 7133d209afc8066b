"""What several files of tests here share: trials on nodes without a disk of their own to keep anything on."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from buckets import Bucket, reached, s3_server
from nodes import Node

from fixnorm_core.spec import CheckpointSpec, DataSpec, JobSpec, ModelSpec, TrainingSpec, TrialSpec
from worker.run_task import DataCache


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    with s3_server() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket) -> Iterator[Bucket]:
    server.requests.clear()
    with reached(server):
        yield server


@pytest.fixture(scope="module")
def cache() -> DataCache:
    return DataCache()


@pytest.fixture(scope="module")
def trial() -> TrialSpec:
    job = JobSpec(
        model=ModelSpec(options={"width": 4, "blocks": 1}),
        data=DataSpec(train_limit=100),
        training=TrainingSpec(epochs=4, checkpoints=CheckpointSpec(keep=2, best=True)),
    )
    return job.trial({"lr": 0.008, "fc_norm": 2.0}, seed=1)


@pytest.fixture
def node(bucket: Bucket, cache: DataCache, trial: TrialSpec, tmp_path: Path, request: pytest.FixtureRequest) -> Node:
    return Node(bucket, cache, trial, tmp_path, sha256(request.node.name.encode()).hexdigest())
