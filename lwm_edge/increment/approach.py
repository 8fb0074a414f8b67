"""Chooses how an increment learns: its recipe, and the learner that follows it."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import ConfigError
from ..learning.config import (
    RECIPES,
    IncrementConfig,
    MorePhotos,
    RecipeName,
    choose_recipe,
    may_show_drift,
)
from ..model.bundle import Bundle
from ..model.tensors import TOTAL, WEIGHT
from ..model.torch_needed import require_torch, require_torch_installed, torch_is_installed
from .plan import memory_limit
from .shipped import can_estimate
from .values import Approach, Learner

_ADVICE_WITHOUT_TORCH = ", or use recipe lda"
# Importing torch takes 218 MiB (benchmarks/README.md, "Memory of one increment"), which would not be
# freed if the plan then found that there is too little memory for training.
_LEAST_BYTES_FOR_TRAINING = 600 * 2**20


def choose_approach(
    parent: Bundle, photos: int, config: IncrementConfig, more: MorePhotos | None, *, continues: bool = False
) -> Approach:
    """Chooses the recipe for an increment on a bundle's model.

    Args:
        parent: Bundle of the model before the increment.
        photos: Number of photos to learn from.
        config: Settings of the increment.
        more: Settings for further photos of known classes; None for photos of new classes.
        continues: Whether interrupted training is continued; then too little memory no longer rules it out.

    Raises:
        ConfigError: The recipe needs torch, which is not installed, or cannot be used with the settings.
    """
    if more:
        reason = "further photos of known classes go into the statistics, and the network stays as it is"
        return Approach("lda", reason, RECIPES["lda"], config.classification or parent.manifest.activation)
    manifest, features = parent.manifest, count_features(parent)

    def map_cells() -> int:
        """Counts the cells of the attention maps, which needs torch."""
        require_torch("training needs")
        from ..model.loading import load_network
        from ..model.network import attention_cells

        return attention_cells(load_network(parent))

    cells = map_cells if torch_is_installed() else None
    is_open = config.recipe == "auto" and not (config.instant or continues)
    if is_open and may_show_drift(photos, features) and (why_not := why_auto_stays_instant(parent, config)):
        name: RecipeName = "lda"
        reason = f"{why_not}, so the network stays as it is"
    else:
        try:
            name, reason = choose_recipe(config, photos, features, map_cells=cells)
        except ConfigError as error:  # torch is installed, but cannot be loaded
            if continues:
                raise
            name, reason = "lda", f"{error.message}; so the network stays as it is"
    require_usable(name, config)
    recipe, classification = RECIPES[name].adjusted(config), config.classification or manifest.activation
    compares = config.recipe == "auto" and recipe.trains
    return Approach(name, reason, recipe, classification, compares)


def why_auto_stays_instant(parent: Bundle, config: IncrementConfig) -> str | None:
    """Returns why recipe `auto` trains nothing, even with enough photos; None if it may train."""
    if memory_limit(config)[0] < _LEAST_BYTES_FOR_TRAINING:
        return "training would need more memory than is allowed"
    if not can_estimate(parent.arrays(TOTAL)[TOTAL][: parent.manifest.shipped_classes]):
        return "the accuracy that the shipped classes would lose by training cannot be estimated"
    return None


def instant_approach(approach: Approach, reason: str) -> Approach:
    """Returns the approach for an increment whose network stays as it is after all."""
    return Approach("lda", reason, RECIPES["lda"], approach.classification)


def reason_before_learning(approach: Approach) -> str:
    """Gives the reason for the recipe, before it is known whether a trained model will be kept."""
    kept = "; the trained model is kept only if it is clearly better than that of lda"
    return f"{approach.reason}{kept if approach.compares else ''}"


def warn_about_drift(parent: Bundle, approach: Approach, photos: int) -> Iterator[str]:
    """Warns if the photos are too few to show how training moves the features of known classes."""
    features = count_features(parent)
    if approach.recipe.trains and approach.recipe.head == "solved" and not may_show_drift(photos, features):
        yield (
            f"{photos} photos are too few to show how training moves {features} features, so the known "
            "classes may lose more accuracy than is estimated, and more with each such increment; recipe lda "
            "leaves the features as they are"
        )


def count_features(parent: Bundle) -> int:
    """Returns the number d of values that the head reads."""
    return int(parent.arrays(WEIGHT)[WEIGHT].shape[1])


def require_usable(name: RecipeName, config: IncrementConfig) -> None:
    """Refuses a recipe that this device or the settings rule out.

    Raises:
        ConfigError: The recipe needs torch, which is not installed; or `max_attention_distance` is set, but
            the recipe has no attention maps.
    """
    if RECIPES[name].trains:
        require_torch_installed(_what_needs_torch(name), _ADVICE_WITHOUT_TORCH)
    elif config.max_attention_distance is not None:
        raise ConfigError(
            f"max_attention_distance is set, but attention maps need torch, and recipe {name}"
            + (", which auto may choose," if config.recipe == "auto" else "")
            + " runs without it; leave the setting out, or choose a recipe that trains, such as lwm"
        )


def _what_needs_torch(name: RecipeName) -> str:
    return f"recipe {name} trains the network, which needs"


def make_learner(parent: Bundle, approach: Approach, new_classes: int, config: IncrementConfig) -> Learner:
    """Makes the learner of an approach; only a learner that trains imports torch."""
    if not approach.recipe.trains:
        from .instant import InstantLearner

        return InstantLearner(parent, approach, config)
    require_torch(_what_needs_torch(approach.name), _ADVICE_WITHOUT_TORCH)
    from .trained import TrainingLearner

    return TrainingLearner(parent, approach, new_classes, config)
