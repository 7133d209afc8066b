from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from group import start
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.spec import ModelSpec

_STEPS = 4


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def _held() -> tuple[nn.Module, FixNorm]:
    """Group normalization, whose statistics do not depend on how the batch is divided."""
    torch.manual_seed(0)
    spec = ModelSpec(options={"width": 8, "norm": "group"})
    model = build_model(spec, classes=4, channels=1, image_size=8)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return model, FixNorm(base, model, example_input=_batch()[0], fc_norm=1.1)


def _train(model: nn.Module, optimizer: FixNorm, images: torch.Tensor, labels: torch.Tensor) -> None:
    for _ in range(_STEPS):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def _one_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model, optimizer = _held()
    images, labels = _batch()
    _train(DistributedDataParallel(model), optimizer, images[rank::2], labels[rank::2])
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


# torch's own process group warns of its defaults
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_two_processes_with_half_the_batch_each_equal_one_with_all_of_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model, optimizer = _held()
    _train(model, optimizer, *_batch())

    start(_one_rank, str(tmp_path), count=2)

    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, expected in model.state_dict().items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
