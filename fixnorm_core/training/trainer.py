"""One training run: an iterator of epoch reports that resumes by itself.

A run is a pure function of its :class:`TrialSpec` on one device, with one number of threads and one set of package
versions. So it needs no random state in its checkpoints, and a run that was interrupted ends in the same bits.
"""

from __future__ import annotations

import io
import logging
import math
import platform
import time
from collections.abc import Generator, Sequence
from pathlib import Path

from fixnorm_core.data.load import load_training_data, log_skipped
from fixnorm_core.data.types import Images, TrainingData
from fixnorm_core.errors import SpecError
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.reports import EpochReport, FinishedRun, TrialOutcome, TrialResult
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.checkpoint import (
    Checkpoint,
    clear_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    write_checkpoint,
)
from fixnorm_core.training.device import pick_device
from fixnorm_core.training.fit import EpochTotals, Fit
from fixnorm_core.training.ranks import ALONE, Ranks
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

    Several ranks that train one run together make one each and iterate alike. Rank 0's alone reads and writes files;
    it tells the others where the run stands, and in the end its result.
    """

    def __init__(
        self,
        trial: TrialSpec,
        *,
        folder: Path,
        data: TrainingData | None = None,
        reach: Reach = LOCAL,
        ranks: Ranks = ALONE,
    ) -> None:
        """Builds the run, at its last checkpoint if there is one.

        Args:
            trial: What to train.
            folder: For checkpoints, weights and the record of the result; made if it is missing.
            data: The images of ``trial.data``, if they are in memory already.
            reach: What may be read and imported.
            ranks: Who trains it.

        Raises:
            DataError: If the images cannot be read.
            ModelError: If the model cannot be built for them.
            RolesError: If the model's parameters cannot be given roles.
            SpecError: If CUDA is asked for and there is no GPU, or the ranks cannot train it.
        """
        if ranks.count != trial.ranks:
            raise SpecError(
                f"the trial is of {trial.ranks} ranks, and {ranks.count} train it, which makes another run",
                "Start as many processes, or change the trial's ranks",
            )
        self._trial, self._folder, self._ranks = trial, folder, ranks
        self._device = pick_device(trial.training.device)
        self._fingerprint = fingerprint(trial, device=self._device)
        self._reports: list[EpochReport] = []
        self._result: TrialResult | None = None
        self._fit: Fit | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if finished := self._of_first(read_finished(folder, fingerprint=self._fingerprint) if ranks.is_first else None):
            self._reports, self._result = list(finished.reports), finished.result
            return
        self._data = load_training_data(trial.data, reach=reach) if data is None else data
        log_skipped(self._data.skipped, what="training and validation images")
        self._fit = Fit(trial, self._data, device=self._device, reach=reach, ranks=ranks)
        self._head_norm = self._fit.head_norm()
        if checkpoint := self._latest_checkpoint():
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
        if self._ranks.is_first and self._trial.training.checkpoints.best and _best(self._reports) is report:
            save_weights(self._folder / BEST_NAME, fit.evaluated, trial=self._trial, data=self._data)
        if report.diverged or report.epoch == report.epochs:
            finished = self._of_first(self._finished(fit, report) if self._ranks.is_first else None)
            assert finished is not None
            fit.close()
            self._result, self._fit = finished.result, None  # lets go of the model's memory
        elif self._ranks.is_first:
            checkpoint = Checkpoint(self._fingerprint, *fit.state(), tuple(self._reports))
            save_checkpoint(self._folder, checkpoint, keep=self._trial.training.checkpoints.keep)
        return report

    def _report(self, fit: Fit, totals: EpochTotals, *, training_seconds: float, started: float) -> EpochReport:
        alive = fit.is_finite() and math.isfinite(totals.loss)
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

    def _finished(self, fit: Fit, last: EpochReport) -> FinishedRun:
        """Writes weights, then the record, and only then removes what a resume would need."""
        weights = None
        if not last.diverged:
            weights = self._folder / WEIGHTS_NAME
            save_weights(weights, fit.evaluated, trial=self._trial, data=self._data)
        has_best = (self._folder / BEST_NAME).is_file()  # a folder that is resumed in may have lost it
        best = _best(self._reports) if self._trial.training.checkpoints.best and has_best else None
        result = TrialResult(
            outcome=TrialOutcome.DIVERGED if last.diverged else TrialOutcome.COMPLETE,
            validation_accuracy=last.validation_accuracy,
            validation_loss=last.validation_loss,
            train_examples=len(self._data.train),
            validation_examples=len(self._data.validation),
            largest_class_share=_largest_class_share(self._data.validation),
            classes=len(self._data.classes),
            epochs=last.epoch,
            seconds=sum(report.seconds for report in self._reports),
            weights=str(weights) if weights else None,
            roles=fit.roles.names(),
            device=str(self._device),
            versions={**package_versions(), "python": platform.python_version()},
            cross_boundary_risk=None if last.diverged else _risk(fit),
            skipped_images=len(self._data.skipped),
            skipped_examples=self._data.skipped[:_SKIPPED_EXAMPLES],
            best_epoch=best.epoch if best else None,
            best_weights=str(self._folder / BEST_NAME) if best else None,
        )
        finished = FinishedRun(fingerprint=self._fingerprint, reports=tuple(self._reports), result=result)
        write_finished(self._folder, finished)
        clear_checkpoints(self._folder, epoch=last.epoch)
        return finished

    def _latest_checkpoint(self) -> Checkpoint | None:
        """Rank 0's, on every rank: another may not see the same files yet."""
        found = latest_checkpoint(self._folder, fingerprint=self._fingerprint) if self._ranks.is_first else None
        if self._ranks.count == 1:
            return found
        packed = io.BytesIO()
        if found is not None:
            write_checkpoint(packed, found)
        content = self._ranks.of_first(packed.getvalue())
        return read_checkpoint(io.BytesIO(content)) if content else None

    def _of_first(self, finished: FinishedRun | None) -> FinishedRun | None:
        """Rank 0's, on every rank."""
        if self._ranks.count == 1:
            return finished
        content = self._ranks.of_first(b"" if finished is None else finished.model_dump_json().encode())
        return FinishedRun.model_validate_json(content) if content else None


def _risk(fit: Fit) -> float | None:
    """A diagnostic of what is already trained and saved, so whatever befalls it must not cost the result."""
    try:
        return fit.cross_boundary_risk()
    except Exception:
        _log.warning("cross-boundary risk could not be measured; the result goes without it", exc_info=True)
        return None


def _largest_class_share(split: Images) -> float:
    return int(split.labels.cpu().bincount().max()) / len(split)


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
