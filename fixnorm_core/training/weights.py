"""The weights file: safetensors, with all that is needed to classify an image or to repeat the evaluation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from fixnorm_core.data.batches import Normalization
from fixnorm_core.data.decode import decode_files
from fixnorm_core.data.types import TrainingData
from fixnorm_core.errors import DataError, WeightsError
from fixnorm_core.files import replacing
from fixnorm_core.models.build import build_model
from fixnorm_core.reach import LOCAL, Reach
from fixnorm_core.spec import TrialSpec
from fixnorm_core.training.device import place

__all__ = ["Classifier", "inference_batch_size", "load_classifier", "save_weights"]

_FORMAT = "fixnorm-tune.weights.1"
_LARGEST_BATCH = 256
_PIXELS_PER_BATCH = 2**22


class _Facts(BaseModel):
    """What a network needs to know of the data it was trained on."""

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Classifier:
    """A trained network, ready for use.

    Attributes:
        model: In evaluation mode; takes normalised images, gives logits (n, classes).
        classes: Names, by label.
        channels: 1 (grey) or 3 (red, green, blue).
        image_size: Pixels a side.
        normalization: From uint8 pixels to what ``model`` takes.
        trial: The training run that made it.
    """

    model: nn.Module
    classes: tuple[str, ...]
    channels: int
    image_size: int
    normalization: Normalization
    trial: TrialSpec

    def predict(self, images: Tensor) -> Tensor:
        """Class probabilities, float32 (n, classes), of uint8 images (n, channels, image_size, image_size).

        Raises:
            ValueError: If the images have another type or shape.
        """
        expected = (self.channels, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; this classifier takes uint8 (n, "
                f"{', '.join(map(str, expected))}): {self._way_out(images)}"
            )
        with torch.inference_mode():
            out = [torch.empty(0, len(self.classes), device=images.device)]
            batches = torch.split(images, inference_batch_size(self.image_size)) if len(images) else ()
            out += [self.model(self.normalization(batch)).softmax(dim=1) for batch in batches]
            return torch.cat(out)

    def predict_files(self, paths: Iterable[str | Path]) -> Tensor:
        """Class probabilities, float32 (n, classes), of image files, prepared as the evaluation prepares them.

        The shorter side is resized, the centre cropped; a network for grey images gets them grey. EXIF orientation is
        not applied, as in training.

        Raises:
            DataError: If a file cannot be read as an image; the message names it.
        """
        files = [Path(path) for path in paths]
        device, size = next(self.model.parameters()).device, inference_batch_size(self.image_size)
        out = [torch.empty(0, len(self.classes), device=device)]
        for start in range(0, len(files), size):
            try:
                images = decode_files(files[start : start + size], side=self.image_size, channels=self.channels)
            except DataError as error:  # its way out is that of a data set
                raise DataError(error.rule, "Give the path of an image, or leave it out") from error
            out.append(self.predict(images.to(device)))
        return torch.cat(out)

    def _way_out(self, images: Tensor) -> str:
        """How images that do not fit come to fit."""
        if images.dtype != torch.uint8:
            return "give pixels of 0 to 255, neither scaled nor normalised"
        if images.ndim == 4 and images.shape[1] != self.channels:
            kind = "grey" if self.channels == 1 else "red, green, blue"
            return f"give {self.channels} channel{'s' if self.channels > 1 else ''} ({kind}), not {images.shape[1]}"
        return "resize the shorter side and crop the centre, or give the files to predict_files"

    def to(self, device: torch.device) -> Classifier:
        """This classifier on ``device``; the model is moved, not copied."""
        return replace(
            self,
            model=place(self.model, device, precision=self.trial.training.precision),
            normalization=self.normalization.to(device),
        )


def inference_batch_size(side: int) -> int:
    """Images in a batch: depends on their own size alone, so that a result does not depend on who asks."""
    return max(1, min(_LARGEST_BATCH, _PIXELS_PER_BATCH // (side * side)))


def save_weights(path: Path, model: nn.Module, *, trial: TrialSpec, data: TrainingData) -> None:
    """Writes parameters, buffers and metadata; the file appears whole or not at all."""
    facts = _Facts(
        classes=data.classes, channels=data.channels, image_size=data.image_size, mean=data.mean, std=data.std
    )
    # Clones, because tied weights share memory and safetensors refuses that
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"format": _FORMAT, "trial": trial.model_dump_json(), "data": facts.model_dump_json()}
    with replacing(path) as file:
        file.write(save(tensors, metadata=metadata))


def load_classifier(path: Path, *, reach: Reach = LOCAL) -> Classifier:
    """Reads a weights file onto the CPU.

    Args:
        path: The file.
        reach: Which modules may be imported, where the model is one of one's own: a file alone cannot have any.

    Raises:
        WeightsError: If it is missing, truncated, foreign, or does not fit the model that it names.
        ModelError: If this release does not know that model.
    """
    metadata, tensors = _read(path)
    if metadata.get("format") != _FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file, but not one of this software's weights", "Give a weights file of a trial"
        )
    try:
        trial = TrialSpec.model_validate_json(metadata["trial"], extra="ignore")
        facts = _Facts.model_validate_json(metadata["data"])
    except (KeyError, ValidationError) as error:
        raise WeightsError(f"{path} has metadata that cannot be read ({error})", _WAY_OUT) from error
    with torch.random.fork_rng(devices=[]):
        model = build_model(
            trial.model, classes=len(facts.classes), channels=facts.channels, image_size=facts.image_size, reach=reach
        )
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit model {trial.model.name!r} ({error})", _WAY_OUT) from error
    return Classifier(
        model=place(model, torch.device("cpu"), precision=trial.training.precision).eval(),
        classes=facts.classes,
        channels=facts.channels,
        image_size=facts.image_size,
        normalization=Normalization(facts.mean, facts.std),
        trial=trial,
    )


_WAY_OUT = "Take the file from its trial's folder again, or train again"


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} cannot be read as a weights file ({error})", _WAY_OUT) from error
