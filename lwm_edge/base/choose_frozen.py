"""Decides whether pretrained weights are trained further; classes that training does not see are the judges.

Training on the vendor's classes suits a network to pictures of their kind, but it can also lose what would
tell other classes apart. With many photos of each class, nearly all photos are recognised either way, so that
does not show. Therefore half of the classes stand in for new ones: the network is trained on the others, and
heads are solved that know only a few photos of each class of the first half. Then the halves change places.
Training on half of the classes gains less than training on all of them, so the weights are left as they are
only if that is clearly better.

To train a pretrained network on the first classes and to freeze it from then on is called first-session
adaptation (Panos et al. 2023, "First Session Adaptation: A Strong Replay-Free Baseline for Class-Incremental
Learning").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np

from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Features, Labels
from ..model.manifest import Levels
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import Progress, ProgressCallback
from .choose_levels import possible_levels
from .config import BaseConfig
from .observing import observe_all
from .ranks import Ranks
from .reports import FrozenReport

MAX_CLASSES, MAX_PHOTOS = 40, 50  # that take part in the trial: classes, and photos of each of them
_MIN_CLASSES = 4  # so that each half has two
_FEW, _DRAWS = 5, 10  # photos of a class that stands in for a new one, and how often they are drawn


def choose_frozen_blocks(
    network: Network,
    photos: PhotoSet,
    config: BaseConfig,
    train: Callable[[PhotoSet, ProgressCallback], Network],
    ranks: Ranks,
    on_progress: ProgressCallback,
) -> FrozenReport:
    """Chooses how many of a network's first blocks stay as they are: all or none, unless the settings say.

    The photos decide only about pretrained weights, and only if at least four classes have several photos.
    With rotations, which nothing but training can learn from, no block is frozen.

    Args:
        network: Network before its training, in eval mode.
        photos: Photos that the network is to learn from.
        config: Settings of the base.
        train: Function that trains another such network on photos of some of the classes, and returns it.
        ranks: Processes that train together.
        on_progress: Function that is called at every step.
    """
    blocks, known = len(network.blocks()), [c for c, n in Counter(photos.labels).items() if n > 1]
    is_open = config.frozen_blocks is None and config.weights is not None and not config.rotations
    if not is_open or len(known) < _MIN_CLASSES:
        return FrozenReport(frozen=config.frozen_blocks or 0, blocks=blocks, accuracy={})
    report = _as_trial(on_progress)
    judges = _selection(photos, sorted(known)[:: -(-len(known) // MAX_CLASSES)], MAX_PHOTOS)
    labels = np.array(judges.labels)
    levels = next(iter(possible_levels(network, config.grid)), None)
    untouched = _head_inputs(network.student(trains=False), levels, judges, ranks, report)
    level_values = levels.values if levels else 0
    accuracy = {"frozen": np.zeros(labels.max() + 1), "trained": np.zeros(labels.max() + 1)}
    for stand_ins in np.array_split(np.random.default_rng(config.seed).permutation(labels.max() + 1), 2):
        others = np.setdiff1d(labels, stand_ins)
        trained = train(_selection(judges, others.tolist()), report)
        inputs = {"frozen": untouched, "trained": _head_inputs(trained, levels, judges, ranks, report)}
        for name, values in accuracy.items():
            judge = partial(few_photos_accuracy, inputs[name], labels, stand_ins, level_values)
            values[stand_ins] = ranks.by_first(judge)
    means = {name: float(values.mean()) for name, values in accuracy.items()}
    lost = accuracy["frozen"] - accuracy["trained"]
    is_worse = lost.mean() > lost.std(ddof=1) / np.sqrt(len(lost))
    return FrozenReport(frozen=blocks if is_worse else 0, blocks=blocks, accuracy=means)


def few_photos_accuracy(
    head_inputs: Features, labels: Labels, stand_ins: Labels, level_values: int = 0
) -> Features:
    """Measures how well a head recognises classes of which it has learnt only a few photos.

    The other classes, of which the head knows all photos, compete with them. A few photos of each class are
    drawn at random, several times; a class with fewer than ten photos gives half of them.

    Args:
        head_inputs: The head's inputs for each photo [M, inputs].
        labels: class_index of each photo [M].
        stand_ins: class_index of each class that the head knows only a few photos of.
        level_values: Number of inputs, the first ones, that come from earlier blocks.

    Returns:
        Share of the other photos of each of these classes that is recognised, averaged over the draws.
    """
    generator, classes, recognised = np.random.default_rng(0), int(labels.max()) + 1, []
    for _ in range(_DRAWS):
        is_learnt = ~np.isin(labels, stand_ins)
        for label in stand_ins:
            of_class = generator.permutation(np.flatnonzero(labels == label))
            is_learnt[of_class[: min(_FEW, len(of_class) // 2)]] = True
        statistics = ClassStatistics.empty(classes, head_inputs.shape[1], level_values)
        statistics.learn(head_inputs[is_learnt], labels[is_learnt])
        head = statistics.discriminant(classes).head
        is_right = head.logits(head_inputs[~is_learnt]).argmax(1) == labels[~is_learnt]
        recognised.append([is_right[labels[~is_learnt] == label].mean() for label in stand_ins])
    accuracy: Features = np.mean(recognised, axis=0)
    return accuracy


def _selection(photos: PhotoSet, classes: Iterable[int], limit: int | None = None) -> PhotoSet:
    """Selects the photos of some classes, up to a number of each, and counts these classes from 0."""
    selected = []
    for index, label in enumerate(classes):
        of_class = [photo for photo in photos.photos if photo.label == label]
        every = -(-len(of_class) // limit) if limit else 1
        selected += [replace(photo, label=index) for photo in of_class[::every]]
    return replace(photos, photos=selected)


def _head_inputs(
    network: Network, levels: Levels | None, photos: PhotoSet, ranks: Ranks, on_progress: ProgressCallback
) -> Features:
    """Returns what a head reads of each photo [M, inputs], given a network whose head reads no levels yet."""
    if levels:
        network.read_levels(levels)
    return observe_all(network, photos, ranks, on_progress).head_inputs


def _as_trial(on_progress: ProgressCallback) -> ProgressCallback:
    """Returns a callback that reports every step as one of a trial."""

    def report(progress: Progress) -> None:
        """Reports a step of the trial."""
        on_progress(progress.model_copy(update={"phase": "trial"}))

    return report
