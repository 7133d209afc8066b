"""Names of the user attributes that a trial carries for the sampler and the recommendation."""

from __future__ import annotations

from typing import Final

__all__ = ["CONFIRM", "DIVERGED", "KIND", "SEARCH", "SEED"]

DIVERGED: Final = "fixnorm:diverged"
"""True when training stopped being finite: the trial says where the cliff is, and its value says nothing."""

SEED: Final = "fixnorm:seed"
"""The seed of the training run, an integer."""

KIND: Final = "fixnorm:kind"
""":data:`SEARCH` or :data:`CONFIRM`."""

SEARCH: Final = "search"
"""A point that the sampler proposed."""

CONFIRM: Final = "confirm"
"""Another run of a known point with a new seed."""
