from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fixnorm_core.method.roles import find_roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(32) % 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def _model() -> nn.Module:
    return build_model(ModelSpec(options={"width": 8}), classes=4, channels=1, image_size=8)


def _sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)


def _assert_held(model: nn.Module, optimizer: FixNorm) -> None:
    for name in optimizer.roles.scale_invariant:
        assert float(model.get_parameter(name).detach().norm()) == pytest.approx(1.0, rel=1e-6), name


@pytest.mark.gpu
@pytest.mark.parametrize("granularity", ["tensor", "filter"])
def test_a_step_captured_in_a_cuda_graph_holds_norms_when_replayed(granularity: Any) -> None:
    model = _model().cuda()
    base = torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.0, capturable=True)
    optimizer = FixNorm(
        base, model, example_input=IMAGES.cuda(), fc_norm=1.1, granularity=granularity, momentum_radial="remove"
    )
    side = torch.cuda.Stream()
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        optimizer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    before = model.get_parameter("stem.0.weight").detach().clone()

    graph.replay()

    assert not torch.equal(model.get_parameter("stem.0.weight"), before)
    _assert_held(model, optimizer)


@pytest.mark.gpu
def test_a_step_on_a_gpu_never_waits_for_it() -> None:
    model = _model().cuda()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES.cuda(), fc_norm=1.1, momentum_radial="remove")
    F.cross_entropy(model(IMAGES.cuda()), LABELS.cuda()).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
        norm = optimizer.head_norm()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert norm.is_cuda
    assert norm.isfinite()


@pytest.mark.gpu
@pytest.mark.parametrize("granularity", ["tensor", "filter"])
@pytest.mark.parametrize("foreach", [True, False])
def test_a_gpu_takes_the_steps_that_a_cpu_takes(granularity: Any, foreach: bool) -> None:
    trained = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = _model().double()
        images = IMAGES.double()
        optimizer = FixNorm(
            _sgd(model), model, example_input=images, fc_norm=1.2, granularity=granularity, momentum_radial="remove"
        )
        roles = optimizer.roles
        model = model.to(device)
        optimizer = FixNorm(
            _sgd(model),
            model,
            roles=roles,
            fc_norm=1.2,
            granularity=granularity,
            momentum_radial="remove",
            foreach=foreach,
        )
        for _ in range(5):
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(device)), LABELS.to(device)).backward()
            optimizer.step()
        trained.append([parameter.detach().cpu() for parameter in model.parameters()])

    for ours, theirs in zip(*trained, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.gpu
def test_roles_measured_on_a_gpu_are_those_measured_on_a_cpu() -> None:
    model = _model()

    assert find_roles(model.cuda(), IMAGES.cuda()) == find_roles(model.cpu(), IMAGES)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_on_a_gpu_the_fp32_weights_are_held(dtype: torch.dtype) -> None:
    model = _model().cuda()
    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES.cuda(), fc_norm=1.2)
    scaler = torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)

    for _ in range(5):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=dtype):
            loss = F.cross_entropy(model(IMAGES.cuda()), LABELS.cuda())
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    _assert_held(model, optimizer)
