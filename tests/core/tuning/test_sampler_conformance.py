"""Optuna's own conformance tests on FixNormSampler.

Left out: MultiObjectiveSamplerTestCase, because the sampler is for one objective and refuses more (which
SingleOnlySamplerTestCase checks).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from fixnorm_core.tuning.sampler import FixNormSampler

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "fc_norm": FloatDistribution(0.25, 16.0, log=True)}


class TestFixNormSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: FixNormSampler(SPACE, seed=0)
