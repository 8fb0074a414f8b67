"""Defines the settings for building a base."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from ..learning.config import Device
from ..model.terms import MAX_CAPACITY, Activation, Line, Paragraph, Permission
from ..records import Settings


class BaseConfig(Settings):
    """Defines how a vendor's base is made.

    Raises:
        ConfigError: Some settings are out of range; every one of them is listed.
    """

    architecture: str
    """Name of the network; for an unknown name, the error lists the known ones."""
    capacity: int = Field(default=256, ge=1, le=MAX_CAPACITY)
    """Maximum number of classes that the bundle can ever hold."""
    image_size: int | None = Field(default=None, ge=8, le=2048)
    """Height and width of the input in pixels; the architecture has a default."""
    activation: Activation = "sigmoid"
    """Kind of outputs: sigmoid, which increments use, or softmax, for a checkpoint trained with it."""
    weights: str | None = None
    """Name of pretrained weights that the architecture offers, such as imagenet."""
    checkpoint: Path | None = None
    """File of a torch state dict (.pth), either of a whole classifier or of its backbone.

    Its head is kept if it has one row for each class folder, in the folders' sorted order.
    """
    epochs: int = Field(default=30, ge=0, le=10_000)
    """Passes over the photos; 0 takes a checkpoint's classifier as it is."""
    frozen_blocks: int = Field(default=0, ge=0)
    """Number of the backbone's first blocks that are not trained.

    Blocks are the children of the backbone's parts, in order.
    """
    grid: int | None = Field(default=None, ge=0, le=8)
    """Cells per side over which the head reads earlier blocks, 0 for none; unless set, the photos decide.

    They choose 1, 2 or 3, whichever tells their classes apart best, as long as the head reads no
    more than 2048 values.
    """
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate of the one-cycle schedule; unless set, 0.05 from scratch and 0.01 from weights."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Weight decay of all weights."""
    batch_size: int = Field(default=64, ge=2, le=4096)
    """Photos per optimiser update."""
    augment: bool = True
    """Whether the photos are shifted and flipped at random."""
    rotations: bool = False
    """Whether to learn each class rotated by quarter turns too: better for new classes, but twice as slow.

    Each rotation of a class counts as a separate class, so the backbone learns more than the classes alone
    would require.
    """
    author: Line | None = None
    """Author of the base, which the ONNX file names."""
    license: Line | None = None
    """Licence of the base, by its name or address, which the ONNX file names."""
    description: Paragraph | None = None
    """Description of the base for people, which the ONNX file carries."""
    permits: tuple[Permission, ...] = ()
    """Changes that devices may make beyond those that are always allowed: add-photos, undo, other-devices."""
    held_back: float = Field(default=0.1, ge=0, lt=1)
    """Share of each class's photos that is kept for evaluation; 0 learns from all, and measures nothing.

    What is measured goes into the bundle, and devices estimate from it how much their models still know. A
    checkpoint that is taken as it is may have seen all photos, so nothing is held back then.
    """
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random: with the same seed, photos and machine, the base is the same."""
    device: Device = "auto"
    """Device to train on: auto (a GPU if there is one), cpu or cuda."""

    @model_validator(mode="after")
    def _has_one_start(self) -> BaseConfig:
        if self.weights and self.checkpoint:
            raise ValueError("give either weights or a checkpoint, not both")
        if self.epochs == 0 and not self.checkpoint:
            raise ValueError("epochs 0 needs a checkpoint of the whole classifier")
        if self.rotations and self.epochs == 0:
            raise ValueError("rotations are learnt during training, but epochs is 0")
        return self
