"""Records, in bounded space, how often each class was recognised when this device learnt it.

A vendor's measurements are part of the model and are kept in tensors. A device's measurements do not change
the model, so they are kept in the manifest, like the ledger, and no digest covers them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

from pydantic import Field

from .terms import MAX_CAPACITY

_LARGEST = 2**31 - 1  # limits the length of a class's figures in the manifest

_Count = Annotated[int, Field(ge=0, le=_LARGEST)]


class Judged(NamedTuple):
    """Says how often photos of a class were recognised.

    Each photo was judged by a model that had not learnt from it.

    Attributes:
        class_index: Position of the class.
        right: Number of photos that were recognised.
        photos: Number of photos that were judged.
    """

    class_index: Annotated[int, Field(ge=0, lt=MAX_CAPACITY)]
    right: _Count
    photos: Annotated[int, Field(ge=1, le=_LARGEST)]


def with_judged(known: Sequence[Judged], new: Iterable[Judged]) -> tuple[Judged, ...]:
    """Adds the figures of some classes, which replace any older figures of the same classes.

    If no photo of a class was judged, it is left without a figure.
    """
    by_class = {judged.class_index: judged for judged in (*known, *new)}
    return tuple(judged for _, judged in sorted(by_class.items()) if judged.photos)


def without_judged(known: Sequence[Judged], row: int) -> tuple[Judged, ...]:
    """Drops the figures of a class."""
    return tuple(judged for judged in known if judged.class_index != row)


def without_row(known: Sequence[Judged], row: int) -> tuple[Judged, ...]:
    """Drops the figures of a class that is removed from the model; each later class_index falls by one."""
    return tuple(
        judged._replace(class_index=judged.class_index - (judged.class_index > row))
        for judged in without_judged(known, row)
    )


def problem_with(known: Sequence[Judged], classes: int) -> str | None:
    """Says why figures cannot be right in a model with this many classes; None if they can be."""
    rows = [judged.class_index for judged in known]
    if rows != sorted(set(rows)) or rows[-1:] >= [classes]:
        return "`judged` is not in ascending order, or has a figure for a class that does not exist"
    if any(judged.right > judged.photos for judged in known):
        return "`judged` says of some class that more photos were recognised than were judged"
    return None
