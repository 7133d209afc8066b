from __future__ import annotations

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fixnorm_core.errors import RolesError
from fixnorm_core.method.head import weights_at_output
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec
from fixnorm_core.vision import torchvision


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _features(*extra: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), *extra, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def _images(size: int = 8) -> Tensor:
    return torch.randn(4, 3, size, size)


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize(
    ("name", "invariant", "head"),
    [
        ("resnet18", 20, "fc.weight"),
        ("mobilenet_v2", 52, "classifier.1.weight"),
        ("efficientnet_b0", 49, "classifier.1.weight"),
    ],
)
def test_torchvision_networks_split_into_invariant_weights_and_one_head(
    name: str, invariant: int, head: str, size: int
) -> None:
    model = torchvision.models.get_model(name, num_classes=10)

    roles = find_roles(model, _images(size))

    assert (len(roles.scale_invariant), roles.head) == (invariant, (head,))
    weights = {name for name, parameter in model.named_parameters() if parameter.dim() >= 2}
    others = [roles.shares[name] for name in weights - set(roles.scale_invariant)]
    assert max(roles.shares[name] for name in roles.scale_invariant) < 1e-13
    assert min(others) > 1e-4


def test_every_parameter_has_exactly_one_role_and_the_table_shows_it() -> None:
    model = build_model(ModelSpec(), classes=10, channels=3, image_size=8)

    roles = find_roles(model, _images())

    assert sorted(roles.scale_invariant + roles.head + roles.free) == sorted(n for n, _ in model.named_parameters())
    assert roles.names().head == ("head.weight",)
    table = str(roles).splitlines()
    assert len(table) == 1 + len(list(model.parameters()))
    assert any(line.split()[:2] == ["head", "head.weight"] for line in table)


def test_squeeze_and_excitation_weights_are_free() -> None:
    roles = find_roles(torchvision.models.mobilenet_v3_small(num_classes=5), _images(32))

    assert "features.1.block.1.fc1.weight" in roles.free


def test_scaling_an_invariant_weight_leaves_the_loss_and_scaling_any_other_does_not() -> None:
    model = build_model(ModelSpec(options={"norm": "group"}), classes=4, channels=3, image_size=8).double()
    roles = find_roles(model, _images())
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 0.0
    images = _images().double()
    expected = model(images)

    for name, parameter in model.named_parameters():
        scaled = copy.deepcopy(model)
        scaled.get_parameter(name).data.mul_(3.0)
        if parameter.dim() >= 2:
            assert torch.allclose(scaled(images), expected) == (name in roles.scale_invariant), name


def test_nothing_outside_is_changed_by_the_measurement() -> None:
    model = torchvision.models.resnet18(num_classes=3).eval()
    model.bn1.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = _images(32)
    torch.manual_seed(5)
    expected = torch.rand(3)

    torch.manual_seed(5)
    find_roles(model, images)

    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.bn1.eps == 1e-5


def test_the_same_seed_measures_the_same_shares_with_dropout_in_the_model() -> None:
    model = nn.Sequential(_features(nn.Dropout(0.5)), nn.Linear(8, 3))

    images = _images()

    assert find_roles(model, images, seed=1).shares == find_roles(model, images, seed=1).shares


class _ScaledLogits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.fc = _features(), nn.Linear(8, 3)
        self.temperature = nn.Parameter(torch.tensor(4.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images)) * self.temperature


class _TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.one, self.two = _features(), nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        return self.one(features) + self.two(features.square())


class _FunctionalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.weight = _features(), nn.Parameter(torch.randn(8, 3))

    def forward(self, images: Tensor) -> Tensor:
        return (self.features(images) @ self.weight).log_softmax(dim=1)


class _HeadThatIsNamedLikeABody(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.conv1 = _features(), nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv1(self.classifier(images)[:, :, None, None]).relu().mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (_ScaledLogits, ("fc.weight",)),
        (_TwoHeads, ("one.weight", "two.weight")),
        (_FunctionalHead, ("weight",)),
        (_HeadThatIsNamedLikeABody, ("conv1.weight",)),
    ],
)
def test_the_head_is_found_from_what_it_does(make: Callable[[], nn.Module], head: tuple[str, ...]) -> None:
    assert find_roles(make(), _images()).head == head


def test_the_convolution_in_front_of_squeezenets_pooling_produces_its_logits() -> None:
    model = torchvision.models.squeezenet1_1(num_classes=3)
    images = _images(32).requires_grad_()

    assert [id(w) for w in weights_at_output(model(images), inputs=images)] == [id(model.classifier[1].weight)]


def test_a_head_of_zeros_and_blocked_branches_are_measured_all_the_same() -> None:
    model = torchvision.models.resnet18(num_classes=3, zero_init_residual=True)
    nn.init.zeros_(model.fc.weight)

    roles = find_roles(model, _images(32))

    assert (len(roles.scale_invariant), roles.head) == (20, ("fc.weight",))


def test_a_bias_before_a_group_normalization_takes_the_weights_invariance_away() -> None:
    def model(*, bias: bool) -> nn.Module:
        conv = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        return nn.Sequential(_features(conv, nn.GroupNorm(2, 8)), nn.Linear(8, 3))

    assert "0.3.weight" in find_roles(model(bias=False), _images()).scale_invariant
    assert "0.3.weight" in find_roles(model(bias=True), _images()).free


def test_frozen_and_unused_parameters_are_free() -> None:
    model = nn.Sequential(_features(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)), nn.Linear(8, 3))
    model[0][0].weight.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.randn(2, 2)))

    roles = find_roles(model, _images())

    assert roles.scale_invariant == ("0.3.weight",)
    assert {"0.0.weight", "unused"} <= set(roles.free)


def test_a_tied_weight_appears_once_under_its_first_name() -> None:
    model = nn.Sequential(
        _features(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)),
        nn.Linear(8, 3),
    )
    model[0][5].weight = model[0][3].weight

    assert find_roles(model, _images()).scale_invariant == ("0.0.weight", "0.3.weight")


def test_a_weight_that_is_only_nearly_invariant_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Nearly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.hidden, self.fc = _features(), nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

        def forward(self, images: Tensor) -> Tensor:
            hidden = self.hidden(self.features(images))
            return self.fc(hidden / (hidden.square().mean(dim=1, keepdim=True) + 1e-7).sqrt())

    with caplog.at_level(logging.WARNING):
        roles = find_roles(Nearly(), _images())

    assert "hidden.weight" in roles.free
    assert "hidden.weight is nearly scale-invariant" in caplog.text


class _Tuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_features(), nn.Linear(8, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, int]:
        return self.body(images)[0], 0


@pytest.mark.parametrize(
    ("make", "example", "words"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), _images(), ["no scale-invariant weight", "by hand"]),
        (lambda: nn.Sequential(_features(), nn.Linear(8, 3), nn.BatchNorm1d(3)), _images(), ["no head", "1.weight"]),
        (_features, torch.randn(4, 3, 8, 8), ["no head", "0.weight"]),
        (lambda: nn.Sequential(_features(), nn.Linear(9, 3)), _images(), ["fails", "(8, 3, 8, 8)", "example_input"]),
        (_Tuple, _images(), ["output is tuple", "logits"]),
        (lambda: nn.Conv2d(3, 4, 1), _images(), ["output is (8, 4, 8, 8)", "logits"]),
        (
            _ScaledLogits,
            torch.zeros(4, 3, 8, 8, dtype=torch.uint8),
            ["fails on torch.uint8", "floating-point for images"],
        ),
    ],
)
def test_a_model_that_cannot_be_given_roles_is_refused_with_the_reason(
    make: Callable[[], nn.Module], example: Tensor, words: list[str]
) -> None:
    with pytest.raises(RolesError) as caught:
        find_roles(make(), example)

    for word in words:
        assert word in str(caught.value)


def test_roles_made_by_hand_have_no_shares() -> None:
    roles = Roles(scale_invariant=("a",), head=("b",))

    assert roles.names().free == ()
    assert [line.split()[-1] for line in str(roles).splitlines()[1:]] == ["-", "-"]


@pytest.mark.parametrize(
    ("name", "gains"),
    [
        ("small_resnet", ("stages.2.residual.4.weight", "stages.2.shortcut.1.weight")),
        ("resnet18", ("layer4.0.bn2.weight", "layer4.0.downsample.1.weight", "layer4.1.bn2.weight")),
        ("mobilenet_v2", ("features.18.1.weight",)),
        ("squeezenet1_1", ()),
    ],
)
def test_the_last_gains_are_met_on_the_way_back_from_the_logits(name: str, gains: tuple[str, ...]) -> None:
    model = build_model(ModelSpec(name=name), classes=3, channels=3, image_size=32)
    roles = find_roles(model, torch.randn(8, 3, 32, 32), batches=1, must_hold=False)
    assert roles.last_gains == gains


class _WithFeatures(nn.Module):
    def __init__(self, *, scaled: bool) -> None:
        super().__init__()
        self.body, self.embed, self.head, self.scaled = _features(), nn.Linear(8, 6), nn.Linear(6, 3), scaled

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.embed(self.body(images))
        return self.head(features), nn.functional.normalize(features) if self.scaled else features


def test_features_beside_the_logits_are_no_logits(caplog: pytest.LogCaptureFixture) -> None:
    assert find_roles(_WithFeatures(scaled=False), _images()).head == ("head.weight",)
    assert "count as logits" not in caplog.text


def test_several_unnamed_outputs_that_count_as_logits_are_named(caplog: pytest.LogCaptureFixture) -> None:
    find_roles(_WithFeatures(scaled=True), _images())
    assert caplog.text.count("2 outputs count as logits: output[0] of shape (8, 3), output[1] of shape (8, 6)") == 1
