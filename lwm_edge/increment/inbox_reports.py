"""Defines what became of an inbox."""

from __future__ import annotations

from typing import Literal

from ..records import AnyNamePath, Report
from .inbox_folder import Change

State = Literal["arriving", "collecting", "waiting"]


class TaughtClass(Report):
    """Reports photos that were taught.

    Attributes:
        class_name: Name of the class.
        change: Kind of the change.
        photos: Number of photos.
        right: How many of the photos that were judged were recognised.
        judged: How many photos were judged.
        moved_to: Folder with the photos now; None if they were deleted.
        model_digest: Digest of the model that knows them.
        warnings: Warnings of the receipt.
    """

    class_name: str
    change: Change
    photos: int
    right: int
    judged: int
    moved_to: AnyNamePath | None
    model_digest: str
    warnings: tuple[str, ...] = ()


class WaitingClass(Report):
    """Reports photos that were not taught, or not yet.

    Attributes:
        class_name: Name of the class folder.
        state: `arriving` while the folder changes, `collecting` while there are too few photos, `waiting` for
            the owner, or for the next try.
        photos: Number of files.
        reason: Reason, in words.
    """

    class_name: str
    state: State
    photos: int
    reason: str


class InboxReport(Report):
    """Reports what became of an inbox.

    Attributes:
        home: Path of the model home.
        inbox: Path of the inbox.
        taught: Photos that were taught, in their order.
        waiting: Photos that were not.
        notes: Sentences about what an interruption had left, and what was done about it.
    """

    home: AnyNamePath
    inbox: AnyNamePath
    taught: tuple[TaughtClass, ...] = ()
    waiting: tuple[WaitingClass, ...] = ()
    notes: tuple[str, ...] = ()
