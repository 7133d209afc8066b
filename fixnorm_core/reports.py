"""What training says of itself: one report per epoch, one result at the end. Plain data, no torch.

Accuracies are fractions in [0, 1], losses are mean cross-entropies in nats, times are seconds.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["EpochReport", "Evaluation", "RoleNames", "TrialOutcome", "TrialResult"]


class _Report(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=True)


class TrialOutcome(StrEnum):
    """How a training run ended by itself."""

    COMPLETE = "complete"
    DIVERGED = "diverged"


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
        versions: Package versions that the numbers depend on, by package name.
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
