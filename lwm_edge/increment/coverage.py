"""Finds out whether the photos of an increment show how training would move the features of known classes.

Training moves all features, and the statistics of the known classes must follow (see `learning.feature_map`).
The new photos are all there is to learn that movement from. If they are too unlike a known class, its
statistics no longer fit. Classes that are added later are then confused with it, even if no harm shows until
then. So `auto` does not train on such photos; if a recipe was chosen by name, the owner is warned.
"""

from __future__ import annotations

from ..errors import shortened
from ..learning.class_statistics import ClassStatistics
from ..learning.config import may_show_drift
from ..learning.discriminant import Features
from ..learning.feature_map import MAX_LEVERAGE, leverage
from ..model.bundle import Bundle
from .values import Approach

_NAMED = 3  # largest number of classes that a sentence names


def photos_are_unlike(parent: Bundle, approach: Approach, features: Features) -> str | None:
    """Says which known classes the photos are too unlike; returns None if there are none.

    This matters only for a solved head. If there are too few photos anyway, the owner has already been
    warned.

    Args:
        parent: Bundle of the model before the increment.
        approach: Approach of the increment.
        features: Inputs of the teacher's head for the photos to learn from [M, d].
    """
    if approach.recipe.head != "solved" or not may_show_drift(*features.shape):
        return None
    known = parent.manifest.class_names
    leverages = leverage(features, ClassStatistics.from_bundle(parent).means[: len(known)])
    unlike = [name for name, value in zip(known, leverages, strict=True) if value > MAX_LEVERAGE]
    listed = ", ".join(shortened(unlike, _NAMED))
    return f"the new photos are too unlike those of {listed}" if unlike else None


def later_confusion(unlike: str) -> str:
    """Writes the warning that the classes found by `photos_are_unlike` may be confused with later ones."""
    return (
        f"{unlike} to show how training moves the features of these classes, so they may be confused "
        "with classes that are added later; recipe lda leaves the features as they are"
    )
