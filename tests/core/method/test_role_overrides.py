from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixnorm_core.errors import RolesError
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.reports import RoleNames


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
        nn.Tanh(),
        nn.Linear(6, 3),
    )


IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_an_override_goes_before_what_was_measured() -> None:
    assert find_roles(_model(), IMAGES).head == ("7.weight",)

    roles = find_roles(_model(), IMAGES, overrides={"5.w*": "head", "7.weight": "free"})

    assert roles.head == ("5.weight",)
    assert "7.weight" in roles.free
    assert roles.scale_invariant == ("0.weight",)


def test_of_two_patterns_that_match_the_last_counts() -> None:
    roles = find_roles(
        _model(), IMAGES, overrides={"*.weight": "free", "[57].weight": "head", "0.*": "scale_invariant"}
    )

    assert (roles.scale_invariant, roles.head) == (("0.weight",), ("5.weight", "7.weight"))


def test_holding_a_weight_that_is_not_invariant_is_allowed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        roles = find_roles(_model(), IMAGES, overrides={"[05].weight": "scale_invariant"})

    assert roles.scale_invariant == ("0.weight", "5.weight")
    assert "5.weight is held by override" in caplog.text
    assert "0.weight is held" not in caplog.text


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"7.wieght": "head"}, ["'7.wieght' matches no parameter", "7.weight"]),
        ({"7.weight": "final"}, ["'final'", "scale_invariant, head, free"]),
        ({"1.*": "scale_invariant"}, ["matches no weight of two", "1.bias, 1.weight"]),
        ({"5.*": "head"}, ["5.weight", "frozen"]),
        ({"7.weight": "free"}, ["no head"]),
    ],
)
def test_an_override_that_cannot_be_is_refused(overrides: Any, words: list[str]) -> None:
    model = _model()
    model[5].requires_grad_(False)

    with pytest.raises(RolesError) as caught:
        find_roles(model, IMAGES, overrides=overrides)

    for word in words:
        assert word in str(caught.value)


def test_a_tied_weight_is_matched_by_its_second_name() -> None:
    model = _model()
    model[6].register_module("again", model[5])

    assert "5.weight" in find_roles(model, IMAGES, overrides={"6.again.weight": "head"}).head


def test_a_pattern_for_a_whole_layer_leaves_its_bias_free() -> None:
    roles = find_roles(_model(), IMAGES, overrides={"5.*": "head"})

    assert roles.head == ("5.weight", "7.weight")
    assert "5.bias" in roles.free


def test_roles_survive_being_written_and_read() -> None:
    roles = find_roles(_model(), IMAGES)

    read = Roles.from_names(RoleNames.model_validate_json(roles.names().model_dump_json()))

    assert read == roles
    assert read.names() == roles.names()


def test_vectors_are_measured_like_images() -> None:
    model = nn.Sequential(nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    roles = find_roles(model, torch.randn(4, 12))

    assert (roles.scale_invariant, roles.head) == (("0.weight",), ("3.weight",))


class _Tokens(nn.Module):
    """Token ids below 20; the second half of the places knows only ids below 5."""

    def __init__(self, *, tied: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Embedding(20, 8), nn.Embedding(5, 8)
        self.hidden, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 20, bias=False)
        if tied:
            self.head.weight = self.first.weight

    def forward(self, ids: Tensor) -> Tensor:
        features = self.first(ids[:, :3]).mean(dim=1) + self.second(ids[:, 3:]).mean(dim=1)
        return self.head(self.norm(self.hidden(features)).relu())


def _ids(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(20, (rows, 3), generator=generator)
    return torch.cat([first, torch.randint(5, (rows, 3), generator=generator)], dim=1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_token_ids_are_measured_on_values_that_the_model_knows(dtype: torch.dtype) -> None:
    roles = find_roles(_Tokens(), _ids(6).to(dtype))

    assert (roles.scale_invariant, roles.head) == (("hidden.weight",), ("head.weight",))
    assert {"first.weight", "second.weight"} <= set(roles.free)


def test_an_embedding_tied_to_the_head_is_the_head() -> None:
    roles = find_roles(_Tokens(tied=True), _ids(6))

    assert (roles.scale_invariant, roles.head) == (("hidden.weight",), ("first.weight",))


def test_one_row_of_token_ids_is_refused() -> None:
    with pytest.raises(RolesError, match=r"one row of torch\.int64.*at least two"):
        find_roles(_Tokens(), _ids(1))


def test_a_lazy_model_is_refused_by_the_name_of_its_parameter() -> None:
    with pytest.raises(RolesError, match=r"0\.weight has no values yet.*Run one batch"):
        find_roles(nn.Sequential(nn.LazyLinear(4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(4, 3))


def test_a_filter_of_zeros_hides_no_other_weights_role() -> None:
    model = _model()
    model[0].weight.data[2] = 0

    assert find_roles(model, IMAGES) == find_roles(_model(), IMAGES)
