"""Defines the settings for making a base."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from ..learning.config import Device
from ..model.terms import MAX_CAPACITY, Activation, Line, Paragraph, Permission
from ..photos.class_names import text_problem
from ..records import ExactPath, Settings

PRETRAINED_SHARE = 0.5  # of pretrained weights, unless the settings say otherwise
_MAX_STATISTIC, _MIN_STD = 3.0, 1e-3  # bounds for mean and std, if pixels are from 0 to 1


class BundleConfig(Settings):
    """Defines the settings of every base, whether its network is trained here or elsewhere.

    Raises:
        ConfigError: Some settings cannot be used; the problems are listed.
    """

    architecture: str
    """Name of the network's architecture; for an unknown name, the error lists the known ones."""
    capacity: int = Field(default=256, ge=1, le=MAX_CAPACITY)
    """Maximum number of classes that the bundle can ever hold."""
    image_size: int | None = Field(default=None, ge=8, le=2048)
    """Height and width of the input in pixels; the architecture has a default."""
    activation: Activation = "sigmoid"
    """Kind of outputs that the network is trained with: sigmoid, or softmax (cross entropy)."""
    grid: int | None = Field(default=None, ge=0, le=8)
    """Cells per side of the grid on which the head reads earlier blocks (0: none); unless set, photos decide.

    With a number, it reads the last block of each map size; with 0, none. Otherwise the photos choose between
    1, 2 and 3: the grid is the one that tells their classes apart best, or a coarser one that is not clearly
    worse. If the last feature maps have at most 256 channels, it then reads the middle block of each
    map size as well. Grids that do not fit the network, or with which the head would read more than 2048
    values, are left out; if none remains, the grid is 0.
    """
    author: Line | None = None
    """Author of the base, to be named in the ONNX file."""
    license: Line | None = None
    """Name or address of the base's licence, to be given in the ONNX file."""
    description: Paragraph | None = None
    """Description of the base for people to read in the ONNX file."""
    permits: tuple[Permission, ...] = ()
    """Changes to permit: add-photos (to shipped classes), undo, or other-devices (for later versions).

    All other changes need no permission. The permission other-devices is for classes that other devices
    learnt. No command takes such classes yet, so this is for later versions.
    """

    @field_validator("author", "license", "description")
    @classmethod
    def _can_be_shown(cls, text: str | None) -> str | None:
        if text is not None and (problem := text_problem(text)):
            raise ValueError(f"it {problem}")
        return text

    @field_validator("permits")
    @classmethod
    def _sort(cls, permits: tuple[Permission, ...]) -> tuple[Permission, ...]:
        return tuple(sorted(set(permits)))


class BaseConfig(BundleConfig):
    """Defines how a vendor's base is trained.

    Raises:
        ConfigError: Some settings cannot be used (the problems are listed), both weights and a checkpoint are
            given, or a share of the weights is to be kept without either.
    """

    weights: str | None = Field(default=None, min_length=1)
    """Name of pretrained weights that the architecture offers, such as imagenet."""
    checkpoint: ExactPath | None = None
    """File of a torch checkpoint (.pth) to start from, either of a whole classifier or of its backbone.

    The checkpoint's head is kept if it has as many rows as there are class folders; the rows must then be in
    the sorted order of the folders. To ship a trained classifier as it is, use `pack`.
    """
    pretrained_share: float | None = Field(default=None, ge=0, lt=1)
    """Share of the weights from before training in those that ship; by default, 0.5 with `weights`, else 0.

    If it is above 0, each weight of the backbone becomes a mean of what it was before training and what it is
    after it, and the head is then trained alone for another fifth of the epochs. This keeps more of what
    pretrained weights can tell apart, which helps with new classes. It changes nothing if all blocks are
    frozen.
    """
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Number of passes over the photos."""
    frozen_blocks: int = Field(default=0, ge=0)
    """Number of the backbone's first blocks that are not trained.

    The blocks are the backbone's child modules, in order; a sequential module is replaced by its children.
    """
    learning_rate: float | None = Field(default=None, gt=0, le=1000)
    """Peak learning rate of the one-cycle schedule; by default, 0.05 from scratch and 0.01 otherwise."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0, le=1000)
    """Weight decay of all weights."""
    batch_size: int = Field(default=64, ge=2, le=4096)
    """Number of photos per optimiser update."""
    augment: bool = True
    """Whether the photos are shifted and flipped at random."""
    rotations: bool = False
    """Whether to learn from rotated photos too: better when training from scratch, but twice as slow.

    The photos are rotated by quarter turns, and each rotation of a class counts as a separate class. So the
    backbone learns more than the classes alone would require. That helps with new classes if the network is
    trained from scratch; with pretrained weights, it cost six points when it was measured.
    """
    held_back: float = Field(default=0.1, ge=0, lt=1)
    """Share of each class's photos that is held back from training, to measure accuracy; 0 for none.

    The accuracy goes into the bundle, and devices estimate from it how much their models still know. These
    photos also decide which photos the class statistics are made from, and which head ships.
    """
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random; on the same CPU, the same seed, settings and photos give the same base."""
    device: Device = "auto"
    """Device to train on: auto (a GPU if there is one), cpu or cuda."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the network's blocks train: auto is bfloat16 on GPUs that have it, else float32."""

    @model_validator(mode="after")
    def _has_one_start(self) -> BaseConfig:
        if self.weights and self.checkpoint:
            raise ValueError("give either weights or a checkpoint, not both")
        if self.pretrained_share and not (self.weights or self.checkpoint):
            raise ValueError("pretrained_share needs pretrained weights or a checkpoint to start from")
        return self

    @property
    def kept_share(self) -> float:
        """Returns the share of the weights before training that is kept, whether it was set or not."""
        default = PRETRAINED_SHARE if self.weights else 0.0
        return default if self.pretrained_share is None else self.pretrained_share


class PackConfig(BundleConfig):
    """Defines how a trained classifier becomes a base, without training it any further.

    Raises:
        ConfigError: Some settings cannot be used (the problems are listed), or mean or std does not suit
            pixels from 0 to 1.
    """

    activation: Activation = "softmax"
    """Kind of outputs that the classifier was trained with: softmax (cross entropy) or sigmoid."""
    labels: ExactPath | None = None
    """Text file with one class name per line, in the head's order; by default, the folders' sorted names."""
    unseen_photos: ExactPath | None = None
    """Folder of photos that the network never saw, with class folders of the same names.

    The accuracy on these photos goes into the bundle, and devices estimate from it how much their models
    still know. If every class has some, these photos also decide which photos the class statistics are made
    from, and which head ships.
    """
    statistics_photos: ExactPath | None = None
    """Folder of photos to make the class statistics from, instead of the classifier's training photos."""
    mean: tuple[float, float, float] | None = None
    """Means with which the classifier's red, green and blue channels are normalised (pixels from 0 to 1)."""
    std: tuple[float, float, float] | None = None
    """Standard deviations with which the classifier's red, green and blue channels are normalised."""
    resize_size: int | None = Field(default=None, ge=8, le=4096)
    """Length in pixels to which a photo's short side is resized before the centre crop."""
    preprocessing_of: str | None = None
    """Name of torchvision weights whose preprocessing to use, such as ResNet18_Weights.IMAGENET1K_V1."""

    @model_validator(mode="after")
    def _mean_and_std_fit_pixels_from_0_to_1(self) -> PackConfig:
        if any(abs(value) > _MAX_STATISTIC for value in (*(self.mean or ()), *(self.std or ()))):
            raise ValueError("mean and std are for pixels from 0 to 1; divide values for 0 to 255 by 255")
        if any(value <= _MIN_STD for value in self.std or ()):
            raise ValueError(f"std must be above {_MIN_STD}")
        return self
