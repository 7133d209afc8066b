"""Cross-boundary risk: how many training images an augmentation may carry over a decision boundary.

The paper (arXiv 2103.15345) names the term without a definition that could be read; this one is the project's own.
"""

from __future__ import annotations

from contextlib import closing

import torch
from torch import Tensor, nn
from torch.nn import functional

from fixnorm_core.data.batches import Augmentation, Normalization, training_batches
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.types import Images
from fixnorm_core.method.roles import Roles
from fixnorm_core.training.features import linear_head, watched_inputs

__all__ = ["boundary_distances", "cross_boundary_risk"]

_IMAGES = 1000
_BATCH = 250


def cross_boundary_risk(
    model: nn.Module,
    roles: Roles,
    *,
    split: Images,
    augmentation: Augmentation,
    normalization: Normalization,
    seed: int,
) -> float | None:
    """The share of training images that lie nearer to a decision boundary than augmentation moves them.

    An image counts if its :func:`boundary_distances` is below ``‖f₁ − f₂‖``, the distance between the features of two
    augmentations of it. So one that is misclassified as it is counts too.

    Args:
        model: On the split's device; left in evaluation mode.
        roles: Of its parameters.
        split: The training images; at most 1,000 of them, evenly spread, are used.
        augmentation: As in training.
        normalization: As in training.
        seed: Of the two augmentations.

    Returns:
        In [0, 1]; None for a model without a single linear head, and where nothing is augmented.
    """
    head = linear_head(model, roles)
    if head is None or not augmentation.changes:
        return None
    chosen = torch.linspace(0, len(split) - 1, min(_IMAGES, len(split)), device=split.labels.device).long()
    images = split.numbered(chosen)  # so that the shuffled batches can be put back in order
    model.eval()
    with torch.inference_mode():
        none = Augmentation(flip=False, shift=0)
        plain, first, second = (
            _features(model, head, images, augmentation=change, normalization=normalization, seed=seed, draw=draw)
            for draw, change in enumerate((none, augmentation, augmentation))
        )
        distances = boundary_distances(plain, split.labels[chosen], weight=head.weight, bias=head.bias)
        return float((distances < (first - second).norm(dim=1)).double().mean())


def boundary_distances(features: Tensor, labels: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    """How far features lie from the nearest boundary of their own class's region; negative outside of it.

    ``min_j ((v_y − v_j)·f + b_y − b_j) / ‖v_y − v_j‖`` over the other classes ``j``, elementary geometry of a linear
    classifier.

    Args:
        features: ``f``, shape (n, features).
        labels: ``y``, int64 of shape (n,).
        weight: ``v``, shape (classes, features).
        bias: ``b``, shape (classes,), or None.

    Returns:
        float64 of shape (n,), in the features' unit. Two classes with the same ``v`` have no boundary between them.
    """
    weight = weight.double()
    logits = functional.linear(features.double(), weight, None if bias is None else bias.double())
    gaps = logits.gather(1, labels[:, None]) - logits
    # Not by products of matrices: between classes with nearly the same weights nothing would be left but rounding
    apart = torch.cdist(weight[labels], weight, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.where(apart > 0, gaps / apart, torch.inf).amin(dim=1)


def _features(
    model: nn.Module,
    head: nn.Linear,
    images: Images,
    *,
    augmentation: Augmentation,
    normalization: Normalization,
    seed: int,
    draw: int,
) -> Tensor:
    """Features of every image, shape (n, features), in the order of the split's positions."""
    seen: list[Tensor] = []
    positions: list[Tensor] = []
    batches = training_batches(
        images, batch_size=_BATCH, augmentation=augmentation, seed=derive_seed(seed, "risk"), epoch=draw
    )
    with watched_inputs(head, seen.append), closing(batches):
        for batch, places in batches:
            model(normalization(batch))
            positions.append(places)
    return torch.cat(seen)[torch.cat(positions).argsort()]
