"""Two small values that the parts of an increment hand to each other: its photos, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass

from ..learning.config import Recipe, RecipeName
from ..model.manifest import Activation
from ..photos.photo_set import PhotoSet


@dataclass(frozen=True)
class NewPhotos:
    """The photos of an increment.

    Attributes:
        new_classes: Names of the new classes, in the order of their class_index.
        to_learn: Photos to learn from.
        held_back: Photos for evaluation.
        skipped: Files left out, with the reason.
    """

    new_classes: tuple[str, ...]
    to_learn: PhotoSet
    held_back: PhotoSet
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Approach:
    """How an increment learns.

    Attributes:
        name: Name of the recipe.
        reason: Why this recipe, in words.
        recipe: The recipe, with the user's own numbers.
        classification: Kind of L_C.
    """

    name: RecipeName
    reason: str
    recipe: Recipe
    classification: Activation
