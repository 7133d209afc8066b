"""One training run: an iterator of epoch reports that resumes by itself.

A run is a pure function of its :class:`TrialSpec` on one device, with one number of threads and one set of package
versions. So it needs no random state in its checkpoints, and a run that was interrupted ends in the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from fixnorm_core.data.load import load_training_data, log_skipped
from fixnorm_core.data.types import TrainingData
from fixnorm_core.reports import EpochReport, FinishedRun, TrialOutcome, TrialResult
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.checkpoint import Checkpoint, clear_checkpoints, latest_checkpoint, save_checkpoint
from fixnorm_core.training.device import pick_device
from fixnorm_core.training.fit import EpochTotals, Fit
from fixnorm_core.training.record import fingerprint, package_versions, read_finished, write_finished
from fixnorm_core.training.weights import save_weights

__all__ = ["BEST_NAME", "WEIGHTS_NAME", "Trainer"]

WEIGHTS_NAME = "weights.safetensors"
BEST_NAME = "best.safetensors"
"""The weights of the epoch with the highest validation accuracy, the first of equals, where they are asked for."""

_SKIPPED_EXAMPLES = 5

_log = logging.getLogger(__name__)


class Trainer:
    """Trains one trial in one folder.

    Iterating yields one report for every epoch of the run, in order. Reports of epochs that an earlier process (or an
    earlier iteration) has finished come first and at once, so that none is missing and a reader that knows some of
    them tells them by ``epoch``. A report is yielded when its epoch can be resumed from. Training happens while the
    iterator is asked for its next report; dropping it stops the run, to be taken up by another trainer.

    One trainer at a time may work in a folder. Torch's global random state and settings are left as they were.
    """

    def __init__(self, trial: TrialSpec, *, folder: Path, data: TrainingData | None = None) -> None:
        """Builds the run, at its last checkpoint if there is one.

        Args:
            trial: What to train.
            folder: For checkpoints, weights and the record of the result; made if it is missing.
            data: The images of ``trial.data``, if they are in memory already.

        Raises:
            DataError: If the images cannot be read.
            ModelError: If the model cannot be built for them.
            RolesError: If the model's parameters cannot be given roles.
            SpecError: If CUDA is asked for and there is no GPU.
        """
        self._trial, self._folder = trial, folder
        self._device = pick_device(trial.training.device)
        self._fingerprint = fingerprint(trial, device=self._device)
        self._reports: list[EpochReport] = []
        self._result: TrialResult | None = None
        self._fit: Fit | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if finished := read_finished(folder, fingerprint=self._fingerprint):
            self._reports, self._result = list(finished.reports), finished.result
            return
        self._data = load_training_data(trial.data) if data is None else data
        log_skipped(self._data.skipped, what="training and validation images")
        self._fit = Fit(trial, self._data, device=self._device)
        self._head_norm = self._fit.head_norm()
        if checkpoint := latest_checkpoint(folder, fingerprint=self._fingerprint):
            self._fit.restore(checkpoint.model, checkpoint.optimizer, checkpoint.stepper)
            self._reports = list(checkpoint.reports)
            self._head_norm = self._reports[-1].head_norm
            _log.info("resuming after epoch %d of %d", len(self._reports), trial.training.epochs)

    def __iter__(self) -> Generator[EpochReport, None, None]:
        yield from tuple(self._reports)
        try:
            while self._fit is not None:
                yield self._advance(self._fit)
        finally:  # ended, failed or dropped: nothing of the run stays behind
            if self._fit is not None:
                self._fit.close()

    def result(self) -> TrialResult:
        """What the run left.

        Raises:
            RuntimeError: If it has not ended; iterate to the end first.
        """
        if self._result is None:
            done, epochs = len(self._reports), self._trial.training.epochs
            raise RuntimeError(f"the run has finished {done} of {epochs} epochs; iterate over the trainer to the end")
        return self._result

    def _advance(self, fit: Fit) -> EpochReport:
        """Runs the next epoch and puts it on disk."""
        started = time.perf_counter()
        totals = fit.train_epoch(len(self._reports) + 1)
        trained = time.perf_counter()
        report = self._report(fit, totals, training_seconds=trained - started, started=started)
        self._reports.append(report)
        self._head_norm = report.head_norm
        _log.info("epoch %d of %d: %s", report.epoch, report.epochs, _summary(report))
        if self._trial.training.checkpoints.best and _best(self._reports) is report:
            save_weights(self._folder / BEST_NAME, fit.evaluated, trial=self._trial, data=self._data)
        if report.diverged or report.epoch == report.epochs:
            self._finish(fit, report)
        else:
            checkpoint = Checkpoint(self._fingerprint, *fit.state(), tuple(self._reports))
            save_checkpoint(self._folder, checkpoint, keep=self._trial.training.checkpoints.keep)
        return report

    def _report(self, fit: Fit, totals: EpochTotals, *, training_seconds: float, started: float) -> EpochReport:
        alive = math.isfinite(totals.loss) and fit.is_finite()
        validation = fit.validate() if alive else None
        # Statistics of a dying network can be finite and still give logits that are not
        alive = validation is not None and math.isfinite(validation.loss)
        chance, chance_loss = 1 / len(self._data.classes), math.log(len(self._data.classes))
        return EpochReport(
            epoch=len(self._reports) + 1,
            epochs=self._trial.training.epochs,
            learning_rate=totals.learning_rate,
            train_loss=totals.loss if alive else chance_loss,
            train_accuracy=totals.accuracy if alive else chance,
            validation_loss=validation.loss if validation and alive else chance_loss,
            validation_accuracy=validation.accuracy if validation and alive else chance,
            head_norm=fit.head_norm() if alive else self._head_norm,
            head_bound=fit.head_bound,
            seconds=time.perf_counter() - started,
            images_per_second=totals.images / training_seconds,
            diverged=not alive,
            diagnostics=fit.diagnostics() if alive else None,
            classes=len(self._data.classes),
        )

    def _finish(self, fit: Fit, last: EpochReport) -> None:
        """Writes weights, then the record, and only then removes what a resume would need."""
        weights = None
        if not last.diverged:
            weights = self._folder / WEIGHTS_NAME
            save_weights(weights, fit.evaluated, trial=self._trial, data=self._data)
        best = _best(self._reports) if self._trial.training.checkpoints.best else None
        result = TrialResult(
            outcome=TrialOutcome.DIVERGED if last.diverged else TrialOutcome.COMPLETE,
            validation_accuracy=last.validation_accuracy,
            validation_loss=last.validation_loss,
            validation_examples=len(self._data.validation),
            classes=len(self._data.classes),
            epochs=last.epoch,
            seconds=sum(report.seconds for report in self._reports),
            weights=str(weights) if weights else None,
            roles=fit.roles.names(),
            device=str(self._device),
            versions=package_versions(),
            cross_boundary_risk=None if last.diverged else _risk(fit),
            skipped_images=len(self._data.skipped),
            skipped_examples=self._data.skipped[:_SKIPPED_EXAMPLES],
            best_epoch=best.epoch if best else None,
            best_weights=str(self._folder / BEST_NAME) if best else None,
        )
        write_finished(
            self._folder, FinishedRun(fingerprint=self._fingerprint, reports=tuple(self._reports), result=result)
        )
        clear_checkpoints(self._folder, epoch=last.epoch)
        fit.close()
        self._result, self._fit = result, None  # lets go of the model's memory


def _risk(fit: Fit) -> float | None:
    """A diagnostic of what is already trained and saved, so whatever befalls it must not cost the result."""
    try:
        return fit.cross_boundary_risk()
    except Exception:
        _log.warning("cross-boundary risk could not be measured; the result goes without it", exc_info=True)
        return None


def _best(reports: Sequence[EpochReport]) -> EpochReport | None:
    whole = [report for report in reports if not report.diverged]
    return max(whole, key=lambda report: report.validation_accuracy, default=None)  # the first of equals


def _summary(report: EpochReport) -> str:
    if report.diverged:
        return "diverged: loss or weights are not finite"
    return (
        f"train loss {report.train_loss:.4f}, validation loss {report.validation_loss:.4f}, validation accuracy "
        f"{report.validation_accuracy:.4f}, head norm {report.head_norm:.3f}, {report.seconds:.2f} s"
    )
