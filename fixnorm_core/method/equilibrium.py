"""What a weight-decay run does to scale-invariant weights in equilibrium, and the fixed-norm run that does the same.

Notation: ``η`` learning rate, ``λ`` weight decay, ``α`` momentum (``β₁`` of AdamW), ``W`` a scale-invariant weight of
``d`` elements, ``R`` the norm it is held at, ``G`` the norm of its gradient at ``‖W‖ = 1``, so that ``G / ‖W‖`` is that
of its gradient; norms are Frobenius. All of it takes the gradients of successive steps to be independent, and ``ηλ`` to
be small.

The momentum buffer of SGD, ``m ← αm + g``, has mean square ``‖g‖² / (1 − α²)``, so a step turns ``W`` by ::

    θ = ηG / (‖W‖² sqrt(1 − α²))

With decay the norm settles where growth by steps and shrinking by decay balance, which gives (Kosson et al., arXiv
2305.17212; van Laarhoven, arXiv 1706.05350, for ``α = 0``) ::

    ‖W*‖² = G sqrt(η / (2λ(1 − α)))          θ* = sqrt(2ηλ / (1 + α))

Held at ``R``, the learning rate ``η'`` with ``θ = θ*`` is therefore ::

    η' = η R² / ‖W*‖² = (R² / G) sqrt(2ηλ(1 − α))

AdamW divides by the root mean square of the gradient, so its step has norm ``η sqrt(d (1 − β₁) / (1 + β₁))`` whatever
``G`` is. Its equilibrium turns by ``θ* = sqrt(2ηλ (1 − β₁) / (1 + β₁))`` (the same paper), so ``η' = R sqrt(2ηλ / d)``.

At fixed norm old gradients in the momentum are no longer tangential: their radial part, a share ``θα / (1 − α)`` of it,
is projected away. The rotation falls short by half that share squared: 4 % at ``θ = 0.03`` and ``α = 0.9``, 0.4 % at
0.01. Simulated in ``tests/core/method/test_equilibrium.py``.
"""

from __future__ import annotations

import math
from typing import Literal

from fixnorm_core.errors import SpecError

__all__ = ["START_FC_NORM", "equilibrium_rotation", "equivalent_start"]

START_FC_NORM = 2.0
"""Where the search for ``fc_norm`` begins. The best bound on the head was about 3 where the norm at initialisation was
1.8, and 2 to 3 times it on another grid."""


def equilibrium_rotation(
    *, lr: float, weight_decay: float, momentum: float, optimizer: Literal["sgd", "adamw"] = "sgd"
) -> float:
    """Radians by which a scale-invariant weight turns in a step of a weight-decay run, in equilibrium.

    Args:
        lr: ``η``, above zero.
        weight_decay: ``λ``, above zero; torch's, so that AdamW's decay is multiplied by ``η``.
        momentum: ``α`` or ``β₁``, in [0, 1).
        optimizer: Torch's SGD or AdamW.

    Returns:
        ``θ*`` of this module's introduction (arXiv 2305.17212).

    Raises:
        SpecError: For a value out of its range.
    """
    _check(lr=lr, weight_decay=weight_decay, momentum=momentum)
    shrink = (1 - momentum) / (1 + momentum) if optimizer == "adamw" else 1 / (1 + momentum)
    return math.sqrt(2 * lr * weight_decay * shrink)


def equivalent_start(
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    weight_norm: float = 1.0,
    gradient_norm: float = 1.0,
    optimizer: Literal["sgd", "adamw"] = "sgd",
    elements: int | None = None,
) -> dict[str, float]:
    """The first point of a search for someone who has a tuned weight-decay run.

    With SGD the result is inversely proportional to ``G``, which no optimizer setting tells: it depends on network,
    data and batch size, and differs between layers. ``gradient_norm=1`` is a guess of its size, so the result is a
    start and not an equality. A run of torch's SGD measures ``G``: it is ``scale_invariant.gradient_norm`` in the
    diagnostics of its epochs (:class:`fixnorm_core.reports.RoleDiagnostics`).

    Args:
        lr: ``η`` of the tuned run, its highest; above zero.
        weight_decay: ``λ`` of it, above zero.
        momentum: ``α`` or ``β₁``, in [0, 1), of both runs.
        weight_norm: ``R``, above zero.
        gradient_norm: ``G``, above zero; SGD only.
        optimizer: Of both runs.
        elements: ``d`` of a typical held weight; AdamW needs it.

    Returns:
        ``lr``, with which a weight turns as far in a step as in the tuned run's equilibrium, and ``fc_norm``, about
        which decay says nothing: :data:`START_FC_NORM`.

    Raises:
        SpecError: For a value out of its range, and for AdamW without ``elements``.
    """
    _check(lr=lr, weight_decay=weight_decay, momentum=momentum)
    _check_positive(weight_norm=weight_norm, gradient_norm=gradient_norm)
    if optimizer == "adamw":
        if elements is None or elements < 1:
            raise SpecError(
                f"elements is {elements}, and AdamW's equivalent learning rate depends on the size of a held weight",
                "Give elements, the number of entries of a typical scale-invariant weight",
            )
        rate = weight_norm * math.sqrt(2 * lr * weight_decay / elements)
    else:
        rate = weight_norm**2 / gradient_norm * math.sqrt(2 * lr * weight_decay * (1 - momentum))
    return {"lr": rate, "fc_norm": START_FC_NORM}


def _check(*, lr: float, weight_decay: float, momentum: float) -> None:
    _check_positive(lr=lr, weight_decay=weight_decay)
    if not 0 <= momentum < 1:
        raise SpecError(f"momentum is {momentum:g}; it must be in [0, 1)", "Give the momentum of the tuned run")


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise SpecError(
                f"{name} is {value:g}; it must be a number above zero", f"Give the {name} of the run to start from"
            )
