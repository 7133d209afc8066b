"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, purpose: str, epoch: int = 0) -> int:
    """A seed in [0, 2**63) for one purpose in one epoch; a resumed epoch draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{epoch}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
