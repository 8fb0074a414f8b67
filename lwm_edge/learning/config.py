"""Defines the settings of an increment, and the recipes that it can follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import ByteSize, Field, GetPydanticSchema, model_validator

from ..model.terms import Activation
from ..records import ExactPath, Settings

GATE_SETTINGS = (
    "min_new_accuracy",
    "min_base_agreement",
    "min_shipped_accuracy",
    "max_attention_distance",
)

RecipeName = Literal["lwm", "lwf-mc", "finetune", "lwm-lda", "lda"]
Device = Literal["auto", "cpu", "cuda"]
Size = Annotated[int | str, GetPydanticSchema(lambda _, schema_of: schema_of(ByteSize))]
"""Number of bytes, or a text such as 600MiB, which is turned into that number."""


class Recipe(NamedTuple):
    """Defines what an increment does with the network.

    Attributes:
        beta: Weight of L_D in L = L_C + beta * L_D + gamma * L_AD (Dhar et al. 2019, eq. 5).
        gamma: Weight of L_AD in the same loss.
        trains: Whether that loss trains the backbone; if not, the backbone stays as it is.
        head: Way to learn the head: `trained` by the loss too, as in the paper, or `solved` in closed form
            from the class statistics, before and after any training; the training leaves it alone.
        learning_rate: Learning rate of SGD for the backbone. The paper has one rate, 0.01, for everything; at
            that rate the backbone forgets more (benchmarks/README.md, "Rates that serve small increments").
        max_gradient_norm: Norm to which the gradients of an update are clipped.
        head_learning_rate: Learning rate of the head's rows; 0 if the head is solved.
    """

    beta: float
    gamma: float
    trains: bool
    head: Literal["trained", "solved"]
    learning_rate: float = 0.0
    max_gradient_norm: float = 0.0
    head_learning_rate: float = 0.0

    def adjusted(self, config: IncrementConfig) -> Recipe:
        """Returns the recipe with the user's numbers, wherever they are set and the recipe uses them."""
        numbers = ("beta", "gamma", "learning_rate", "max_gradient_norm", "head_learning_rate")
        chosen = {name: getattr(config, name) for name in numbers}
        return self._replace(**{n: v for n, v in chosen.items() if v is not None and getattr(self, n)})


_TRAINED_HEAD = {"learning_rate": 0.003, "head_learning_rate": 0.01, "max_gradient_norm": 2.0}
RECIPES: dict[RecipeName, Recipe] = {
    "lwm": Recipe(1.0, 0.1, trains=True, head="trained", **_TRAINED_HEAD),
    "lwf-mc": Recipe(1.0, 0.0, trains=True, head="trained", **_TRAINED_HEAD),
    "finetune": Recipe(0.0, 0.0, trains=True, head="trained", **_TRAINED_HEAD),
    "lwm-lda": Recipe(1.0, 3.0, trains=True, head="solved", learning_rate=0.002, max_gradient_norm=1.0),
    "lda": Recipe(0.0, 0.0, trains=False, head="solved"),
}
_AUTO_CHOICES: tuple[RecipeName, ...] = ("lwm-lda", "lda")  # `auto` chooses one of these
SIMULATED: RecipeName = "lwm-lda"  # an audit simulates this one by default, as training takes the most memory
_PHOTOS_PER_FEATURE = 2  # with fewer, the photos cannot show how the features drift


def choose_recipe(
    config: IncrementConfig,
    photos: int,
    features: int,
    *,
    map_cells: Callable[[], int] | None,
) -> tuple[RecipeName, str]:
    """Chooses the recipe; `auto` becomes the one that suits the network and the number of photos.

    Training moves the features, and the statistics of the old classes must be moved with them. Well over
    d photos are needed to show how d features move; with fewer, the backbone stays as it is.

    `lwm-lda` is only a candidate: the plan must predict that it ends within the time budget, and the new
    model must be better than one whose backbone stayed as it was (see `increment.comparison`).

    Args:
        config: Settings of the increment.
        photos: Number of photos to learn from.
        features: Number d of values that the head reads.
        map_cells: Function that counts the cells of the attention maps; None if torch is not installed.

    Returns:
        The recipe, and the reason for it in words.
    """
    if config.recipe != "auto":
        return config.recipe, "chosen in the settings"
    if config.instant:
        return "lda", "the settings ask for an instant increment, so the network stays as it is"
    if not may_show_drift(photos, features):
        return (
            "lda",
            f"{photos} photos are too few to show how training would move {features} features, so the "
            "network stays as it is",
        )
    if map_cells is None:
        return "lda", "torch is not installed, so the network stays as it is"
    if map_cells() == 1:
        return (
            "lda",
            "attention maps of a single cell cannot guide the training, so the network stays as it is",
        )
    return (
        "lwm-lda",
        f"{photos} photos are enough to show how training would move {features} features, so the network may "
        "learn",
    )


def may_show_drift(photos: int, features: int) -> bool:
    """Returns whether there are enough photos to show how training moves the features of known classes."""
    return photos >= _PHOTOS_PER_FEATURE * features


@dataclass(frozen=True)
class MorePhotos:
    """Marks an increment that learns from further photos of known classes, but no new class.

    Attributes:
        solve_head: Whether a trained head may be replaced by a solved one.
    """

    solve_head: bool = False


_TRAINING_SETTINGS = (
    "beta",
    "gamma",
    "classification",
    "epochs",
    "learning_rate",
    "head_learning_rate",
    "momentum",
    "max_gradient_norm",
    "frozen_blocks",
    "precision",
    "augment",
)


class IncrementConfig(Settings):
    """Defines how a model learns new classes, or learns from more photos of known ones.

    Raises:
        ConfigError: Some settings cannot be used (every one of them is listed), or one does not fit the
            recipe.
    """

    recipe: Literal[RecipeName, "auto"] = "auto"
    """Recipe of the increment: auto, lwm-lda, lda, lwm, lwf-mc or finetune.

    `lwm` trains with the paper's loss, `lwf-mc` with the same loss without its attention term, and `finetune`
    with the classification loss alone. `lda` keeps the backbone and solves the head in closed form from class
    statistics. `lwm-lda` solves the head too, but also trains the backbone with the paper's loss. `auto`
    chooses `lda` or `lwm-lda`; see `choose_recipe`.
    """
    instant: bool = False
    """Whether to leave the network as it is, so that learning takes seconds."""
    time_budget_seconds: float = Field(default=180.0, gt=0, allow_inf_nan=False)
    """Longest time in seconds that the whole increment may take if `auto` is to train the network.

    If the plan predicts more, the network stays as it is. A recipe that you choose by name has no such limit.
    """
    beta: float | None = Field(default=None, ge=0)
    """Weight of the distillation loss; the recipe has a default."""
    gamma: float | None = Field(default=None, ge=0)
    """Weight of the attention distillation loss; the recipe has a default."""
    classification: Activation | None = None
    """Kind of classification loss, sigmoid (one against the rest) or softmax; unless set, the base's kind."""
    epochs: int = Field(default=10, ge=1, le=10_000)
    """Number of passes over the new photos."""
    learning_rate: float | None = Field(default=None, gt=0, le=1000)
    """Constant learning rate of SGD for the backbone; the recipe has a default."""
    head_learning_rate: float | None = Field(default=None, gt=0, le=1000)
    """Learning rate of the head, if the recipe trains it; the recipe has a default."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    max_gradient_norm: float | None = Field(default=None, gt=0)
    """Norm to which an update's gradients are clipped; the recipe has a default."""
    frozen_blocks: int = Field(default=0, ge=0)
    """Number of the network's first blocks that stay as they are.

    Teacher and student share these blocks, which saves memory and time. Without augmentation, the outputs of
    these blocks are kept for all epochs, for as many photos as memory allows.
    """
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Number of photos per optimiser update."""
    micro_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Number of photos that are processed at once; unless set, the plan chooses it.

    It affects memory use; the result differs only by rounding.
    """
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the networks' blocks train: auto, float32 or bfloat16.

    If the device supports bfloat16 and the training is long, `auto` measures both, and takes bfloat16 if it
    is clearly faster. Set one of the two if results must be the same every time. Heads, attention maps,
    losses and statistics are always computed in float32 or wider.
    """
    max_memory: Size | None = None
    """Maximum memory that the increment may use, such as 600MiB; unless set, half of the free memory."""
    augment: bool = True
    """Whether training shifts and flips the new photos at random."""
    held_back: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class's photos, but at least one photo, that is held back for evaluation.

    After the evaluation, these photos count in the class statistics too, and in a head that is solved from
    them.
    """
    class_name: str | None = None
    """Name of the one class that the whole folder of photos shows; unless set, each sub-folder is a class."""
    min_photos: int = Field(default=5, ge=2)
    """Minimum number of usable photos per class."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random."""
    device: Device = "auto"
    """Device to train on: auto (a GPU if there is one), cpu or cuda."""
    sign_with: ExactPath | None = None
    """File of the device's private key, with which this change is signed."""

    min_new_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Share of the held-back photos that a model must get right to pass the gate."""
    min_base_agreement: float | None = Field(default=None, ge=0, le=1)
    """Agreement with its teacher that a model needs to pass the gate.

    It is the share of the held-back photos for which model and teacher rank the same class highest among
    those that the teacher knows.
    """
    min_shipped_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Estimated accuracy on the shipped classes that a model needs to pass the gate.

    The estimate starts from the vendor's measurements in the bundle.
    """
    max_attention_distance: float | None = Field(default=None, ge=0)
    """Largest distance (L_AD) by which a model's attention maps may move if the model is to pass the gate."""
    force: bool = False
    """Whether to commit a model that the gate would refuse; the receipt then has a warning."""
    fresh: bool = False
    """Whether to drop what an interrupted increment has saved, and start over."""

    def changed_training_settings(self) -> list[str]:
        """Lists the names of the training settings that differ from their defaults."""
        fields = IncrementConfig.model_fields
        return [name for name in _TRAINING_SETTINGS if getattr(self, name) != fields[name].default]

    def misfit(self) -> str | None:
        """Says which setting does not fit the recipe; None if all do."""
        names = _AUTO_CHOICES if self.recipe == "auto" else (self.recipe,)
        for name in ("beta", "gamma", "head_learning_rate"):
            if getattr(self, name) and not any(getattr(RECIPES[recipe], name) for recipe in names):
                return f"recipe {self.recipe} has no {name}; leave it out or choose another recipe"
        if self.instant and self.recipe != "auto" and RECIPES[self.recipe].trains:
            return (
                f"recipe {self.recipe} trains, so it is not instant; choose auto or lda, or pass --no-instant"
            )
        return None

    @model_validator(mode="after")
    def _settings_fit_recipe(self) -> IncrementConfig:
        if misfit := self.misfit():
            raise ValueError(misfit)
        return self
