"""Settings of building a base."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from ..learning.config import Device
from ..model.manifest import MAX_CAPACITY, Activation
from ..records import Settings


class BaseConfig(Settings):
    """How a vendor's base is made.

    Attributes:
        architecture: A key of the registry in `model.architectures`.
        capacity: Most classes that the bundle can ever hold.
        image_size: Input height and width in pixels; None takes the architecture's.
        activation: `sigmoid` trains one-vs-rest outputs, as the increments are; `softmax` the usual kind.
        weights: Name of pretrained weights that the architecture offers.
        checkpoint: A torch state dict of the whole classifier, or of its backbone.
        epochs: Passes over the photos; 0 takes a checkpoint's classifier as it is.
        frozen_blocks: How many of the backbone's first blocks stay as they start; blocks are the children of
            its parts, in order.
        grid: The head reads earlier blocks too, averaged over grid x grid cells; 0 leaves them out, None
            takes 1, 2 or 3, whichever tells the photos' classes apart best, as far as the head then reads
            at most 2048 values.
        learning_rate: Peak of the one-cycle schedule; None takes 0.05 from scratch, 0.01 from weights.
        momentum: Of stochastic gradient descent.
        weight_decay: On all weights.
        batch_size: Photos an update.
        augment: Random shifts and flips.
        rotations: Learns every class turned by quarters too, as classes beside it, so that the backbone
            knows more than its own classes ask for; an epoch takes twice as long.
        held_back: Share of each class's photos kept for evaluation; 0 learns from all.
        seed: Of everything random.
        device: Where to train; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: Listing every setting that is out of range.
    """

    architecture: str
    capacity: int = Field(default=256, ge=1, le=MAX_CAPACITY)
    image_size: int | None = Field(default=None, ge=8, le=2048)
    activation: Activation = "sigmoid"
    weights: str | None = None
    checkpoint: Path | None = None
    epochs: int = Field(default=30, ge=0, le=10_000)
    frozen_blocks: int = Field(default=0, ge=0)
    grid: int | None = Field(default=None, ge=0, le=8)
    learning_rate: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=5e-4, ge=0)
    batch_size: int = Field(default=64, ge=2, le=4096)
    augment: bool = True
    rotations: bool = False
    held_back: float = Field(default=0.1, ge=0, lt=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: Device = "auto"

    @model_validator(mode="after")
    def _start_is_clear(self) -> BaseConfig:
        if self.weights and self.checkpoint:
            raise ValueError("give either weights or a checkpoint, not both")
        if self.epochs == 0 and not self.checkpoint:
            raise ValueError("epochs 0 needs a checkpoint of the whole classifier")
        if self.rotations and self.epochs == 0:
            raise ValueError("rotations are learnt in epochs, and there are none")
        return self
