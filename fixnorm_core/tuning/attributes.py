"""Names of the user attributes that a trial carries for the sampler and the recommendation."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLASSES",
    "CONFIRM",
    "DIVERGED",
    "KIND",
    "PREDICTED",
    "PRUNED_BECAUSE",
    "RETRIES",
    "RUNG",
    "SEARCH",
    "SEED",
    "TRAIN_LOSS",
]

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

PREDICTED: Final = "fixnorm:predicted"
"""The value that a trial that was stopped early would be expected to have ended at, in the objective's unit."""

PRUNED_BECAUSE: Final = "fixnorm:pruned_because"
"""Why it was stopped, a sentence."""

RETRIES: Final = "fixnorm:retries"
"""The number of the failed trial whose point this one is another try at."""

RUNG: Final = "fixnorm:rung"
"""The step at which a trial was stopped to be compared with others at that step, an integer."""

TRAIN_LOSS: Final = "fixnorm:train_loss"
"""Training loss of every epoch so far, mean cross-entropies in nats, a list."""

CLASSES: Final = "fixnorm:classes"
"""Number of classes, an integer."""
