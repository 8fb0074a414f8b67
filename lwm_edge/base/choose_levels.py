"""Decides which earlier blocks a new base's head reads; the vendor's photos choose the grid to read them on.

The last layers have learnt these photos' classes. A head that reads the last maps is therefore accurate with
any grid, and does not show which one suits new classes. So the blocks whose maps are larger than the last
ones are judged alone: the chosen grid is the one on which their values best tell the vendor's classes apart,
or a coarser one if that is not clearly worse. Usually it is a single cell if objects can be anywhere in the
picture, and a finer one if all pictures are framed alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError
from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import FOLDS, Features, Labels
from ..learning.unseen import judge_unseen
from ..model.manifest import MAX_LEVEL_BLOCKS, Levels
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback, StepReporter, ignore_progress
from .observing import PHOTOS_AT_ONCE, observe_all
from .ranks import Ranks
from .reports import LevelsReport, TriedLevels

MAX_INPUTS = 2048  # of a head whose grid the photos choose; the inputs' covariance takes 16 MiB of the bundle
MAX_VALUES = 8192  # of levels whose grid the vendor chose; the values' covariance takes 256 MiB
GRIDS = (1, 2, 3)
FEW_CHANNELS = 256
"""If the last maps have at most this many channels, the head also reads the middle block of each map size.

The photos cannot decide on this: middle blocks help with new classes, but hardly with those that the network
has learnt. On CIFAR-100, in a network with 64 channels, they gained several points (benchmarks/README.md,
"What the head reads"). In EfficientNet-Lite0, with 1280, they gained nothing; sizes between were not tried.
"""


@torch.no_grad()
def map_shapes(network: Network) -> list[tuple[int, ...]]:
    """Returns the shape [channels, height, width] of each block's maps of one image."""
    size = network.preprocessing.image_size
    image = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=network.head.weight.device)
    maps, shapes = network.normalise(image), []
    for block in network.blocks():
        maps = block(maps)
        shapes.append(tuple(maps.shape[1:]))
    return shapes


def find_levels(network: Network, grid: int, *, more_blocks: bool = False) -> Levels | None:
    """Finds the last block of each map size except the final size; returns None if the grid does not fit.

    Args:
        network: Network without levels.
        grid: Number of cells per side.
        more_blocks: Whether to add the middle block of each map size, the final one included.
    """
    shapes = map_shapes(network)
    of_size: dict[tuple[int, ...], list[int]] = {}
    for index, (_, *sides) in enumerate(shapes):
        of_size.setdefault(tuple(sides), []).append(index)
    final = of_size.pop(shapes[-1][1:])
    if not of_size:
        return None
    blocks = {indices[-1] for indices in of_size.values()}
    if more_blocks:
        last_run = [index for index in final if index > max(blocks)]  # maps may have had this size before
        several = [indices for indices in (*of_size.values(), last_run) if len(indices) > 1]
        blocks |= {indices[min(len(indices) // 2, len(indices) - 2)] for indices in several}
    values = grid**2 * sum(shapes[index][0] for index in blocks)
    if len(blocks) > MAX_LEVEL_BLOCKS or values > MAX_VALUES:
        return None
    if min(min(shapes[index][1:]) for index in blocks) < grid:
        return None
    return Levels(blocks=tuple(sorted(blocks)), grid=grid, values=values)


def possible_levels(network: Network, grid: int | None) -> list[Levels]:
    """Lists the levels that a network could read, coarse grids first.

    Args:
        network: Network without levels.
        grid: Grid that the vendor chose; 0 means no levels. None means each of `GRIDS`, with more blocks for
            a network with few channels, if the head then has at most `MAX_INPUTS` inputs.

    Raises:
        ConfigError: The grid does not fit the network.
    """
    if grid == 0:
        return []
    if grid is None:
        channels = network.head.in_features
        more = channels <= FEW_CHANNELS
        found = (find_levels(network, g, more_blocks=more) or find_levels(network, g) for g in GRIDS)
        return [levels for levels in found if levels and levels.values <= MAX_INPUTS - channels]
    if not (levels := find_levels(network, grid)):
        raise ConfigError(
            f"grid {grid} does not fit this network: its earlier blocks have maps of fewer cells per side, "
            f"would give the head more than {MAX_VALUES} values, or have maps no larger than the last ones"
        )
    return [levels]


def choose_levels(
    network: Network,
    photos: PhotoSet,
    candidates: list[Levels],
    ranks: Ranks = Ranks(),  # noqa: B008 - it never changes
    on_progress: ProgressCallback = ignore_progress,
) -> LevelsReport:
    """Chooses the levels whose grid suits the photos, and makes the network's head read them.

    If there are more photos than `PHOTOS_AT_ONCE`, only an evenly spaced selection of them is used.

    Args:
        network: Trained network, whose head reads no earlier blocks yet.
        photos: Photos of the classes that it was trained on.
        candidates: Levels from `possible_levels`; they are tried only if there are several.
        ranks: Processes, each of which runs the network on a share of the photos.
        on_progress: Function that is called before each photo, and before each head is solved.
    """
    tried: list[TriedLevels] = []
    recognised: list[NDArray[np.bool_]] = []
    report = StepReporter("evaluate", FOLDS * len(candidates), on_progress)
    every = -(-len(photos.photos) // PHOTOS_AT_ONCE)  # photos are sorted by class
    selection = replace(photos, photos=photos.photos[:: max(1, every)])
    labels = np.array(selection.labels)
    for levels in candidates if len(candidates) > 1 else ():
        trial = network.student(trains=False)
        trial.read_levels(levels)
        seen = observe_all(trial, selection, ranks, on_progress)
        values = seen.head_inputs[:, : _values_of_larger_maps(network, levels)]
        recognised.append(ranks.by_first(partial(_recognised, values, labels, report)))
        tried.append(TriedLevels(levels=levels, accuracy=float(recognised[-1].mean())))
    chosen = candidates[coarsest_good(recognised) if tried else 0] if candidates else None
    if chosen:
        network.read_levels(chosen)
    return LevelsReport(levels=chosen, inputs=network.head.in_features, tried=tuple(tried))


def _values_of_larger_maps(network: Network, levels: Levels) -> int:
    """Counts the values of those blocks whose maps are larger than the last ones; they come first."""
    *_, (_, *last) = shapes = map_shapes(network)
    channels = (shapes[block][0] for block in levels.blocks if list(shapes[block][1:]) != last)
    return levels.grid**2 * sum(channels)


def coarsest_good(recognised: Sequence[NDArray[np.bool_]]) -> int:
    """Returns the index of the first grid that is not clearly worse than the best one.

    A grid is clearly worse if it recognises fewer photos, by more than one and by more than the standard
    error of the difference. This follows the one-standard-error rule of Breiman et al. 1984
    ("Classification and Regression Trees").

    Args:
        recognised: Photos that each grid recognises [M], coarse grids first.
    """
    best = max(recognised, key=np.sum)
    for index, other in enumerate(recognised):
        more, differ = int(best.sum() - other.sum()), int(np.sum(best != other))
        if more <= max(1.0, sqrt(differ - more**2 / len(best))):
            return index
    raise AssertionError("the best grid is not worse than itself")


def _recognised(values: Features, labels: Labels, report: Callable[[], None]) -> NDArray[np.bool_]:
    """Tells which photos are recognised by a head that reads only the levels' values [M, values].

    Each photo is left out when the head that judges it is solved.
    """
    statistics = ClassStatistics.empty(classes := int(labels.max()) + 1, values.shape[1])
    statistics.learn(values, labels)
    logits = judge_unseen(statistics.discriminant(classes, values, labels), classes, report).logits
    is_right: NDArray[np.bool_] = logits.argmax(1) == labels
    return is_right
