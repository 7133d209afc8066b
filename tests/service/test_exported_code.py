"""The training.py that an export writes runs as it stands once it is given a network and a batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from standin import best
from torch import nn
from torch.nn.functional import cross_entropy

from fixnorm_core.spec import JobSpec
from service.reporting.recipe import training_file

GIVEN = """
import torch
from torch import nn
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
images = torch.randn(16, 3, 8, 8)
"""


def code_of(method: str, optimizer: str) -> str:
    spec = JobSpec.model_validate({"search": {"method": method}, "training": {"optimizer": {"name": optimizer}}})
    params = {"lr": 0.1, "weight_decay": 5e-4} if method == "weight_decay" else {"lr": 0.01, "fc_norm": 2.0}
    return training_file(spec, best(params=params))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", ["fixnorm", "weight_decay"])
def test_it_trains_a_network_that_it_is_given(method: str, optimizer: str) -> None:
    given: dict[str, Any] = {}
    exec(GIVEN, given)
    needs = {"model", "images"} if method == "fixnorm" else {"model"}
    code = code_of(method, optimizer)
    assert all(f"#   {name} " in code for name in needs)
    names = {name: given[name] for name in needs}
    exec(compile(code, "training.py", "exec"), names)
    model, images = given["model"], given["images"]
    assert isinstance(model, nn.Module)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    cross_entropy(model(images), torch.zeros(16, dtype=torch.long)).backward()
    names["optimizer"].step()
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_it_runs_as_a_file_below_what_is_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "training.py"
    file.write_text(GIVEN + code_of("fixnorm", "sgd") + "print(type(optimizer).__name__)\n")
    done = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("FixNorm\n", 0), done.stderr
