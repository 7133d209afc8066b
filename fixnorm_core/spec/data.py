"""Which network, which images."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fixnorm_core.spec.base import Spec

__all__ = ["DataSpec", "ModelSpec"]

OptionValue = bool | int | float | str


class ModelSpec(Spec):
    """Which network, by name (``fixnorm-tune models`` lists them).

    Attributes:
        name: A name of ``fixnorm_core.models.catalog``, or ``package.module:factory``
            (:func:`fixnorm_core.models.build.build_model`).
        options: Passed on to the model's factory, for example ``{width: 16}``.
        stem: ``"imagenet"`` leaves a torchvision model as it is; ``"small"`` takes its early down-sampling out, for
            small images; ``"auto"`` picks ``"small"`` when images have fewer than 96 pixels a side.
    """

    name: str = "small_resnet"
    options: dict[str, OptionValue] = Field(default_factory=dict)
    stem: Literal["auto", "imagenet", "small"] = "auto"


class DataSpec(Spec):
    """Which images, and how they are split.

    The test split is what the data set ships as such (``test/`` of an image folder), or ``test_fraction`` of it; no
    trial ever sees it. The validation split is ``val/`` of an image folder, or ``validation_fraction`` of what is
    left. Splits are stratified by class and depend on ``split_seed`` alone.

    Attributes:
        name: A name of ``fixnorm_core.data.catalog``, or ``package.module:factory``
            (:class:`fixnorm_core.data.own.OwnData`).
        path: The image folder (required for ``imagefolder``), or where a downloaded set is kept. A folder may be in an
            object store (``s3://bucket/prefix``).
        options: Passed on to a factory of one's own; the catalog's data sets have none.
        image_size: Pixels a side; images of another size are resized (shorter side) and cropped at the centre. None
            keeps the size that all images share.
        flip: Random horizontal flips in training; None takes the data set's default.
        shift: Random shifts in training, at most this many pixels; None takes the data set's default.
        validation_fraction: Share of the training images held out.
        test_fraction: Share held out for the final test where the data set ships no test split.
        train_limit: At most this many training images (stratified); None takes all.
        validation_limit: Likewise for the validation split.
        test_limit: Likewise for the test split.
        storage: ``"memory"`` decodes all images once and keeps them; ``"stream"`` reads them from their files in every
            epoch, in processes beside the training (image folders only); ``"auto"`` streams an image folder that would
            take more than 8 GiB in memory, or that is cropped at random. The images are the same either way.
        loader_workers: Processes that read streamed images; 0 reads in the training process; None takes one for each
            CPU of the trial. The result does not depend on it.
        crop: ``"random_resized"`` trains on a random rectangle of each picture, brought to ``image_size`` (arXiv
            1409.4842, section 6), which is cut out of the file and so needs streaming; ``"none"`` on its centre.
        crop_min_area: Share of the picture that such a rectangle covers at least.
        skip_corrupt: Leave out images whose files are damaged, say how many and which, and go on; by default the
            first one is an error. To know them beforehand, every image is decoded once more at the start.
        split_seed: Seeds the splits and the subsets.
    """

    name: str = "digits"
    path: str | None = None
    options: dict[str, OptionValue] = Field(default_factory=dict)
    image_size: int | None = Field(default=None, ge=4, le=1024)
    flip: bool | None = None
    shift: int | None = Field(default=None, ge=0, le=64)
    validation_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    test_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    train_limit: int | None = Field(default=None, ge=2)
    validation_limit: int | None = Field(default=None, ge=2)
    test_limit: int | None = Field(default=None, ge=2)
    storage: Literal["auto", "memory", "stream"] = "auto"
    loader_workers: int | None = Field(default=None, ge=0, le=256)
    crop: Literal["none", "random_resized"] = "none"
    crop_min_area: Annotated[float, Field(gt=0.0, le=1.0)] = 0.08
    skip_corrupt: bool = False
    split_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _crops_what_it_reads(self) -> Self:
        if self.crop == "random_resized" and self.storage == "memory":
            raise ValueError(
                "crop is random_resized, which is cut out of the image files in every epoch, but storage is memory: "
                "set storage to auto or stream, or crop to none (shift moves images that are in memory)"
            )
        return self
