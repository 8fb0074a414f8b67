"""Defines the reports on an inbox: which photos the model has learnt from, and which wait."""

from __future__ import annotations

from typing import Literal

from ..records import AnyNamePath, Report
from .inbox_folder import Change

State = Literal["arriving", "collecting", "waiting"]


class TaughtClass(Report):
    """Reports on a class that was taught from the photos in its folder.

    Attributes:
        class_name: Name of the class.
        change: Kind of the change.
        photos: Number of photos.
        right: Number of judged photos that were recognised.
        judged: Number of photos that were judged.
        moved_to: Folder to which the photos were moved; None if they were deleted.
        model_digest: Digest of the model that has learnt from the photos.
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
    """Reports photos that wait in a class folder.

    Attributes:
        class_name: Name of the class folder.
        state: State of the folder: `arriving` while it changes, `collecting` while it has too few photos,
            `waiting` if the photos wait for the owner or for the next try.
        photos: Number of files in the folder; if it has none, number of files in its sub-folders.
        reason: Reason why the photos wait, in words.
    """

    class_name: str
    state: State
    photos: int
    reason: str


class InboxReport(Report):
    """Reports which photos in an inbox the model has learnt from, and which wait.

    Attributes:
        home: Path of the model home.
        inbox: Path of the inbox.
        taught: Classes that were taught, in the order of teaching.
        waiting: Photos that the model has not learnt from, class by class.
        notes: Sentences that say what was done with photos that were in use when teaching was interrupted,
            and which files lie beside the class folders.
    """

    home: AnyNamePath
    inbox: AnyNamePath
    taught: tuple[TaughtClass, ...] = ()
    waiting: tuple[WaitingClass, ...] = ()
    notes: tuple[str, ...] = ()
