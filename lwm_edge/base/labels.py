"""Finds out which class each row of a trained head stands for, and whether the photos agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, first_line
from ..learning.class_statistics import Labels
from ..photos.class_names import class_name_problem, fold_class_name, normalise_class_name

_MAX_BYTES = 8 * 1024**2
_CLEARLY_BETTER = 0.2  # of the photos


def read_labels(path: Path) -> tuple[str, ...]:
    """Reads the names of a head's rows, one on each line, in their order.

    Raises:
        ConfigError: The file cannot be read, or some names cannot be class names; all of them are listed.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as a list of labels ({first_line(error)})") from None
    names = tuple(normalise_class_name(line.strip()) for line in content.splitlines() if line.strip())
    problems = [f"{name!r} {why}" for name in names if (why := class_name_problem(name))]
    counts = Counter(fold_class_name(name) for name in names)
    problems += [f"{name!r} is listed {count} times" for name, count in counts.items() if count > 1]
    if problems or not names:
        raise ConfigError(f"{path} is not a list of class names, one on each line", problems)
    return names


def match_folders(
    folders: Sequence[str], labels: Sequence[str], where: str, *, all_needed: bool = True
) -> list[int]:
    """Finds the label of each class folder, whatever its letters' case or Unicode form.

    Args:
        folders: Names of the class folders.
        labels: Names of the head's rows, in order.
        where: What lists these names, for errors.
        all_needed: Whether each label needs a folder.

    Returns:
        For each folder the index of its label.

    Raises:
        ConfigError: Some labels have no folder, or some folders no label; all of them are listed.
    """
    index = {fold_class_name(label): i for i, label in enumerate(labels)}
    known = {fold_class_name(name) for name in folders}
    missing = [label for label in labels if fold_class_name(label) not in known] if all_needed else []
    problems = [f"{label} has no folder of photos" for label in missing]
    problems += [f"the folder {name} is not listed" for name in folders if fold_class_name(name) not in index]
    if problems:
        raise ConfigError(f"the folders of photos are not the classes in {where}", problems)
    return [index[fold_class_name(name)] for name in folders]


def check_order(predictions: Labels, labels: Labels, class_names: Sequence[str]) -> None:
    """Refuses an order of the head's rows that the photos contradict.

    Args:
        predictions: Row that the head ranks highest for each photo [M].
        labels: Row that is said to be the photo's class [M].
        class_names: Name that is said to be that of each row.

    Raises:
        ConfigError: Another order fits clearly better, and it is named; or the classifier is no better than
            chance, and no order makes it so.
    """
    classes = len(class_names)
    counts = np.zeros((classes, classes), np.int64)  # [class, row]
    np.add.at(counts, (labels, predictions), 1)
    photos = counts.sum()
    right, row_of_class = np.trace(counts) / photos, counts.argmax(1)
    fits = len(set(row_of_class.tolist())) == classes
    if fits and counts.max(1).sum() / photos > right + _CLEARLY_BETTER:
        order = ", ".join(class_names[index] for index in np.argsort(row_of_class))
        raise ConfigError(
            f"the photos contradict the order of the classes: taken that way, the classifier recognises "
            f"{right:.0%} of them. Pass --labels FILE with these names, one on each line, in this order: "
            f"{order}"
        )
    if right <= 1 / classes:
        raise ConfigError(
            f"the classifier recognises {right:.0%} of these photos, no better than chance. Check the order "
            "of its labels (--labels), its preprocessing (--mean, --std, --image-size, --resize-size, "
            "--preprocessing-of) and that these are photos of its classes"
        )
