"""Defines two small values that the parts of an increment share: its photos, and how it learns."""

from __future__ import annotations

from dataclasses import dataclass

from ..learning.config import Recipe, RecipeName
from ..model.terms import Activation
from ..photos.photo_set import PhotoSet


@dataclass(frozen=True)
class NewPhotos:
    """Holds the photos of an increment.

    Attributes:
        new_classes: Names of the new classes, in the order of their class_index.
        to_learn: Photos that are learnt from.
        held_back: Photos that are kept for evaluation.
        skipped: Files that were left out, each with the reason.
    """

    new_classes: tuple[str, ...]
    to_learn: PhotoSet
    held_back: PhotoSet
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class Approach:
    """Says how an increment learns.

    Attributes:
        name: Name of the recipe.
        reason: Reason for this recipe, in words.
        recipe: Recipe, with the user's own numbers.
        classification: Kind of classification loss (L_C).
    """

    name: RecipeName
    reason: str
    recipe: Recipe
    classification: Activation
