"""One optimizer step: precision, compilation, accumulation, clipping, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from fixnorm_core.spec import TrainingSpec
from fixnorm_core.training.ranks import ALONE, Ranks

__all__ = ["Stepper"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """Turns batches into optimizer steps.

    With ``fp32``, no accumulation, clipping or average, a step is ``loss.backward(); optimizer.step()``, bit for bit.
    Weights, their average and the optimizer's state stay in fp32 whatever the precision. A step of fp16 whose gradients
    overflow is skipped, and the loss scale lowered (``torch.amp.GradScaler``).

    Attributes:
        evaluated: The model to validate and to save: the trained one, or its average.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        training: TrainingSpec,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """Takes a model that is on ``device``, with an optimizer of its parameters; the same on every rank."""
        self._model, self._optimizer, self._training, self._device = model, optimizer, training, device
        self._ranks = ranks
        self._average = _average(model, decay=training.ema_decay) if training.ema_decay is not None else None
        self.evaluated: nn.Module = model if self._average is None else self._average.module
        self._parallel = _parallel(model, device=device, sync=training.sync_batchnorm) if ranks.count > 1 else None
        forward = model if self._parallel is None else self._parallel
        # One kernel for each size of a batch: which one a batch meets must not depend on what the process saw before
        self._forward = torch.compile(forward, dynamic=False) if training.compile else forward
        self._scaler = torch.amp.GradScaler(device.type, enabled=training.precision == "fp16")
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def step(self, images: Tensor, targets: Tensor, *, of: int | None = None) -> tuple[Tensor, Tensor]:
        """Trains on one batch, computed in ``accumulate`` parts, on every rank in as many.

        Args:
            images: Normalized, shape (n, channels, side, side).
            targets: Labels, int64 of shape (n,), or shares of the classes, float of shape (n, classes).
            of: Images in the whole batch, of which these are this rank's; None where they are all of it.

        Returns:
            The mean loss in nats, a scalar, and the logits (n, classes), both detached and in fp32.
        """
        self._optimizer.zero_grad(set_to_none=True)
        # Ranks' shares differ by one image, and what they exchange in a pass (SyncBatchNorm) needs a pass of each
        smallest = len(targets) if of is None else of // self._ranks.count
        parts = min(self._training.accumulate, smallest)
        # Ranks' gradients are averaged; so weighted, the average is the gradient of the whole batch's mean
        weight = 1.0 if of is None else len(targets) * self._ranks.count / of
        if parts == 1:
            loss, logits = self._gradient(images, targets, weight=weight)
        else:
            pairs = zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True)
            done = []
            for number, pair in enumerate(pairs):
                share = len(pair[1]) / len(targets)
                with nullcontext() if number == parts - 1 else self._apart():
                    part, some = self._gradient(*pair, weight=weight * share)
                done.append((part * share, some))
            loss, logits = torch.stack([part for part, _ in done]).sum(), torch.cat([part for _, part in done])
        if self._training.clip_grad_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._training.clip_grad_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update_parameters(self._model)
        return loss, logits

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Gives the averaged weights the BatchNorm statistics of these normalized images; needed before evaluation.

        Averaging the statistics instead would be wrong where norms are held: the average of weights that turn is
        shorter than each of them, so the variance behind it is smaller than theirs.
        """
        if self._average is not None:
            update_bn(batches, self.evaluated)

    def state(self) -> dict[str, Any]:
        """What a resume needs beside model and optimizer, not copied."""
        average = {} if self._average is None else self._average.state_dict()
        return {"average": average, "scaler": self._scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up a state of the same run."""
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state["scaler"])

    def _gradient(self, images: Tensor, targets: Tensor, *, weight: float) -> tuple[Tensor, Tensor]:
        with self._autocast():
            logits = self._forward(images)
            loss = functional.cross_entropy(logits, targets, label_smoothing=self._training.label_smoothing)
        weighted = loss if weight == 1 else loss * weight
        self._scaler.scale(weighted).backward()  # type: ignore[no-untyped-call]
        return loss.detach(), logits.detach().float()

    def _apart(self) -> AbstractContextManager[Any]:
        """Around parts of a batch whose gradients the ranks need not exchange yet."""
        return nullcontext() if self._parallel is None else self._parallel.no_sync()

    def _autocast(self) -> AbstractContextManager[Any]:
        precision = self._training.precision
        return nullcontext() if precision == "fp32" else torch.autocast(self._device.type, dtype=_DTYPES[precision])


def _parallel(model: nn.Module, *, device: torch.device, sync: bool) -> DistributedDataParallel:
    """The same parameters, whose gradients are averaged over the ranks as they are computed.

    Running statistics stay each rank's own in an epoch and are averaged at its end (``Ranks.average_statistics``).
    """
    if sync:
        # In place, with the same parameters and buffers
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    devices = [device] if device.type == "cuda" else None
    parallel = DistributedDataParallel(model, device_ids=devices, forward_sync_buffers=False)
    # Its reducer, where it is the last to refer to the group, ends it with Python's lock held and waits for gloo's
    # threads, which want that lock to let go of tensors: the process stands still (torch 2.13). Attributes go in their
    # order, so this one, Python's own reference, is the last; it ends the group without the lock.
    parallel._group_until_the_end = parallel.process_group  # type: ignore[assignment]
    return parallel


def _average(model: nn.Module, *, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
