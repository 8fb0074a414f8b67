"""Examines a trained network on its photos: decides what ships, and what the vendor is warned about."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..learning.class_statistics import ClassStatistics
from ..learning.running import Observation
from ..model.evaluation import EvaluationReport, evaluate_predictions
from ..model.network import Network
from ..records import ProgressCallback, StepReporter
from .copies import COPIES, varied_photos
from .material import Material
from .measure import BY_HEART, HEADS, NEARLY_ALL, Settled, settle
from .observing import learn_all, observe_all
from .ranks import Ranks
from .reports import StatisticsReport

_LISTED = 10
_MOST = 0.5  # share of a class's photos that are taken for one other class
_POOR = 0.5  # accuracy below which the vendor is warned
_WORSE = 0.05  # how far a solved head's accuracy may lie below the trained one's without a warning


class Examined(NamedTuple):
    """Holds the results of running a network on its photos.

    Attributes:
        of_learnt: Accuracy on the photos that the network learnt from.
        statistics: Statistics of the photos that were given for this purpose, by default those that the
            network learnt from.
        are_copies: Whether the statistics were made from varied copies of the photos that the network learnt
            from.
        unseen: Observation of the photos that the network never saw; None if there are none.
    """

    of_learnt: EvaluationReport
    statistics: ClassStatistics
    are_copies: bool
    unseen: Observation | None


def examine(
    network: Network,
    material: Material,
    capacity: int,
    ranks: Ranks,
    on_progress: ProgressCallback,
    *,
    may_copy: bool,
) -> Examined:
    """Runs a network on the photos that it learnt from, those that it never saw, and those for statistics.

    Args:
        network: Network in eval mode.
        material: Photos and class names.
        capacity: Maximum number of classes.
        ranks: Processes, each of which examines a share of the photos.
        on_progress: Function that is called at every step.
        may_copy: Whether the statistics can be made from varied copies of the photos. A network that was
            trained here has usually learnt varied photos already, so copies would show little that is new.
    """
    names, unseen = material.class_names, material.unseen
    learnt = learn_all(network, material.learnt, capacity, ranks, on_progress)
    by_unseen = observe_all(network, unseen, ranks, on_progress) if unseen.photos else None
    of_learnt = evaluate_predictions(learnt.predictions, learnt.labels, names, len(names))
    given, are_copies = learnt.statistics, False
    if material.for_statistics.photos:
        given = learn_all(network, material.for_statistics, capacity, ranks, on_progress).statistics
    elif may_copy and not unseen.photos and of_learnt.accuracy >= NEARLY_ALL:
        varied = varied_photos(material.learnt)
        copies = learn_all(network, varied, capacity, ranks, on_progress, epochs=range(COPIES))
        right = evaluate_predictions(copies.predictions, copies.labels, names, len(names))
        if of_learnt.accuracy - right.accuracy > BY_HEART:
            given, are_copies = copies.statistics, True
            given.counts /= COPIES  # copies show how photos vary, but are not additional photos
            given.photos /= COPIES
    return Examined(of_learnt, given, are_copies, by_unseen)


def decide(
    network: Network, examined: Examined, material: Material, on_progress: ProgressCallback
) -> tuple[Settled, EvaluationReport | None]:
    """Decides which statistics and which head ship, and gives the network that head.

    Returns:
        The decision, and the accuracy of that head on the unseen photos, or None if there are none.
    """
    names, labels, unseen = material.class_names, material.unseen_labels, examined.unseen
    settled = settle(
        examined.statistics,
        unseen,
        labels,
        unseen.logits(network) if unseen else None,
        examined.of_learnt.accuracy,
        len(names),
        StepReporter("evaluate", HEADS, on_progress),
        are_copies=examined.are_copies,
    )
    of_unseen = None
    if len(labels):
        of_unseen = evaluate_predictions(settled.predictions, labels, names, len(names))
    if settled.report.head == "solved":
        network.set_head(*(torch.from_numpy(rows) for rows in settled.statistics.solve_head(len(names))))
    return settled, of_unseen


def _taken_for_another(learnt: EvaluationReport) -> list[str]:
    """Returns warnings about classes of which most photos are taken for one other class.

    So few photos may be given that such a class does not prove that the order of the classes is wrong.
    """
    return [
        f"the network takes {found.photos} of {learnt.photos_per_class[found.actual]} photos of "
        f"{found.actual} for {found.predicted}, although it learnt from them; check the order of its labels, "
        "and what is in the two folders"
        for found in learnt.confusions
        if found.photos > _MOST * learnt.photos_per_class[found.actual]
    ]


def vendor_warnings(
    learnt: EvaluationReport,
    unseen: EvaluationReport | None,
    choice: StatisticsReport,
    class_names: tuple[str, ...],
) -> list[str]:
    """Returns warnings about the faults of a base, and about what cannot be known of it.

    Args:
        learnt: Accuracy of the trained head on the photos that it learnt from.
        unseen: Accuracy of the head that ships on the unseen photos; None if there are none.
        choice: Choice of statistics and head.
        class_names: Names of all classes.
    """
    trained = choice.accuracy.get("trained", learnt.accuracy)
    warnings = []
    if unseen is None:
        warnings.append(
            "no unseen photos were given, so the network's accuracy on new photos is not known, and devices "
            "cannot estimate how much their models still know; pass such photos to pack with "
            "--unseen-photos, or let build-base hold some back"
        )
    elif missing := [name for name in class_names if name not in unseen.per_class]:
        warnings.append(
            f"there are no unseen photos of {', '.join(missing[:_LISTED])}"
            f"{f' and {len(missing) - _LISTED} more' if len(missing) > _LISTED else ''}, so unseen "
            "photos decide nothing: the statistics are made without them, and the trained head ships"
        )
    of_same = [learnt.per_class[name] for name in (unseen or learnt).per_class]
    if (known := sum(of_same) / len(of_same)) - trained > BY_HEART:
        warnings.append(
            f"the network recognises {known:.0%} of the photos that it learnt from, but only "
            f"{trained:.0%} of those that it never saw: it has learnt its photos by heart. Train it on more "
            "photos, with more augmentation or for fewer epochs"
        )
    for report, whose, which in (
        (unseen, "the base", "that the network never saw"),
        (learnt, "the trained head", "that it learnt from"),
    ):
        if report and report.accuracy < _POOR:
            replaced = report is learnt and choice.head == "solved"
            outlook = (
                "" if replaced else ", and is unlikely to do any better with the classes that devices add"
            )
            warnings.append(
                f"{whose} recognises only {report.accuracy:.0%} of the photos {which}{outlook}; check the "
                "training, the preprocessing and the labels"
            )
    if choice.head == "trained":
        warnings += _taken_for_another(learnt)
    solved = choice.accuracy.get(choice.photos, trained)
    if choice.head == "trained" and trained - solved > _WORSE:
        warnings.append(
            f"the trained head recognises {trained:.0%} of the photos that the network never saw, but a head "
            f"that is solved on a device recognises only {solved:.0%}: expect that loss when the first class "
            "is added"
        )
    return warnings
