"""Defines the reports of `check_photos`."""

from __future__ import annotations

from typing import Literal

from ..records import AnyNamePath, Report

FaultKind = Literal["mislabelled", "black", "white", "blurred", "tiny", "near-duplicate"]


class Fault(Report):
    """Says what is probably wrong with a photo.

    Attributes:
        kind: Kind of the fault.
        reason: Description of what is wrong, in words.
        weight: Weight for ranking, from 0 to 1.
    """

    kind: FaultKind
    reason: str
    weight: float


class SuspectPhoto(Report):
    """Describes a photo that an owner should look at.

    Attributes:
        photo: Path of the photo.
        class_name: Name of the class that the owner put the photo in.
        faults: Faults, the worst first.
        like: Near-duplicate to show beside this photo; None if there is none.
    """

    photo: AnyNamePath
    class_name: str
    faults: tuple[Fault, ...]
    like: AnyNamePath | None = None

    @property
    def weight(self) -> float:
        """Returns the weight of all faults together."""
        return sum(fault.weight for fault in self.faults)


class AlikeClasses(Report):
    """Says that photos of one class are often mistaken for another.

    Attributes:
        class_name: Name of the class.
        other: Name of the class that its photos are mistaken for.
        taken: Number of its photos that are mistaken for the other class.
        photos: Total number of its photos.
        is_known: Whether the model knows the other class, and the folder has no photos of it.
    """

    class_name: str
    other: str
    taken: int
    photos: int
    is_known: bool


class CheckReport(Report):
    """Reports what `check_photos` found; nothing was copied or changed.

    Attributes:
        folder: Folder that was checked.
        class_photos: Number of usable photos of each class.
        suspects: Photos to look at, the worst first.
        alike: Classes that look alike, the most alike first.
        skipped: Files that cannot be used at all, each with the reason.
        notes: Sentences that say which checks were left out, and why.
    """

    folder: AnyNamePath
    class_photos: dict[str, int]
    suspects: tuple[SuspectPhoto, ...]
    alike: tuple[AlikeClasses, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]
