"""Finds out whether a trained classifier expects another preprocessing than the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..learning.discriminant import Labels
from ..learning.running import head_of
from ..model.network import Network
from ..photos.photo_set import PhotoSet, PixelCache
from ..photos.pixels import Pixels
from ..photos.preprocessing import Preprocessing
from ..records import ProgressCallback, StepReporter
from .labels import fits_best_order

_GOOD = 0.95  # accuracy from which no other preprocessing is tried
_CLEARLY_BETTER = 0.1  # smallest gain in accuracy
_DEVIATIONS = 4  # smallest gain over chance, in standard deviations
_PHOTOS, _PHOTOS_PER_CLASS = 256, 8  # as many of each class as there is room for, and no fewer than these
_HALF, _BY_CHANCE = 0.5, 1.5  # the fewer classes, the more photos must fit in another order of the classes
_BATCH_SIZE = 32
_SHRINK = 256 / 224  # the usual ratio of the short side to the crop
_OF_PIXELS_TO_255 = 1 / 255
_Triple = tuple[float, float, float]
_IMAGENET: tuple[_Triple, _Triple] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_USUAL: tuple[tuple[_Triple, _Triple], ...] = (
    _IMAGENET,
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0.0, 0.0, 0.0), (_OF_PIXELS_TO_255,) * 3),
    (_IMAGENET[0], (_OF_PIXELS_TO_255,) * 3),
)


class _Way(NamedTuple):
    """Describes a way to prepare photos; with `is_bgr`, mean and std belong to red, green and blue anyway."""

    preprocessing: Preprocessing
    is_bgr: bool = False


def check_preprocessing(
    network: Network, photos: PhotoSet, predictions: Labels, labels: Labels, on_progress: ProgressCallback
) -> None:
    """Refuses a preprocessing if the classifier recognises clearly more of its photos with another usual one.

    The order of the classes need not be right, unless there are so few classes that some order of theirs fits
    anything. Nothing is tried if the classifier recognises nearly all photos, because nothing could be
    gained.

    Args:
        network: Trained network in eval mode.
        photos: Photos that the network learnt from.
        predictions: Row with the highest logit for each photo [M].
        labels: Row of each photo's class in the order that the settings say [M].
        on_progress: Function that is called before each photo.

    Raises:
        ConfigError: Another preprocessing is clearly better; the message names it.
    """
    classes = network.classes
    if fits_best_order(predictions, labels, classes).mean() >= _GOOD:
        return
    sample = replace(photos, photos=[photos.photos[i] for i in _sample(np.array(photos.labels))])
    rows = np.array(sample.labels, dtype=np.int64)
    ways = [_Way(photos.preprocessing), *_other_ways(photos.preprocessing)]
    report = StepReporter("evaluate", len(ways) * len(rows), on_progress)
    tried = [(way, _predictions(network, sample, way, report)) for way in ways]
    given = fits_best_order(tried[0][1], rows, classes)
    others = [(way, _right(found, rows, classes)) for way, found in tried[1:]]
    way, right = max(others, key=lambda pair: int(pair[1].sum()))
    gained, lost = int((right & ~given).sum()), int((given & ~right).sum())
    if gained - lost > max(_DEVIATIONS * np.sqrt(gained + lost), _CLEARLY_BETTER * len(rows)):
        raise ConfigError(
            f"the classifier recognises {given.mean():.0%} of its photos as they are prepared now, but "
            f"{right.mean():.0%} if {_described(way, photos.preprocessing)}. Check how they were prepared "
            "when it was trained"
        )


def _sample(labels: Labels) -> list[int]:
    """Chooses photos evenly from some classes, so that no order of rows fits them by chance."""
    present = np.unique(labels)
    chosen = present[:: max(1, -(-len(present) * _PHOTOS_PER_CLASS // _PHOTOS))]
    of_each = max(_PHOTOS_PER_CLASS, _PHOTOS // len(chosen))
    return [int(i) for label in chosen for i in np.flatnonzero(labels == label)[:of_each]]


def _other_ways(given: Preprocessing) -> Iterator[_Way]:
    """Yields the usual ways to prepare photos that differ from the given one."""
    statistics = ((given.mean, given.std), *_USUAL)
    for is_bgr in (False, True):
        for mean, std in statistics:
            other = given.model_copy(update={"mean": mean, "std": std})
            if is_bgr or other != given:
                yield _Way(other, is_bgr)
    size = given.image_size
    other_side = round(size * _SHRINK) if given.resize_size == size else size
    yield _Way(given.model_copy(update={"resize_size": other_side}))


def _right(predictions: Labels, rows: Labels, classes: int) -> NDArray[np.bool_]:
    """Tells which photos are recognised, in the order that fits best unless that may be by chance."""
    in_best_order = fits_best_order(predictions, rows, classes)
    is_credible = in_best_order.mean() > _HALF + _BY_CHANCE / len(np.unique(rows))
    return in_best_order if is_credible else predictions == rows


def _predictions(network: Network, photos: PhotoSet, way: _Way, report: StepReporter) -> Labels:
    """Predicts the row of each photo if the photos are prepared in a certain way."""
    if way.preprocessing.resize_size != photos.preprocessing.resize_size:
        photos = replace(photos, preprocessing=way.preprocessing, cache=PixelCache(0))
    kept, head = network.preprocessing, head_of(network)
    network.preprocessing = way.preprocessing
    try:
        found = [
            _predict(network, photos.load(part, None, report), way) for part in _parts(len(photos.photos))
        ]
    finally:
        network.preprocessing = kept
    with np.errstate(all="ignore"):  # pixels up to 255 may be too large for a network
        rows: Labels = head.logits(np.concatenate(found)).argmax(1)
    return rows


def _parts(count: int) -> list[range]:
    return [range(first, min(first + _BATCH_SIZE, count)) for first in range(0, count, _BATCH_SIZE)]


def _predict(network: Network, pixels: Pixels, way: _Way) -> NDArray[np.float64]:
    """Computes the head's inputs; for blue, green, red, mean and std move with their colours."""
    if way.is_bgr:
        mean, std = way.preprocessing.mean[::-1], way.preprocessing.std[::-1]
        network.preprocessing = way.preprocessing.model_copy(update={"mean": mean, "std": std})
        pixels = np.ascontiguousarray(pixels[..., ::-1])
    return network.run(pixels, keep_maps=False)[0].astype(np.float64)


def _described(way: _Way, given: Preprocessing) -> str:
    """Says in words and options how photos are prepared in another way."""
    words, chosen = [], way.preprocessing
    if (chosen.mean, chosen.std) != (given.mean, given.std):
        words.append(f"they are prepared with --mean {_numbers(chosen.mean)} --std {_numbers(chosen.std)}")
    if chosen.resize_size != given.resize_size:
        words.append(f"they are prepared with --resize-size {chosen.resize_size}")
    if way.is_bgr:
        words.append(
            "their colours are in the order blue, green, red (lwm-edge's are red, green, blue, so reorder "
            "the inputs of the first convolution in the checkpoint: weight = weight[:, [2, 1, 0]])"
        )
    return " and ".join(words)


def _numbers(values: _Triple) -> str:
    return " ".join(f"{value:.6g}" for value in values)
