"""Accuracy and loss on a split: of a network in training and, by the same code, of saved weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from fixnorm_core.data.batches import Normalization
from fixnorm_core.data.load import load_test_split, load_validation_split
from fixnorm_core.data.pool import WorkerPool
from fixnorm_core.data.types import Images
from fixnorm_core.errors import WeightsError
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.reports import MOST_CONFUSIONS, ClassCount, ClassEvaluation, Confusion, Evaluation
from fixnorm_core.training.device import pick_device, reproducible
from fixnorm_core.training.ranks import ALONE, Ranks
from fixnorm_core.training.weights import inference_batch_size, load_classifier

__all__ = ["evaluate", "evaluate_weights"]


def evaluate(
    model: nn.Module,
    split: Images,
    *,
    name: str,
    normalization: Normalization,
    ranks: Ranks = ALONE,
    predictions: list[Tensor] | None = None,
) -> Evaluation:
    """Evaluates in evaluation mode, with batches whose size depends on nothing but the images' own.

    Several ranks share the batches out, and their losses are added up in the order of the batches, so that the result
    is that of one rank, bit for bit.

    Args:
        model: On the device of ``split``; left in evaluation mode.
        split: What to evaluate on.
        name: What to call the split.
        normalization: From pixels to what the network was trained on.
        ranks: Who evaluates, each with the same model.
        predictions: Receives, for each of the own batches in order, the class of each image's highest logit: int64 of
            shape ``[batch]``, on the split's device.

    Returns:
        Accuracy, and mean cross-entropy without label smoothing (not finite if a logit is not).
    """
    device = split.labels.device
    size, count = inference_batch_size(split.side), len(split)
    losses = torch.zeros(-(-count // size), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    model.eval()
    own = losses[ranks.rank :: ranks.count]
    with torch.inference_mode(), closing(split.in_order(batch_size=size, share=ranks.share())) as batches:
        for place, (images, labels) in enumerate(batches):
            logits = model(normalization(images))
            own[place] = functional.cross_entropy(logits, labels, reduction="sum")
            predicted = logits.argmax(dim=1)
            correct += (predicted == labels).sum()
            if predictions is not None:
                predictions.append(predicted)
    ranks.add(losses, correct)  # the other ranks' batches are zeros here, so nothing is rounded
    loss = reduce(add, losses.tolist())  # one after another, whoever has computed them
    return Evaluation(split=name, accuracy=correct.item() / count, loss=loss / count, examples=count)


def evaluate_weights(path: Path, *, split: Literal["validation", "test"], reach: Reach = LOCAL) -> ClassEvaluation:
    """Evaluates a weights file on the split that its own training run was given, read afresh, class by class.

    On the device kind and thread count of the training run, the validation accuracy is bit for bit the recorded one.

    Args:
        path: The weights file.
        split: Which images.
        reach: What may be read and imported.

    Raises:
        WeightsError: If the file is truncated or foreign, or the data set has other classes now.
        DataError: If the images cannot be read.
        SpecError: If the run asked for CUDA and there is no GPU.
    """
    classifier = load_classifier(path, reach=reach)
    trial = classifier.trial
    load = load_test_split if split == "test" else load_validation_split
    classes, images = load(trial.data, image_size=classifier.image_size, reach=reach)
    if classes != classifier.classes:
        raise WeightsError(
            f"{path} was trained on classes {_listed(classifier.classes)}, and the data set now has {_listed(classes)}",
            "Restore the data set as it was, or train again",
        )
    device = pick_device(trial.training.device)
    classifier = classifier.to(device)
    with reproducible(device, seed=trial.seed), WorkerPool(trial.reading_processes, pin=device.type == "cuda") as pool:
        placed = images.to(device, pool=pool)
        predictions: list[Tensor] = []
        overall = evaluate(
            classifier.model, placed, name=split, normalization=classifier.normalization, predictions=predictions
        )
        return _by_class(overall, classes, labels=placed.labels, predicted=torch.cat(predictions))


def _by_class(overall: Evaluation, classes: Sequence[str], *, labels: Tensor, predicted: Tensor) -> ClassEvaluation:
    """Counts labels and predictions, both int64 of shape ``[examples]``; the matrix itself could be too large."""
    count = len(classes)
    examples, named, correct = (
        torch.bincount(which, minlength=count).tolist() for which in (labels, predicted, labels[labels == predicted])
    )
    wrong = labels != predicted
    pairs, times = torch.unique(labels[wrong] * count + predicted[wrong], return_counts=True)
    found = sorted(zip(pairs.tolist(), times.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    return ClassEvaluation(
        **overall.model_dump(),
        classes=tuple(
            ClassCount(name=name, examples=examples[place], predicted=named[place], correct=correct[place])
            for place, name in enumerate(classes)
        ),
        confusions=tuple(
            Confusion(label=classes[pair // count], predicted=classes[pair % count], count=many)
            for pair, many in found[:MOST_CONFUSIONS]
        ),
    )


def _listed(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:5])
    return f"{shown}, ... ({len(classes)})" if len(classes) > 5 else shown
