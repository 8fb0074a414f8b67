"""Finds out which class each row of a trained head stands for, and whether the photos agree."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import inspection
from ..errors import ConfigError, PhotosError, first_line, shortened
from ..learning.discriminant import Labels
from ..photos.class_names import class_name_problem, fold_class_name, normalise_class_name

_MAX_BYTES = 8 * 1024**2
_CLEARLY_BETTER = 0.3  # smallest gain in the mean accuracy of the classes that are moved
_DEVIATIONS = 4  # smallest gain over chance, in standard deviations; many orders are tried, so 2 is too few
_LISTED = 20


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads the names of a head's rows, one per line, in their order.

    Raises:
        ConfigError: The file cannot be read or holds no names, or some of its names cannot be class names or
            occur twice; the first few of these are listed.
    """
    try:
        read = inspection.read_regular(path, _MAX_BYTES + 1)
        if len(read) > _MAX_BYTES:
            raise ConfigError(
                f"{path} is longer than {_MAX_BYTES // 1024**2} MiB, so it is not a list of labels"
            )
        content = read.decode("utf-8-sig")
    except OSError as error:
        problem = error.strerror or first_line(error)
        raise ConfigError(f"{path} cannot be read ({problem}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} cannot be read as a list of labels ({first_line(error)}); save it as UTF-8"
        ) from None
    if "\0" in content:
        raise ConfigError(f"{path} cannot be read as a list of labels (it has NUL bytes); save it as UTF-8")
    names = tuple(normalise_class_name(line.strip()) for line in content.splitlines() if line.strip())
    problems = [f"{name[:80]!r} {why}" for name in names if (why := class_name_problem(name))]
    problems += _same_names(names)
    if not names:
        problems = ["it is empty"]
    if problems:
        raise ConfigError(
            f"{path} is not a list of class names; it must have a different name on each line, in the order "
            "of the head's rows, and nothing else",
            shortened(problems, _LISTED),
        )
    return names


def _same_names(names: Sequence[str]) -> list[str]:
    """Says which names occur more than once, in whatever spelling."""
    spelt: dict[str, list[str]] = {}
    for name in names:
        spelt.setdefault(fold_class_name(name), []).append(name)
    return [
        f"{group[0]!r} is listed {len(group)} times"
        if len(set(group)) == 1
        else f"{' and '.join(repr(name) for name in dict.fromkeys(group))} are the same class name"
        for group in spelt.values()
        if len(group) > 1
    ]


def match_folders(
    folder: Path, found: Sequence[str], labels: Sequence[str], where: str, *, all_needed: bool = True
) -> list[int]:
    """Finds the label of each class folder; case and Unicode form make no difference.

    Args:
        folder: Path of the folder that holds the class folders.
        found: Names of the class folders.
        labels: Names of the classes, in order.
        where: Path that the labels come from, for error messages.
        all_needed: Whether each label needs a folder.

    Returns:
        For each folder, the index of its label.

    Raises:
        ConfigError: Some labels have no folder, or some folders have no label; the first few are listed.
    """
    index = {fold_class_name(label): i for i, label in enumerate(labels)}
    known = {fold_class_name(name) for name in found}
    missing = [label for label in labels if fold_class_name(label) not in known] if all_needed else []
    problems = [f"{label} has no folder of photos" for label in missing]
    problems += [
        f"the folder {name} belongs to none of these classes"
        for name in found
        if fold_class_name(name) not in index
    ]
    if problems:
        advice = "rename the folders"
        if Path(where).is_file():
            advice += ", or correct the list, which must have one class name on each line and nothing else"
        raise ConfigError(
            f"the folders in {folder} do not match the classes in {where}; {advice}",
            shortened(problems, _LISTED),
        )
    return [index[fold_class_name(name)] for name in found]


def check_order(predictions: Labels, labels: Labels, class_names: Sequence[str]) -> None:
    """Refuses an order of the head's rows that the photos contradict, even if only for two classes.

    Args:
        predictions: Row with the highest logit for each photo [M].
        labels: Row that belongs to the photo's class in the given order [M].
        class_names: Name of the class that each row stands for in the given order.

    Raises:
        ConfigError: Another order, which the message gives, clearly fits better for the classes that it
            moves, or the classifier is no better than chance.
    """
    classes = len(class_names)
    right = float(np.bincount(labels[predictions == labels], minlength=classes) @ _per_photo(labels, classes))
    right /= classes
    if (row_of_class := _better_rows(predictions, labels, classes)) is not None:
        order = ", ".join(class_names[index] for index in np.argsort(row_of_class))
        raise ConfigError(
            f"the photos contradict the order of the classes: in that order, the classifier recognises "
            f"{right:.0%} of the photos. Pass --labels FILE with these names, one per line, in this order: "
            f"{order}"
        )
    if classes > 1 and right <= 1 / classes:
        raise ConfigError(
            f"the classifier recognises {right:.0%} of these photos, no better than chance. Check the order "
            "of its labels (--labels), its preprocessing (--mean, --std, --image-size, --resize-size, "
            "--preprocessing-of) and that these are photos of its classes"
        )


def check_folder_names(folder: Path, predictions: Labels, labels: Labels, class_names: Sequence[str]) -> None:
    """Refuses unseen photos, or photos for the statistics, if class folders seem to be swapped.

    Args:
        folder: Path of the folder that holds the class folders.
        predictions: Row with the highest logit for each photo [M].
        labels: Row of the class that the photo's folder is named after [M].
        class_names: Name of the class that each row stands for.

    Raises:
        PhotosError: The classifier, whose order of rows is known to be right, contradicts some folder names.
    """
    row_of_class = _better_rows(predictions, labels, len(class_names))
    if row_of_class is not None:
        raise PhotosError(
            f"the photos in {folder} contradict the names of its folders, which seem to be mixed up; "
            "rename the folders",
            shortened(
                [
                    f"the photos in {class_names[label]} look like {class_names[row]}"
                    for label, row in enumerate(row_of_class)
                    if row != label and (labels == label).any()
                ],
                _LISTED,
            ),
        )


def fits_best_order(predictions: Labels, labels: Labels, classes: int) -> NDArray[np.bool_]:
    """Tells for each photo whether it is recognised if the head's rows are in the order that fits best."""
    pairs, counts = np.unique(np.stack([labels, predictions], 1), axis=0, return_counts=True)
    row_of_class = _best_rows(pairs, counts * _per_photo(labels, classes)[pairs[:, 0]], classes)
    fits: NDArray[np.bool_] = predictions == row_of_class[labels]
    return fits


def _better_rows(predictions: Labels, labels: Labels, classes: int) -> Labels | None:
    """Finds the row of each class in an order that clearly fits better; returns None if no order does."""
    per_photo = _per_photo(labels, classes)
    pairs, counts = np.unique(np.stack([labels, predictions], 1), axis=0, return_counts=True)
    row_of_class = _best_rows(pairs, counts * per_photo[pairs[:, 0]], classes)
    moved = row_of_class != np.arange(classes)
    as_moved, as_given = pairs[:, 1] == row_of_class[pairs[:, 0]], pairs[:, 1] == pairs[:, 0]
    # The gain is measured by class as well as by photo. Suppose that a large class is mistaken for a small
    # one, but not the other way round: swapping the two would help most photos, yet it would be wrong.
    if_moved, now = (
        np.bincount(pairs[which, 0], counts[which], classes) * per_photo for which in (as_moved, as_given)
    )
    of_moved = moved[pairs[:, 0]]
    gained = counts[of_moved & as_moved].sum() - counts[of_moved & as_given].sum()
    differing = counts[of_moved & (as_moved | as_given)].sum()
    is_clear = moved.any() and (if_moved - now)[moved].mean() > _CLEARLY_BETTER
    return row_of_class if is_clear and gained > _DEVIATIONS * np.sqrt(differing) else None


def _per_photo(labels: Labels, classes: int) -> NDArray[np.float64]:
    """Returns 1 / number of photos for each class [classes]; empty classes count as one photo."""
    shares: NDArray[np.float64] = 1 / np.bincount(labels, minlength=classes).clip(1)
    return shares


def _best_rows(pairs: Labels, shares: NDArray[np.float64], classes: int) -> Labels:
    """Gives each class a row, beginning with the clearest pairs of class and row.

    A class for which no pair is left keeps its own row if that is free, and otherwise gets any free row.

    Args:
        pairs: Class and row of each pair that occurs [P, 2].
        shares: Share of the class's photos for which the head ranks that row highest [P].
        classes: Number of classes.
    """
    rows, is_free = np.full(classes, -1, np.int64), np.ones(classes, bool)
    for label, row in pairs[np.lexsort((pairs[:, 0] != pairs[:, 1], -shares))]:
        if rows[label] < 0 and is_free[row]:
            rows[label], is_free[row] = row, False
    own = np.flatnonzero((rows < 0) & is_free)
    rows[own], is_free[own] = own, False
    rows[rows < 0] = np.flatnonzero(is_free)
    return rows
