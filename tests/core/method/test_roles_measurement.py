from __future__ import annotations

import copy
import pickle
import random
from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fixnorm_core.errors import RolesError
from fixnorm_core.method.probe import probe_copy
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.vision import torchvision

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _features() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class _Dropped(nn.Module):
    """A network with every kind of layer that leaves things out at random; with ``p`` 0, one without."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.body, self.branch, self.head = _features(), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)
        self.norm, self.dropout = nn.BatchNorm1d(8), nn.Dropout(p)
        self.depth = torchvision.ops.StochasticDepth(p, mode="row")

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images)
        return self.head(self.dropout(features + self.depth(self.norm(self.branch(features)))))


def test_dropout_and_stochastic_depth_take_no_part_in_the_measurement() -> None:
    torch.manual_seed(0)
    steady = _Dropped(0.0)
    torch.manual_seed(0)

    assert find_roles(_Dropped(0.9), IMAGES).shares == find_roles(steady, IMAGES).shares


def test_the_copy_is_in_float64_and_training_mode_with_next_to_no_eps() -> None:
    model = nn.Sequential(_features(), nn.Linear(8, 3), nn.LayerNorm(3), nn.GroupNorm(1, 3)).eval()

    probe = probe_copy(model)

    assert {parameter.dtype for parameter in probe.parameters()} == {torch.float64}
    assert all(module.training for module in probe.modules())
    assert {module.eps for module in probe.modules() if hasattr(module, "eps")} == {1e-30}


def test_of_several_batches_the_largest_share_counts() -> None:
    model = nn.Sequential(_features(), nn.Linear(8, 3))

    one, three = (find_roles(model, IMAGES, batches=batches).shares for batches in (1, 3))

    assert all(three[name] >= one[name] for name in one)
    assert any(three[name] > one[name] for name in one)
    with pytest.raises(RolesError, match="batches is 0"):
        find_roles(model, IMAGES, batches=0)


class _Stateful(nn.Module):
    """Draws from every generator there is, and counts its passes in a buffer that no state_dict shows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = _features(), nn.Linear(8, 3)
        self.register_buffer("passes", torch.zeros(()), persistent=False)
        self.register_buffer("centre", torch.zeros(8), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        features = self.body(images) * (1 + 0.1 * random.random() + 0.1 * np.random.rand() + 0.1 * torch.rand(()))
        self.centre = features.detach().mean(dim=0)
        return self.head(features)


@pytest.mark.parametrize("use", [find_roles, lambda m, x: FixNorm(torch.optim.SGD(m.parameters()), m, example_input=x)])
def test_no_buffer_mode_gradient_or_random_state_is_changed(use: Callable[[nn.Module, Tensor], object]) -> None:
    model = _Stateful().eval()
    model.head.train()
    model.body[0].weight.grad = torch.ones_like(model.body[0].weight)
    modes = [module.training for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    states = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    use(model, IMAGES)

    assert states == [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(model.body[0].weight.grad, torch.ones_like(model.body[0].weight))
    assert torch.is_grad_enabled()


def test_roles_are_found_where_gradients_are_switched_off() -> None:
    with torch.no_grad():
        assert find_roles(nn.Sequential(_features(), nn.Linear(8, 3)), IMAGES).head == ("1.weight",)


_Named = namedtuple("_Named", ["logits", "aux_logits", "features"])


class _Parts(nn.Module):
    """A main head, an auxiliary one for other classes, and features, in whatever container."""

    def __init__(self, pack: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.body, self.pack = _features(), pack
        self.main, self.auxiliary = nn.Linear(8, 3), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images)
        return self.pack(self.main(features), self.auxiliary(features), features)


@pytest.mark.parametrize(
    "pack",
    [
        lambda main, other, _: (main, other),
        lambda main, other, _: [main, None, other],
        lambda main, other, _: {"colour": main, "shape": other},
        _Named,
        lambda main, other, features: SimpleNamespace(logits=main, aux_logits=other, hidden=features),
    ],
)
def test_a_model_with_several_outputs_has_a_head_for_each(pack: Any) -> None:
    roles = find_roles(_Parts(pack), IMAGES)

    assert roles.scale_invariant == ("body.0.weight",)
    assert roles.head == ("main.weight", "auxiliary.weight")


def test_where_one_output_is_named_logits_the_others_do_not_count() -> None:
    roles = find_roles(_Parts(lambda main, other, _: {"logits": main, "embedding": other}), IMAGES)

    assert roles.head == ("main.weight",)
    assert "auxiliary.weight" in roles.free


def test_several_heads_are_each_bounded_and_a_trained_model_with_them_keeps_its_function() -> None:
    model = _Parts(lambda main, other, _: (main, other))
    for _ in range(5):
        model(IMAGES + 0.5)
    twin = copy.deepcopy(model).eval()
    norms = {name: float(model.get_parameter(name).detach().norm()) for name in ("main.weight", "auxiliary.weight")}
    optimizer = FixNorm(
        torch.optim.SGD(model.parameters(), lr=0.0), model, example_input=IMAGES, fc_norm=2.0, weight_norm=3.0
    )

    for ours, theirs in zip(model.eval()(IMAGES), twin(IMAGES), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        model.main.weight.mul_(10.0)
        model.auxiliary.weight.mul_(1.5)
    optimizer.step()
    assert float(model.main.weight.detach().norm()) == pytest.approx(2 * norms["main.weight"])
    assert float(model.auxiliary.weight.detach().norm()) == pytest.approx(1.5 * norms["auxiliary.weight"])


@pytest.mark.parametrize(
    "extra", [torch.tensor([3]), torch.randn(2, 2, dtype=torch.complex64), torch.zeros(2, 2, dtype=torch.bool)]
)
def test_a_parameter_that_is_no_real_number_is_free(extra: Tensor) -> None:
    model = nn.Sequential(_features(), nn.Linear(8, 3))
    model.register_parameter("extra", nn.Parameter(extra, requires_grad=False))

    assert "extra" in find_roles(model, IMAGES).free


@pytest.mark.parametrize(("example", "kind"), [((IMAGES, IMAGES), "tuple"), (IMAGES.numpy(), "ndarray")])
def test_an_example_that_is_not_one_tensor_is_refused(example: Any, kind: str) -> None:
    with pytest.raises(RolesError, match=f"example_input is {kind}"):
        find_roles(nn.Sequential(_features(), nn.Linear(8, 3)), example)


def test_roles_survive_a_pickle_with_their_shares() -> None:
    roles = find_roles(nn.Sequential(_features(), nn.Linear(8, 3)), IMAGES)

    copied = pickle.loads(pickle.dumps(roles))

    assert copied == roles
    assert (copied.shares, str(copied)) == (roles.shares, str(roles))
    assert Roles.from_names(roles.names()) == roles


# torch's own process group warns of its defaults
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_weight_that_is_shared_out_over_processes_is_refused_by_name(tmp_path: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(_features(), nn.Linear(8, 3))
    roles = find_roles(model, IMAGES)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        fully_shard(model, mesh=dist.init_device_mesh("cpu", (1,)))

        with pytest.raises(RolesError, match=r"0\.0\.weight is a DTensor.*DistributedDataParallel"):
            FixNorm(torch.optim.SGD(model.parameters(), lr=0.1), model, roles=roles)
    finally:
        dist.destroy_process_group()
