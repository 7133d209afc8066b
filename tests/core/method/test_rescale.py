from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from fixnorm_core.errors import RolesError
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

IMAGES = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model(norm: str = "batch") -> nn.Module:
    return build_model(ModelSpec(options={"width": 8, "norm": norm}), classes=4, channels=1, image_size=8)


def _sgd(model: nn.Module, lr: float = 0.2) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_the_initial_rescale_keeps_the_function_in_training_mode(norm: str) -> None:
    model = _model(norm)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)):
            module.eps = 1e-12
    expected = model(IMAGES)

    optimizer = FixNorm(_sgd(model), model, example_input=IMAGES, weight_norm=0.25)

    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-4)
    assert float(model.get_parameter(optimizer.roles.scale_invariant[0]).detach().norm()) == pytest.approx(0.25)


@pytest.mark.parametrize("name", ["small_resnet", "resnet18", "mobilenet_v2"])
def test_a_trained_network_keeps_its_function_in_evaluation_mode(name: str) -> None:
    model = build_model(ModelSpec(name=name), classes=4, channels=1, image_size=8)
    for _ in range(10):
        model(torch.randn(16, 1, 8, 8) * 2 + 0.5)
    model.eval()
    with torch.no_grad():
        expected = model(IMAGES)
        variances = {key: value.clone() for key, value in model.named_buffers() if key.endswith("running_var")}

        FixNorm(_sgd(model), model, example_input=IMAGES)

        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert not model.training
    assert any(not torch.allclose(model.get_buffer(key), value, rtol=0.1) for key, value in variances.items())


def test_a_bias_in_front_of_a_trained_batch_normalization_is_taken_into_account() -> None:
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4))
    nn.init.normal_(model[0].bias)
    for _ in range(10):
        model(torch.randn(16, 1, 8, 8))
    model.eval()
    with torch.no_grad():
        expected = model(IMAGES)

        FixNorm(_sgd(model), model, example_input=IMAGES, weight_norm=9.0)

        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-4)


def test_a_trained_network_without_an_example_is_refused_and_left_alone() -> None:
    model = _model()
    roles = find_roles(model, IMAGES)
    model(IMAGES)
    before = copy.deepcopy(model.state_dict())

    with pytest.raises(RolesError, match=r"running statistics.*example_input"):
        FixNorm(_sgd(model), model, roles=roles)

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_weights_that_have_their_norms_already_need_no_example() -> None:
    model = _model()
    roles = FixNorm(_sgd(model), model, example_input=IMAGES).roles
    model(IMAGES)
    before = copy.deepcopy(model.state_dict())

    FixNorm(_sgd(model), model, roles=roles)

    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-6, atol=0)


def test_statistics_that_cannot_follow_the_weights_are_refused_and_left_alone() -> None:
    class Curved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.norm(torch.tanh(self.conv(images))).relu().mean(dim=(2, 3)))

    model = Curved()
    model(IMAGES)
    before = copy.deepcopy(model.state_dict())
    wrong = Roles(scale_invariant=("conv.weight",), head=("head.weight",))

    with pytest.raises(RolesError, match=r"changes the trained model's evaluation.*init"):
        FixNorm(_sgd(model), model, roles=wrong, example_input=IMAGES, weight_norm=20.0)

    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
