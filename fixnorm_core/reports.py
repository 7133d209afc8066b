"""What training says of itself: one report per epoch, one result at the end. Plain data, no torch.

Accuracies are fractions in [0, 1], losses are mean cross-entropies in nats, times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = [
    "MOST_CONFUSIONS",
    "RECORD_NAME",
    "ClassCount",
    "ClassEvaluation",
    "Confusion",
    "EpochDiagnostics",
    "EpochReport",
    "Evaluation",
    "FinishedRun",
    "RoleDiagnostics",
    "RoleNames",
    "TrialOutcome",
    "TrialResult",
    "measures_of",
]

RECORD_NAME = "result.json"
"""The file of a run's folder that holds its :class:`FinishedRun`."""
MOST_CONFUSIONS = 400
"""So many pairs of classes an evaluation tells of at most: all that there can be of up to 20 classes."""


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)


class TrialOutcome(StrEnum):
    """How a training run ended by itself."""

    COMPLETE = "complete"
    DIVERGED = "diverged"


class RoleDiagnostics(_Report):
    """How the weights of one role move; None where the role has no weight that says.

    Attributes:
        rotation: Angle between a weight before and after a step, radians: the mean over the role's weights of two or
            more elements and over a few steps of the epoch. A weight of norm zero is left out.
        effective_learning_rate: ``lr / ‖W‖²`` (arXiv 1706.05350), with the weight's own ``lr``: the median over the
            same weights, the mean over the same steps. ``lr / ‖W‖`` for an optimizer with ``betas`` (Adam and its
            kin), whose step does not shrink with the gradient.
        gradient_norm: ``G``, the norm that the gradient would have at ``‖W‖ = 1``, told from how far each weight
            turned at its own effective learning rate and momentum (:mod:`fixnorm_core.method.equilibrium`): the
            mean over the same weights and steps. Of scale-invariant weights under torch's SGD; None for all others.
    """

    rotation: float | None = None
    effective_learning_rate: float | None = None
    gradient_norm: float | None = None


class EpochDiagnostics(_Report):
    """The two mechanisms of the method, as they were in one epoch.

    Attributes:
        scale_invariant: The weights whose norm the method holds.
        head: The weights that produce the logits.
        free: All others, biases and gains among them.
        feature_norm: Mean norm of what the head is fed, over the validation split; None without a single linear head.
        last_gain: Root mean square of the gains of the normalizations nearest to the logits, of every branch that is
            added up behind its own; None without one. Growing, it could undo the bound on the head.
    """

    scale_invariant: RoleDiagnostics
    head: RoleDiagnostics
    free: RoleDiagnostics
    feature_norm: float | None = None
    last_gain: float | None = None


class EpochReport(_Report):
    """What is known after one epoch.

    Attributes:
        epoch: The epoch just finished, counted from 1.
        epochs: Epochs planned in all.
        learning_rate: The base learning rate of the epoch's last step.
        train_loss: Mean over the epoch's training batches, as they were seen (augmented).
        train_accuracy: Likewise.
        validation_loss: On the whole validation split, evaluation mode, after the epoch.
        validation_accuracy: Likewise.
        head_norm: Frobenius norm of the head's weights after the epoch.
        head_bound: The bound it is held below; None when there is none.
        seconds: Wall time of the epoch, validation included.
        images_per_second: Training images per second of training time.
        diverged: The epoch's loss or weights stopped being finite; training ends with this report.
        diagnostics: Of the epoch; None when it diverged, or was written by a release that had none.
        classes: Number of classes; None in reports of a release that did not tell it.
    """

    epoch: int
    epochs: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float
    validation_accuracy: float
    head_norm: float
    head_bound: float | None
    seconds: float
    images_per_second: float
    diverged: bool = False
    diagnostics: EpochDiagnostics | None = None
    classes: int | None = None


class RoleNames(_Report):
    """Parameter names by role, as :func:`fixnorm_core.find_roles` measured them on this model."""

    scale_invariant: tuple[str, ...]
    head: tuple[str, ...]
    free: tuple[str, ...]


class TrialResult(_Report):
    """What a finished training run leaves.

    Attributes:
        outcome: Complete, or diverged.
        validation_accuracy: Of the final epoch's weights; chance level when the run diverged.
        validation_loss: Likewise; ``log(classes)`` when the run diverged.
        validation_examples: Size of the validation split.
        classes: Number of classes.
        epochs: Epochs that were run, those before a resume included.
        seconds: Training time over all epochs, those before a resume included.
        weights: Path of the safetensors file with the final weights; None when the run diverged.
        roles: The parameters by role.
        device: Torch's name of the device, for example ``"cpu"``.
        versions: Versions of Python and of the packages that the numbers depend on, by name.
        cross_boundary_risk: Share of training images that an augmentation may carry over a decision boundary
            (docs/method.md, "Diagnostics"); None when the run diverged, for a model without a single linear head, for
            training without augmentation, where measuring it failed (the log says how), and from a release that did
            not measure it.
        skipped_images: Damaged files left out of training and validation, where ``data.skip_corrupt`` asks for it.
        skipped_examples: The first few of them.
        best_epoch: With the highest validation accuracy, the first of equals; None where
            ``training.checkpoints.best`` does not ask for it, when no epoch ended well, and when its weights were lost.
        best_weights: Path of that epoch's weights; None likewise.
        train_examples: Size of the training split; None from a release that did not tell it.
        largest_class_share: The validation accuracy that always naming one class would have: the largest class's share.
            None where nothing was trained, and from a release that did not tell it.
    """

    outcome: TrialOutcome
    validation_accuracy: float
    validation_loss: float
    validation_examples: int
    classes: int
    epochs: int
    seconds: float
    weights: str | None
    roles: RoleNames
    device: str
    versions: dict[str, str]
    cross_boundary_risk: float | None = None
    skipped_images: int = 0
    skipped_examples: tuple[str, ...] = ()
    best_epoch: int | None = None
    best_weights: str | None = None
    train_examples: int | None = None
    largest_class_share: float | None = None


class FinishedRun(BaseModel):
    """A run that has ended by itself, as its folder records it.

    Attributes:
        fingerprint: Tells runs apart that would not end in the same bits.
        reports: One for each epoch.
        result: What it left.
    """

    model_config = ConfigDict(frozen=True)

    fingerprint: str
    reports: tuple[EpochReport, ...]
    result: TrialResult


class Evaluation(_Report):
    """Accuracy and mean loss of one set of weights on one split.

    Attributes:
        split: ``"validation"`` or ``"test"``.
        accuracy: Fraction of images whose highest logit is the label's.
        loss: Mean cross-entropy, nats.
        examples: Images in the split.
    """

    split: str
    accuracy: float
    loss: float
    examples: int


class ClassCount(_Report):
    """How one class fared on a split: its row and column of the confusion matrix, added up.

    Attributes:
        name: The class.
        examples: Images of it.
        predicted: Images that were taken for it, of whatever class.
        correct: Images of it that were taken for it.
    """

    name: str
    examples: int
    predicted: int
    correct: int

    @property
    def recall(self) -> float | None:
        """Share of its images that were recognized; None without any."""
        return self.correct / self.examples if self.examples else None

    @property
    def precision(self) -> float | None:
        """Share of right answers among those that named it; None if none did."""
        return self.correct / self.predicted if self.predicted else None


class Confusion(_Report):
    """An entry of the confusion matrix beside its diagonal: so many images of one class were taken for another."""

    label: str
    predicted: str
    count: int


class ClassEvaluation(Evaluation):
    """An evaluation, class by class.

    Attributes:
        classes: All classes, in the order of their logits.
        confusions: What was taken for what, the most frequent first; the first :data:`MOST_CONFUSIONS`.
    """

    classes: tuple[ClassCount, ...]
    confusions: tuple[Confusion, ...]

    @property
    def overall(self) -> Evaluation:
        """The numbers of the whole split alone."""
        return Evaluation(split=self.split, accuracy=self.accuracy, loss=self.loss, examples=self.examples)

    @property
    def complete(self) -> bool:
        """Whether :attr:`confusions` are all that there are, so that they make the whole matrix."""
        right = sum(each.correct for each in self.classes)
        return right + sum(each.count for each in self.confusions) == self.examples


def measures_of(report: EpochReport) -> Iterator[tuple[str, float]]:
    """Everything that an epoch measured beside its validation accuracy, by name; what is not finite is left out.

    Names of ``diagnostics`` are those of its fields, and of a role's ``measure/role``, as in ``rotation/head``.
    """
    for name in _MEASURES:
        yield from _finite(name, getattr(report, name))
    if (seen := report.diagnostics) is None:
        return
    for name in ("feature_norm", "last_gain"):
        yield from _finite(name, getattr(seen, name))
    for role in ("scale_invariant", "head", "free"):
        for name in RoleDiagnostics.model_fields:
            yield from _finite(f"{name}/{role}", getattr(getattr(seen, role), name))


_MEASURES = (
    "validation_loss",
    "train_loss",
    "train_accuracy",
    "learning_rate",
    "head_norm",
    "head_bound",
    "seconds",
    "images_per_second",
)


def _finite(name: str, value: float | None) -> Iterator[tuple[str, float]]:
    if value is not None and math.isfinite(value):
        yield name, value
