"""Runs a network on a vendor's photos, which can be too many for one process or for memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple

import numpy as np

from ..learning.batches import chunks
from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import Labels
from ..learning.running import Observation, observe
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback
from .ranks import Ranks

BATCH_SIZE = 64  # photos that are processed at once when nothing is trained
PHOTOS_AT_ONCE = 65_536  # photos whose head inputs are in memory at once; at 2048 inputs, a gigabyte


class Learnt(NamedTuple):
    """Holds what was learnt from photos; a photo counts once for each epoch that it was augmented for.

    Attributes:
        statistics: Statistics of the photos; complete only in the first process.
        predictions: Prediction for each photo by the network's head [M], in the order of `labels`.
        labels: class_index of each photo [M].
    """

    statistics: ClassStatistics
    predictions: Labels
    labels: Labels


def observe_all(
    network: Network, photos: PhotoSet, ranks: Ranks, on_progress: ProgressCallback
) -> Observation:
    """Runs a network once on each photo, and keeps the head's inputs.

    Args:
        network: Network in eval mode.
        photos: Photos to run the network on.
        ranks: Processes, each of which takes a share of the photos.
        on_progress: Function that is called before each photo.

    Returns:
        The observation of all photos, in their order; it is empty in all processes except the first.
    """
    own, inputs = ranks.photos(photos), network.head.in_features
    mine = np.empty((0, inputs))
    if own.photos:
        mine = observe(network, own, BATCH_SIZE, on_progress).head_inputs
    shares = ranks.gather_in_first(mine)
    if ranks.size == 1:
        return Observation(mine)
    rows = np.empty((sum(map(len, shares)), inputs))
    for rank, share in enumerate(shares):
        rows[rank :: ranks.size] = share
    return Observation(rows)


def learn_all(
    network: Network,
    photos: PhotoSet,
    capacity: int,
    ranks: Ranks,
    on_progress: ProgressCallback,
    epochs: Sequence[int | None] = (None,),
) -> Learnt:
    """Makes statistics of photos, and predicts the class of each photo; the head's inputs are not kept.

    Args:
        network: Network in eval mode.
        photos: Photos to learn from.
        capacity: Maximum number of classes.
        ranks: Processes, each of which takes a share of the photos.
        on_progress: Function that is called before each photo.
        epochs: Epochs to augment the photos for; each photo is counted once per epoch. An epoch of None
            leaves the photos as they are.
    """
    own = ranks.photos(photos)
    empty = ClassStatistics.empty(capacity, network.head.in_features, network.level_values)
    parts, predicted, labelled = empty, [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for piece in chunks(len(own.photos), PHOTOS_AT_ONCE // len(epochs)):
        part = replace(own, photos=own.photos[piece])
        seen = [observe(network, part, BATCH_SIZE, on_progress, epoch=n).head_inputs for n in epochs]
        observed = Observation(np.concatenate(seen) if len(seen) > 1 else seen[0])
        labels = np.tile(np.array(part.labels, dtype=np.int64), len(epochs))
        statistics = empty.with_photos(observed.head_inputs, labels)
        parts = statistics if parts is empty else parts.added(statistics)
        predicted.append(observed.logits(network).argmax(1))
        labelled.append(labels)
    shares = ranks.gather((np.concatenate(predicted), np.concatenate(labelled)))
    statistics = reduce(ClassStatistics.added, ranks.gather_in_first(parts) or [parts])
    predictions, labels = (np.concatenate(values) for values in zip(*shares, strict=True))
    return Learnt(statistics, predictions, labels)
