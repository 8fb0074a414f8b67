"""Judges an increment in words for owners: which classes are recognised, look alike, or need more photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..learning.discriminant import Features, Labels
from ..learning.near_copies import NearCopies
from .reports import NewClassReport

_TOO_FEW = 5  # photos; a figure based on fewer says next to nothing
_RARELY_RECOGNISED_SHARE = 0.5  # share of photos; the owner is warned of classes recognised less often
LOOKALIKE_SHARE = 0.25  # share of photos mistaken for one other class
_UNKNOWN_SHARE = 0.25  # share of a new class's photos that would be called unknown
_UNEQUAL_RATIO = 10  # ratio of the numbers of photos of two classes
_COPIES_SHARE = 0.5  # share of a class's photos that are nearly the same as an earlier one
_FEW_DIFFERENT = 10  # photos; if this many differ, a class is varied enough, however many copies it has


def judge_new_classes(
    predictions: NDArray[np.int64], labels: Labels, class_names: Sequence[str], judged: Iterable[int]
) -> tuple[NewClassReport, ...]:
    """Counts how many photos of each class were recognised, and what the others were mostly mistaken for.

    Args:
        predictions: Predicted class_index of each photo [M], by a head that had not learnt from that photo.
        labels: class_index of each photo [M].
        class_names: Name of every class.
        judged: class_index of each class to judge.
    """
    reports = []
    for label in judged:
        found = predictions[labels == label]
        others = np.bincount(found[found != label], minlength=len(class_names))
        taken_for = int(others.argmax())
        reports.append(
            NewClassReport(
                class_name=class_names[label],
                photos=len(found),
                right=int((found == label).sum()),
                taken_for=class_names[taken_for] if others.any() else None,
                photos_taken=int(others[taken_for]),
            )
        )
    return tuple(reports)


def mean_share_right(judged: Sequence[NewClassReport]) -> float:
    """Averages the classes' shares of recognised photos, each moved towards 0.5, more so with few photos."""
    return float(np.mean([(report.right + 0.5) / (report.photos + 1) for report in judged]))


def hopeless_classes(judged: Sequence[NewClassReport], classes: int) -> list[str]:
    """Describes the judged classes that are recognised no better than chance, if enough photos show it."""
    return [
        f"{report.class_name}: {report.right} of {report.photos} photos recognised, no better than chance"
        + (f"; {report.photos_taken} were mistaken for {report.taken_for}" if _is_lookalike(report) else "")
        for report in judged
        if report.photos >= _TOO_FEW and report.right <= report.photos / classes
    ]


def _is_lookalike(report: NewClassReport) -> bool:
    """Returns whether many photos of a class were mistaken for one other class."""
    return report.taken_for is not None and report.photos_taken >= max(2, LOOKALIKE_SHARE * report.photos)


def warn_about_new_classes(judged: Sequence[NewClassReport], known: Sequence[str]) -> Iterator[str]:
    """Warns of classes that were hardly recognised, look like another one, or had too few photos to judge.

    Args:
        judged: Report on each class that is being taught.
        known: Names of the classes that the model knew before.
    """
    for report in judged:
        name, photos = report.class_name, report.photos
        if photos < _TOO_FEW:
            yield (
                f"{name} was recognised in {report.right} of {photos} photos, which are too few to judge a "
                "class by; check it with lwm-edge evaluate on other photos"
            )
        elif report.right < _RARELY_RECOGNISED_SHARE * photos:
            yield (
                f"{name} was recognised in only {report.right} of {photos} photos; give more or clearer ones"
            )
        if _is_lookalike(report):
            kind = "which the model knew already" if report.taken_for in known else "which is new too"
            yield (
                f"{report.photos_taken} of {photos} photos of {name} were mistaken for {report.taken_for}, "
                f"{kind}; if both classes are the same thing, remove one of them"
            )


def warn_about_near_copies(
    class_names: Sequence[str], labels: Sequence[int], near_copies: Mapping[int, NearCopies]
) -> Iterator[str]:
    """Warns of classes that were learnt from few different photos, however many photos they have.

    Args:
        class_names: Names of all classes.
        labels: class_index of each photo that the model has learnt from.
        near_copies: Numbers of near-copies and of different photos of each class, by class_index.
    """
    for label, (copies, different) in near_copies.items():
        photos = labels.count(label)
        if copies > _COPIES_SHARE * photos and different < _FEW_DIFFERENT:
            yield (
                f"{copies} of {photos} photos of {class_names[label]} are nearly the same as another one, so "
                "the model may know this class only from one side, in one light or in one place, even if it "
                "recognises these photos: take photos that differ, and add them with lwm-edge add-photos"
            )


def warn_about_unknown(kept: Mapping[str, tuple[int, int]], new: Sequence[str]) -> list[str]:
    """Warns of each new class with many photos that would be called unknown.

    Args:
        kept: For each class, the number of photos that would not be called unknown, and the total number of
            photos.
        new: Names of the new classes.
    """
    return [
        f"{photos - count} of {photos} photos of {name} would be called unknown; give more photos of this "
        "class, or calibrate (lwm-edge calibrate)"
        for name, (count, photos) in kept.items()
        if name in new and photos - count > _UNKNOWN_SHARE * photos
    ]


def warn_about_unequal_classes(class_names: Sequence[str], counts: Features) -> list[str]:
    """Warns if some classes have many times as many photos as others.

    Args:
        class_names: Names of all classes.
        counts: Number of photos of each class [capacity].
    """
    known = counts[: len(class_names)]
    few, many = int(np.argmin(known)), int(np.argmax(known))
    if known[few] and known[many] < _UNEQUAL_RATIO * known[few]:
        return []
    return [
        f"{class_names[few]} has {known[few]:.0f} photos and {class_names[many]} {known[many]:.0f}; a class "
        "with far fewer photos than another is recognised less well"
    ]
