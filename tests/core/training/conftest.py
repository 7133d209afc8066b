from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fixnorm_core.data.load import load_training_data
from fixnorm_core.data.types import TrainingData
from fixnorm_core.spec import DataSpec, Method, ModelSpec, TrainingSpec, TrialSpec

SMALL_DIGITS = DataSpec(train_limit=200, validation_limit=100)

MakeTrial = Callable[..., TrialSpec]


@pytest.fixture(scope="session")
def small_digits() -> TrainingData:
    return load_training_data(SMALL_DIGITS)


@pytest.fixture
def make_trial() -> MakeTrial:
    """A trial of a fraction of a second; keywords change its training section, ``method``, ``params`` and the rest."""

    def make(
        *,
        method: Method = Method.FIXNORM,
        params: dict[str, float] | None = None,
        seed: int = 0,
        model: ModelSpec | None = None,
        data: DataSpec = SMALL_DIGITS,
        **training: Any,
    ) -> TrialSpec:
        defaults = {
            Method.FIXNORM: {"lr": 0.008, "fc_norm": 2.0},
            Method.WEIGHT_DECAY: {"lr": 0.1, "weight_decay": 1e-3},
        }
        return TrialSpec(
            model=model or ModelSpec(options={"width": 4}),
            data=data,
            training=TrainingSpec(**({"epochs": 4, "batch_size": 40, "device": "cpu"} | training)),
            method=method,
            params=params or defaults[method],
            seed=seed,
        )

    return make
