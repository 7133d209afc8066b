"""The model, the optimizer and the images of one run, and one epoch of training. Knows nothing of files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from fixnorm_core.data.batches import Augmentation, Normalization, steps_per_epoch, training_batches
from fixnorm_core.data.mixing import Mixing, RandAugment
from fixnorm_core.data.pool import WorkerPool
from fixnorm_core.data.seeds import derive_seed
from fixnorm_core.data.store import BucketDown
from fixnorm_core.data.types import TrainingData
from fixnorm_core.errors import DataError, SpecError
from fixnorm_core.method.roles import Roles, find_roles
from fixnorm_core.method.step import FixNorm
from fixnorm_core.models.build import build_model
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.reports import EpochDiagnostics, Evaluation
from fixnorm_core.spec import Method, TrialSpec
from fixnorm_core.training.calibrate import set_running_statistics
from fixnorm_core.training.device import place, reproducible
from fixnorm_core.training.diagnostics import Diagnostics
from fixnorm_core.training.divergence import DivergenceCheck
from fixnorm_core.training.evaluate import evaluate
from fixnorm_core.training.optimization import OptimizerFactory, build_optimizer, schedule_of
from fixnorm_core.training.ranks import ALONE, Ranks
from fixnorm_core.training.risk import cross_boundary_risk
from fixnorm_core.training.schedule import learning_rate_factor
from fixnorm_core.training.stepping import Stepper
from fixnorm_core.training.weights import inference_batch_size

__all__ = ["EpochTotals", "Fit"]

_STEPS_PER_CHECK = 50
_EXAMPLES = 8
_STATISTICS_EXAMPLES = 256
_SETTLING_EXAMPLES = 2048


@dataclass(frozen=True, slots=True)
class EpochTotals:
    """What one epoch of training adds up to.

    Attributes:
        loss: Mean over the images as they were seen, nats; not finite if any batch's loss was not.
        accuracy: Likewise, a fraction.
        learning_rate: Of the last step.
        images: How many were seen.
    """

    loss: float
    accuracy: float
    learning_rate: float
    images: int


class Fit:
    """A run in memory. Epochs are seeded by their number, so that :meth:`state` holds all that a resume needs.

    Attributes:
        model: What is trained, on the run's device.
        roles: Of its parameters at initialisation.
    """

    def __init__(
        self,
        trial: TrialSpec,
        data: TrainingData,
        *,
        device: torch.device,
        optimizer: OptimizerFactory = build_optimizer,
        reach: Reach = LOCAL,
        ranks: Ranks = ALONE,
    ) -> None:
        """Builds model and optimizer from the trial's seed, the same on every device and every rank.

        Args:
            trial: What to train.
            data: The images.
            device: Where.
            optimizer: Makes the optimizer. A group's rate is the schedule's times its ``lr_factor``, if it has one.
            reach: Which modules may be imported.
            ranks: Who trains this run; all that is not said to be one rank's is done by each, in the same order.

        Raises:
            SpecError: If there are more ranks than a batch has images, or these cannot share BatchNorm's statistics.
            DataError: If the ranks have different data.
            BucketDown: If they have different versions of what is in an object store.
            ModelError: If the model cannot be built for these images.
            RolesError: If its parameters cannot be given roles.
        """
        self._trial, self._device, self._ranks = trial, device, ranks
        _check(trial, ranks, images=len(data.train), device=device)
        _agree_on_data(data, ranks)
        self._pool = WorkerPool(trial.reading_processes, pin=device.type == "cuda")
        self._train, self._validation = (part.to(device, pool=self._pool) for part in (data.train, data.validation))
        operations = trial.training.randaugment
        self._augmentation = Augmentation(
            flip=data.flip,
            shift=data.shift,
            randaugment=RandAugment(operations) if operations else None,
            crop_min_area=data.crop_min_area,
        )
        self._mixing = Mixing(trial.training, classes=len(data.classes), seed=trial.seed)
        self._normalization = Normalization(data.mean, data.std).to(device)
        self._steps = steps_per_epoch(len(data.train), batch_size=trial.training.batch_size)
        with reproducible(device, seed=derive_seed(trial.seed, "model")):
            model = build_model(
                trial.model,
                classes=len(data.classes),
                channels=data.channels,
                image_size=data.image_size,
                reach=reach,
            )
            self.model = place(model, device, precision=trial.training.precision)
            examples = self._examples(_EXAMPLES)
            self.roles: Roles = find_roles(self.model, examples, must_hold=trial.method is Method.FIXNORM)
            _agree_on(self.roles, ranks)
            self._optimizer = optimizer(trial, self.model, roles=self.roles)
            set_running_statistics(self.model, self._examples(_STATISTICS_EXAMPLES))
        self._share = ranks.share(with_previous=self._mixing.mixes)
        self._stepper = Stepper(self.model, self._optimizer, training=trial.training, device=device, ranks=ranks)
        self._diagnostics = Diagnostics(
            self.model, self.roles, optimizer=self._optimizer, evaluated=self.evaluated, ranks=ranks
        )

    @property
    def head_bound(self) -> float | None:
        """The bound on the head's norm; None when there is none."""
        return self._optimizer.head_bound if isinstance(self._optimizer, FixNorm) else None

    @property
    def evaluated(self) -> nn.Module:
        """What is validated and saved: the model, or the moving average of its weights."""
        return self._stepper.evaluated

    def head_norm(self) -> float:
        """Frobenius norm of the head's weights, all together; 0 for a model without one."""
        head = [self.model.get_parameter(name).detach() for name in self.roles.head]
        return float(torch.stack([weight.norm() for weight in head]).norm()) if head else 0.0

    def train_epoch(self, epoch: int) -> EpochTotals:
        """Trains for one epoch, counted from 1, or until the loss is seen not to be finite."""
        loss_sum = torch.zeros((), dtype=torch.float64, device=self._device)
        correct = torch.zeros((), dtype=torch.int64, device=self._device)
        diverged = DivergenceCheck(self._device)
        seen, rate = 0, 0.0
        batches = training_batches(
            self._train,
            batch_size=self._trial.training.batch_size,
            augmentation=self._augmentation,
            seed=self._trial.seed,
            epoch=epoch,
            share=self._share,
        )
        self.model.train()
        self._diagnostics.begin(steps=self._steps)
        alike = (
            "epoch" if self._ranks.is_first else f"epoch on rank {self._ranks.rank}"
        )  # ranks drop out other features
        seed = derive_seed(self._trial.seed, alike, epoch)
        with reproducible(self._device, seed=seed, training=self._trial.training), closing(batches):
            for index, (images, labels) in enumerate(batches):
                rate = self._set_rate((epoch - 1) * self._steps + index)
                with self._diagnostics.watching(index):
                    loss, logits = self._step(images, labels, step=(epoch - 1) * self._steps + index)
                loss_sum += loss * len(logits)
                correct += (logits.argmax(dim=1) == labels[-len(logits) :]).sum()
                seen += len(logits)
                if (index + 1) % _STEPS_PER_CHECK == 0 and diverged(self._total(loss_sum)):
                    break
            self._ranks.average_statistics(self.model)
        count = int(self._total(torch.tensor(seen, device=self._device)))
        mean_loss, accuracy = (self._total(value).item() / count for value in (loss_sum, correct))
        return EpochTotals(mean_loss, accuracy, learning_rate=rate, images=count)

    def validate(self) -> Evaluation:
        """Evaluates the present weights on the validation split."""
        with reproducible(self._device, seed=self._trial.seed):
            if self.evaluated is not self.model:
                self._stepper.settle(self._settling())
            with self._diagnostics.validating():
                return evaluate(
                    self.evaluated,
                    self._validation,
                    name="validation",
                    normalization=self._normalization,
                    ranks=self._ranks,
                )

    def diagnostics(self) -> EpochDiagnostics:
        """Of the epoch last trained and validated."""
        return self._diagnostics.summary()

    def cross_boundary_risk(self) -> float | None:
        """Of the weights that are saved (:func:`fixnorm_core.training.risk.cross_boundary_risk`); by one rank alone."""
        with reproducible(self._device, seed=self._trial.seed):
            return cross_boundary_risk(
                self.evaluated,
                self.roles,
                split=self._train,
                augmentation=self._augmentation,
                normalization=self._normalization,
                seed=self._trial.seed,
            )

    def is_finite(self) -> bool:
        """Whether all weights and running statistics are finite numbers."""
        floats = [tensor for tensor in self.model.state_dict().values() if tensor.is_floating_point()]
        return self._ranks.all(bool(torch.stack([tensor.isfinite().all() for tensor in floats]).all()))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
        """The ``state_dict`` of model and optimizer, and the stepper's, not copied."""
        return self.model.state_dict(), self._optimizer.state_dict(), self._stepper.state()

    def restore(self, model: dict[str, Tensor], optimizer: dict[str, Any], stepper: dict[str, Any]) -> None:
        """Takes up a state of the same run."""
        self.model.load_state_dict(model)
        self._optimizer.load_state_dict(optimizer)
        self._stepper.restore(stepper)

    def close(self) -> None:
        """Ends the processes that read images; training may go on, and starts them again."""
        self._pool.close()

    def _examples(self, count: int) -> Tensor:
        """So many training images, evenly spread over the split, normalized; all of them where there are fewer."""
        return self._normalization(self._train.take(self._spread(count)))

    def _settling(self) -> Iterator[Tensor]:
        """Batches of training images for the averaged weights, read as those of validation are, in small requests."""
        chosen = self._train.numbered(self._spread(_SETTLING_EXAMPLES))
        size = 1 << (inference_batch_size(self._train.side).bit_length() - 1)  # a power of two, so it divides a batch
        with closing(chosen.in_order(batch_size=size)) as parts:
            while batch := [images for images, _ in islice(parts, _STATISTICS_EXAMPLES // size)]:
                yield self._normalization(torch.cat(batch))

    def _spread(self, count: int) -> Tensor:
        """Indices of so many training images, evenly spread; of all of them where there are fewer."""
        count = min(count, len(self._train))
        return torch.linspace(0, len(self._train) - 1, count, device=self._device).long()

    def _set_rate(self, step: int) -> float:
        training = self._trial.training
        rate = self._trial.params["lr"] * learning_rate_factor(
            step,
            steps=training.epochs * self._steps,
            warmup_fraction=training.warmup_fraction,
            schedule=schedule_of(self._trial),
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group.get("lr_factor", 1.0)
        return rate

    def _step(self, images: Tensor, labels: Tensor, *, step: int) -> tuple[Tensor, Tensor]:
        mixed, targets = self._mixing(self._normalization(images), labels, step=step)
        if self._ranks.count == 1:
            return self._stepper.step(mixed, targets)
        if self._share.with_previous:
            mixed, targets = mixed[1:], targets[1:]  # the image before these, which they were mixed with
        return self._stepper.step(mixed, targets, of=self._size_of(step % self._steps))

    def _size_of(self, batch: int) -> int:
        """Images in a batch of an epoch, of all ranks."""
        small, larger = divmod(len(self._train), self._steps)
        return small + (batch < larger)

    def _total(self, value: Tensor) -> Tensor:
        """Over all ranks, as a copy."""
        total = value.clone()
        self._ranks.add(total)
        return total


def _check(trial: TrialSpec, ranks: Ranks, *, images: int, device: torch.device) -> None:
    if ranks.count == 1:
        return
    smallest = images // steps_per_epoch(images, batch_size=trial.training.batch_size)
    if smallest < ranks.count:
        raise SpecError(
            f"{ranks.count} ranks train on batches of {smallest} images, so one of them would have none",
            "Raise training.batch_size, or train with fewer ranks",
        )
    if trial.training.sync_batchnorm and device.type == "cpu":
        raise SpecError(
            "training.sync_batchnorm is true on a CPU, and torch's SyncBatchNorm computes on GPUs alone",
            "Leave it out, take a model with group normalization, or give the trial GPUs",
        )


def _agree_on_data(data: TrainingData, ranks: Ranks) -> None:
    """Each rank has read it, those of other nodes from other disks; of another set each would train on other images."""
    about = hashlib.sha256(repr((data.version, data.classes, data.channels, data.image_size)).encode())
    for part in (data.train, data.validation):
        about.update(part.labels.cpu().numpy().tobytes())
    mine = about.digest()
    if ranks.all(ranks.of_first(mine) == mine):
        return
    if data.version:  # processes that start anew read what is there then
        raise BucketDown(
            "the data were changed in their object store, and the ranks of the trial have different versions of them",
            "It is tried again by itself; give each version of the data an address of its own",
        )
    raise DataError(
        "the ranks of the trial read different data, so their nodes have different copies of it",
        "Give all nodes the same files at the path of data.path",
    )


def _agree_on(roles: Roles, ranks: Ranks) -> None:
    """Each rank has measured them, on the same weights and images; another answer would train another model."""
    mine = roles.names().model_dump_json().encode()
    if not ranks.all(ranks.of_first(mine) == mine):
        raise RuntimeError("the ranks measured different roles for the same parameters: their GPUs or packages differ")
