from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.method.step import FixNorm

IMAGES = torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 3
# torch's own tracer calls what its own modules have deprecated
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.compiler.reset()


def _model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def _assert_trains_alike(
    compiled: tuple[nn.Module, nn.Module, Callable[[], object], FixNorm], plain: tuple[nn.Module, FixNorm]
) -> None:
    model, forward, step, optimizer = compiled
    twin, reference = plain
    for index in range(4):
        for one in (optimizer, reference):
            one.param_groups[0]["lr"] = 0.1 if index < 2 else 0.05  # as a scheduler does it
        for called, owner, advance in ((forward, model, step), (twin, twin, reference.step)):
            owner.zero_grad()
            F.cross_entropy(called(IMAGES), LABELS).backward()
            advance()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for name in optimizer.roles.scale_invariant:
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_with_a_compiled_step_trains_like_plain_ones(backend: str) -> None:
    if backend == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor builds its kernels with a C++ compiler, and there is none on the path")
    model = _model()
    twin = copy.deepcopy(model)
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, fc_norm=1.2, momentum_radial="remove")
    reference = FixNorm(_sgd(twin), twin, example_input=IMAGES, fc_norm=1.2, momentum_radial="remove")
    forward = torch.compile(model, backend=backend)
    step = torch.compile(optimizer.step, backend=backend)

    _assert_trains_alike((model, forward, step, optimizer), (twin, reference))


class _Plain(torch.optim.Optimizer):
    """Gradient descent without the graph break that torch puts into the steps of its own optimizers."""

    def __init__(self, parameters: Any, *, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]  # noqa: ARG002
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter)).add_(
                        parameter.grad
                    )
                    parameter.add_(self.state[parameter]["momentum_buffer"], alpha=-group["lr"])


@pytest.mark.parametrize("granularity", ["tensor", "filter"])
@pytest.mark.parametrize("foreach", [True, False])
def test_the_projection_is_one_graph_without_a_branch_on_a_tensor(granularity: Any, foreach: bool) -> None:
    """A branch on a tensor's value, or reading one, ends a graph, which ``fullgraph`` makes an error."""
    model = _model()
    optimizer = FixNorm(
        _sgd(model),
        model,
        example_input=IMAGES,
        fc_norm=1.2,
        granularity=granularity,
        foreach=foreach,
        momentum_radial="remove",
    )
    F.cross_entropy(model(IMAGES), LABELS).backward()
    optimizer.base.step()

    def project() -> None:
        optimizer._project()
        for group in optimizer._held:
            group.remove_radial(optimizer.state, foreach=foreach)

    torch.compile(project, backend="eager", fullgraph=True)()

    for name in optimizer.roles.scale_invariant:
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(1.0, rel=1e-6)


def test_with_a_base_that_allows_it_the_whole_step_is_one_graph() -> None:
    model = _model()
    twin = copy.deepcopy(model)
    optimizer = FixNorm(_Plain(model.parameters(), lr=0.1), model, example_input=IMAGES, fc_norm=1.1)
    reference = FixNorm(_Plain(twin.parameters(), lr=0.1), twin, example_input=IMAGES, fc_norm=1.1)
    step = torch.compile(optimizer.step, backend="eager", fullgraph=True)

    _assert_trains_alike((model, model, step, optimizer), (twin, reference))


def test_a_step_that_reads_a_tensors_value_would_be_seen() -> None:
    def reads(weight: torch.Tensor) -> torch.Tensor:
        return weight / 2 if weight.norm() > 1 else weight

    with pytest.raises(Exception, match=r"[Dd]ata-dependent"):
        torch.compile(reads, backend="eager", fullgraph=True)(torch.ones(3))
