from __future__ import annotations

import pytest
import torch
from torch import nn

from fixnorm_core import FixNorm, find_roles, parameter_groups
from fixnorm_core.errors import RolesError
from fixnorm_core.method.roles import Roles


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def test_every_trained_parameter_is_in_one_group_and_schedulers_keep_their_ratio(model: nn.Sequential) -> None:
    model[1].bias.requires_grad_(False)
    images = torch.randn(16, 6)
    roles = find_roles(model, images)
    held, rest = groups = parameter_groups(model, roles, lr=0.01, rest_lr_factor=4.0)
    assert [id(weight) for weight in held["params"]] == [id(model[0].weight)]
    assert {id(weight) for weight in rest["params"]} == {id(model[1].weight), *(id(w) for w in model[3].parameters())}
    optimizer = FixNorm(torch.optim.SGD(groups, momentum=0.9), model, roles=roles, fc_norm=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(16) % 3).backward()
        optimizer.step()
        schedule.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] < 0.01
    assert rates[1] == pytest.approx(4 * rates[0])
    assert float(model[0].weight.detach().norm()) == pytest.approx(1.0, rel=1e-5)


def test_roles_of_another_model_are_refused(model: nn.Sequential) -> None:
    with pytest.raises(RolesError, match="nowhere"):
        parameter_groups(model, Roles(scale_invariant=("nowhere.weight",), head=()), lr=0.01)
