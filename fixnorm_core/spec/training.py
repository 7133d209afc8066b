"""How one trial trains."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from fixnorm_core.spec.base import Fraction, Spec

__all__ = ["CheckpointSpec", "OptimizerSpec", "RandAugmentSpec", "ScheduleSpec", "TrainingSpec"]


class OptimizerSpec(Spec):
    """The base optimizer.

    Attributes:
        name: ``"sgd"`` or ``"adamw"`` (torch.optim's); weight decay is set by the search method alone.
        momentum: SGD's momentum, or AdamW's first beta.
        nesterov: SGD only.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    nesterov: bool = True


class ScheduleSpec(Spec):
    """The learning rate after warm-up. Written as its name alone, or with all its fields.

    Attributes:
        name: ``"cosine"`` or ``"linear"``, both to zero, or ``"step"``.
        milestones: For ``"step"``: where in the run, as a share of all its steps, the rate falls; rising.
        factor: For ``"step"``: what the rate is multiplied by at each milestone.
        power: What the share of the highest rate is raised to, warm-up included; None takes 0.5 with ``method:
            fixnorm`` and 1 with ``weight_decay``. A weight held at its norm turns in proportion to the rate, one under
            weight decay to its square root, once it is in equilibrium: 0.5 makes the first turn like the second.
    """

    name: Literal["cosine", "linear", "step"] = "cosine"
    milestones: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = (0.5, 0.75)
    factor: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    power: Annotated[float, Field(gt=0.0, le=4.0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("milestones")
    @classmethod
    def _rise(cls, milestones: tuple[float, ...]) -> tuple[float, ...]:
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ValueError(f"{list(milestones)} do not rise; write each milestone once, in order")
        return milestones


class RandAugmentSpec(Spec):
    """RandAugment (arXiv 1909.13719), by torchvision.

    Attributes:
        num_ops: Random operations on each image, one after another.
        magnitude: Their strength, of 30.
    """

    num_ops: int = Field(default=2, ge=1, le=8)
    magnitude: int = Field(default=9, ge=0, le=30)


class CheckpointSpec(Spec):
    """What a run keeps on disk.

    Attributes:
        keep: The newest checkpoints, to resume from; with one alone, a damaged file costs the whole run.
        best: Also keep the weights of the epoch with the highest validation accuracy, as ``best.safetensors``.
    """

    keep: int = Field(default=2, ge=1, le=100)
    best: bool = False


class TrainingSpec(Spec):
    """How one trial trains; everything but the tuned knobs.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: The base optimizer.
        warmup_fraction: Share of all steps in which the learning rate rises linearly.
        schedule: How it falls after that.
        label_smoothing: Of the training loss.
        weight_norm: The norm R at which every scale-invariant weight is held; ``"init"`` keeps each at its own norm
            at initialisation. Ignored by ``method: weight_decay``.
        rest_lr_factor: Factor on the learning rate of all that is not held at a norm: the head, gains, biases. None
            takes ``8 / R²`` where SGD trains weights held at one norm ``R``, and 1 elsewhere: the rate that suits
            weights of norm 1 is low for the rest. Ignored by ``method: weight_decay``.
        device: ``"auto"`` takes CUDA where there is a GPU for the trial.
        precision: Of the forward pass in training, by autocast; weights, optimizer and evaluation stay in fp32.
        deterministic: Train with deterministic kernels, so that a run repeats bit for bit. False takes the fastest
            kernels, which on a GPU may add up in another order each time: a run that is repeated or resumed then
            differs a little. Evaluation is deterministic always.
        tf32: Multiply matrices and convolve in TF32 (10 bits of mantissa) when training on a GPU that can; evaluation
            stays in fp32, and a CPU does too.
        compile: Compile the model for training (``torch.compile``).
        accumulate: Parts in which a batch is computed, one after another, to need less memory. A batch's gradient
            stays its mean over ``batch_size`` images; batch statistics are those of a part.
        sync_batchnorm: Where several ranks train a trial, on GPUs: BatchNorm takes its statistics over the whole batch,
            as one rank would, and not over each rank's part. Costs an exchange per layer.
        ema_decay: Evaluate and save a moving average of the weights, with this decay a step; None takes the weights.
        clip_grad_norm: Scale the gradient down to this norm where it is larger; None never does.
        mixup_alpha: Mix pairs of training images, with a share drawn from Beta(alpha, alpha) (arXiv 1710.09412); 0 does
            not. With ``cutmix_alpha`` too, each batch draws one of the two.
        cutmix_alpha: Paste a part of one training image into another (arXiv 1905.04899); 0 does not.
        randaugment: Random operations on training images, after flips and shifts; None does none.
        checkpoints: What is kept on disk.
    """

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    optimizer: OptimizerSpec = OptimizerSpec()
    warmup_fraction: Fraction = 0.1
    label_smoothing: Fraction = 0.0
    weight_norm: Annotated[float, Field(gt=0.0)] | Literal["init"] = 1.0
    rest_lr_factor: Annotated[float, Field(gt=0.0)] | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    deterministic: bool = True
    tf32: bool = False
    compile: bool = False
    accumulate: int = Field(default=1, ge=1)
    schedule: ScheduleSpec = ScheduleSpec()
    sync_batchnorm: bool = False
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    clip_grad_norm: Annotated[float, Field(gt=0.0)] | None = None
    mixup_alpha: float = Field(default=0.0, ge=0.0)
    cutmix_alpha: float = Field(default=0.0, ge=0.0)
    randaugment: RandAugmentSpec | None = None
    checkpoints: CheckpointSpec = CheckpointSpec()

    @model_validator(mode="after")
    def _parts_hold_images(self) -> Self:
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate is {self.accumulate}, above batch_size {self.batch_size}, so a part would hold no image: "
                "lower it, or raise batch_size"
            )
        return self
