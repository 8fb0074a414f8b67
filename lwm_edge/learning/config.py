"""Settings of an increment, and the recipes that it can learn by."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import ByteSize, Field, model_validator

from ..model.manifest import Activation
from ..records import Settings

GATE_SETTINGS = (
    "least_new_accuracy",
    "least_base_agreement",
    "least_shipped_accuracy",
    "most_attention_distance",
)

RecipeName = Literal["lwm", "lwf-mc", "finetune", "lwm-lda", "lda"]
Device = Literal["auto", "cpu", "cuda"]


class Recipe(NamedTuple):
    """What an increment does with the network.

    Attributes:
        beta: Of L = L_C + beta * L_D + gamma * L_AD (Dhar et al. 2019, eq. 5).
        gamma: Likewise.
        trains: Whether that loss trains the backbone; otherwise it stays as it is.
        head: `trained` by the loss as well, as in the paper, or `solved` in closed form from the class
            statistics, before the training (where it is kept) and after.
        learning_rate: Of stochastic gradient descent; the paper's where the head is trained.
        max_gradient_norm: Gradients of an update are cut to it; see `optimizer`.
        head_learning_rate: Of the head's rows; 0 where it is solved.
    """

    beta: float
    gamma: float
    trains: bool
    head: Literal["trained", "solved"]
    learning_rate: float = 0.0
    max_gradient_norm: float = 0.0
    head_learning_rate: float = 0.0

    def adjusted(self, config: IncrementConfig) -> Recipe:
        """With the user's own numbers, where they are set and the recipe has them."""
        numbers = ("beta", "gamma", "learning_rate", "max_gradient_norm")
        chosen = {name: getattr(config, name) for name in numbers}
        chosen["head_learning_rate"] = config.head_learning_rate or config.learning_rate
        return self._replace(**{n: v for n, v in chosen.items() if v is not None and getattr(self, n)})


_TRAINED_HEAD = {"learning_rate": 0.01, "head_learning_rate": 0.01, "max_gradient_norm": 2.0}
RECIPES: dict[RecipeName, Recipe] = {
    "lwm": Recipe(1.0, 0.1, trains=True, head="trained", **_TRAINED_HEAD),
    "lwf-mc": Recipe(1.0, 0.0, trains=True, head="trained", **_TRAINED_HEAD),
    "finetune": Recipe(0.0, 0.0, trains=True, head="trained", **_TRAINED_HEAD),
    "lwm-lda": Recipe(1.0, 3.0, trains=True, head="solved", learning_rate=0.02, max_gradient_norm=1.0),
    "lda": Recipe(0.0, 0.0, trains=False, head="solved"),
}
_AUTO: tuple[RecipeName, ...] = ("lwm-lda", "lda")  # what it takes one of
_PHOTOS_PER_FEATURE = 2  # fewer cannot show how the features drift


def choose_recipe(
    config: IncrementConfig, photos: int, features: int, cells: int, *, reads_levels: bool
) -> tuple[RecipeName, str]:
    """Resolves `auto` by what is known on the device.

    A head that reads earlier blocks tells new classes apart as well on a backbone that stays as it is: what
    training added was within the noise wherever it was measured (benchmarks/), at ten times the time.

    Where it reads the last feature maps alone, training helps, but moves the features, and the old classes'
    statistics must follow. How d features move can be told from clearly more than d photos; with fewer, the
    backbone had better stay where it is.

    Args:
        config: The settings.
        photos: Number of photos to learn from.
        features: d, what the head reads.
        cells: Of its attention maps.
        reads_levels: Whether the head reads earlier blocks.

    Returns:
        The recipe and, in words, why.
    """
    if config.recipe != "auto":
        return config.recipe, "chosen in the settings"
    if reads_levels:
        return "lda", "the head reads earlier blocks too, and beneath such a head training gains nothing"
    if cells == 1:
        return "lda", "attention maps of a single cell cannot guide the backbone, so it stays as it is"
    if photos >= _PHOTOS_PER_FEATURE * features:
        return "lwm-lda", f"{photos} photos show how {features} features drift, so the backbone may learn"
    return "lda", f"{photos} photos cannot show how {features} features drift, so the backbone stays as it is"


_OF_TRAINING = (
    "beta",
    "gamma",
    "classification",
    "epochs",
    "learning_rate",
    "head_learning_rate",
    "momentum",
    "max_gradient_norm",
    "frozen_blocks",
)


class IncrementConfig(Settings):
    """How new classes are learnt.

    Raises:
        ConfigError: Listing every setting that is out of range.
    """

    recipe: RecipeName | Literal["auto"] = "auto"
    """What learns: auto, lwm-lda, lda, lwm, lwf-mc or finetune.

    `lwm` is the paper's loss, `lwf-mc` the same without the attention distillation loss, `finetune` the
    classification loss alone. `lda` keeps the backbone and solves the head in closed form from class
    statistics; `lwm-lda` trains the backbone by LwM beneath such a head. `auto` takes one of these two, see
    `choose_recipe`.
    """
    beta: float | None = Field(default=None, ge=0)
    """Weight of the distillation loss; unless set, the recipe's."""
    gamma: float | None = Field(default=None, ge=0)
    """Weight of the attention distillation loss; unless set, the recipe's."""
    classification: Activation | None = None
    """Kind of classification loss, sigmoid (one against the rest) or softmax; unless set, the base's."""
    epochs: int = Field(default=10, ge=1, le=10_000)
    """Passes over the new photos."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Constant learning rate of SGD; unless set, the recipe's."""
    head_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the head's rows, where the recipe trains them; unless set, learning_rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD."""
    max_gradient_norm: float | None = Field(default=None, gt=0)
    """Norm that the gradients of an update are cut to; unless set, the recipe's."""
    frozen_blocks: int = Field(default=0, ge=0)
    """Number of the network's first blocks that stay as they are.

    Teacher and student share them, so they cost less memory and time.
    """
    batch_size: int = Field(default=32, ge=1, le=4096)
    """Photos per optimiser update."""
    micro_batch_size: int | None = Field(default=None, ge=1, le=4096)
    """Photos computed at once; unless set, the plan chooses.

    It changes memory, and the result by no more than rounding.
    """
    max_memory: ByteSize | None = None
    """Maximum memory that the training may use, such as 600MiB; unless set, half of what is free."""
    augment: bool = True
    """Whether the new photos are shifted and flipped at random."""
    held_back: float = Field(default=0.2, gt=0, lt=1)
    """Share of each class that is kept for evaluation, at least one photo.

    The class statistics take these photos in afterwards, and so does a head that is solved from those.
    """
    least_photos: int = Field(default=5, ge=2)
    """Fewest usable photos that a class must have."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random: with the same seed, photos and machine, the model is the same."""
    device: Device = "auto"
    """Where to train: auto (a GPU if there is one), cpu or cuda."""
    sign_with: Path | None = None
    """File of the device's private key, to sign this change with."""

    least_new_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Gate: refuse a model that is right on a smaller share of the held-back photos."""
    least_base_agreement: float | None = Field(default=None, ge=0, le=1)
    """Gate: refuse a model that ranks the same base class highest as its teacher on fewer of them."""
    least_shipped_accuracy: float | None = Field(default=None, ge=0, le=1)
    """Gate: refuse a model that is estimated to be right on a smaller share of the shipped classes.

    The estimate comes from the class statistics in the bundle.
    """
    most_attention_distance: float | None = Field(default=None, ge=0)
    """Gate: refuse a model whose attention maps moved further (L_AD)."""
    force: bool = False
    """Commit a model that the gate's thresholds would refuse; the receipt warns."""
    fresh: bool = False
    """Start over instead of going on with an interrupted increment."""

    def of_training(self) -> list[str]:
        """Settings of the training, by name, that are not as they would be by themselves."""
        fields = IncrementConfig.model_fields
        return [name for name in _OF_TRAINING if getattr(self, name) != fields[name].default]

    @model_validator(mode="after")
    def _settings_fit_recipe(self) -> IncrementConfig:
        names = _AUTO if self.recipe == "auto" else (self.recipe,)
        for name in ("beta", "gamma", "head_learning_rate"):
            if getattr(self, name) and not any(getattr(RECIPES[recipe], name) for recipe in names):
                raise ValueError(f"recipe {self.recipe} has no {name}; leave it out or choose another recipe")
        return self
