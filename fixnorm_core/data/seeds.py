"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "seeded"]


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A seed in [0, 2**63) for one purpose in one epoch; a resumed epoch draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's generator on the CPU, which torchvision draws from, and puts it back."""
    before = torch.random.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.random.set_rng_state(before)
