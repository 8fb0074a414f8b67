"""Uses the vendor's photos to choose the grid on which a new base's head reads the network's earlier blocks.

The last layers have learnt these photos' classes. A head that reads the last maps is therefore accurate with
any grid, and does not show which grid suits new classes. So the earlier blocks are judged alone: the chosen
grid is the one on which their values best tell the vendor's classes apart. Usually it is a single cell if
objects can be anywhere in the picture, and a finer grid if all pictures are framed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ..errors import ConfigError
from ..learning.class_statistics import ClassStatistics
from ..learning.discriminant import FOLDS, Features, Labels
from ..learning.unseen import judge_unseen
from ..model.manifest import Levels
from ..model.network import Network
from ..photos.photo_set import PhotoSet
from ..records import ProgressCallback, StepReporter, ignore_progress
from .observing import PHOTOS_AT_ONCE, observe_all
from .ranks import Ranks
from .reports import LevelsReport

MAX_INPUTS = 2048  # of a head whose grid the photos choose; the inputs' covariance takes 16 MiB of the bundle
MAX_VALUES = 8192  # of levels whose grid the vendor chose; the values' covariance takes 256 MiB
GRIDS = (1, 2, 3)


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


def find_levels(network: Network, grid: int) -> Levels | None:
    """Finds the last block of each map size except the final size; returns None if the grid does not fit.

    Args:
        network: Network without levels.
        grid: Number of cells per side.
    """
    ends = {tuple(sides): (index, channels) for index, (channels, *sides) in enumerate(map_shapes(network))}
    *earlier, _ = sorted((index, channels, min(sides)) for sides, (index, channels) in ends.items())
    values = grid**2 * sum(channels for _, channels, _ in earlier)
    if min((side for _, _, side in earlier), default=0) < grid or values > MAX_VALUES:
        return None
    return Levels(blocks=tuple(index for index, _, _ in earlier), grid=grid, values=values)


def possible_levels(network: Network, grid: int | None) -> list[Levels]:
    """Lists the levels that a network could read, coarse grids first.

    Args:
        network: Network without levels.
        grid: Grid that the vendor chose; 0 means no levels, and None means each of `GRIDS` with which the
            head has at most `MAX_INPUTS` inputs.

    Raises:
        ConfigError: The grid does not fit the network.
    """
    if grid == 0:
        return []
    found = [levels for g in ((grid,) if grid else GRIDS) if (levels := find_levels(network, g))]
    if grid is None:
        return [levels for levels in found if levels.values <= MAX_INPUTS - network.head.in_features]
    if not found:
        raise ConfigError(
            f"grid {grid} does not fit this network: its earlier blocks have maps of fewer cells per side, "
            f"would give the head more than {MAX_VALUES} values, or have maps no larger than the last ones"
        )
    return found


def choose_levels(
    network: Network,
    photos: PhotoSet,
    candidates: list[Levels],
    ranks: Ranks = Ranks(),  # noqa: B008 - it never changes
    on_progress: ProgressCallback = ignore_progress,
) -> LevelsReport:
    """Chooses the grid that suits the photos best, and makes the network's head read earlier blocks on it.

    If there are more photos than `PHOTOS_AT_ONCE`, only an evenly spaced selection of them is used.

    Args:
        network: Trained network, whose head reads no earlier blocks yet.
        photos: Photos of the classes that it was trained on.
        candidates: Levels from `possible_levels`; they are tried only if there are several.
        ranks: Processes, each of which runs the network on a share of the photos.
        on_progress: Function that is called before each photo, and before each head is solved.
    """
    accuracy = {}
    report = StepReporter("evaluate", FOLDS * len(candidates), on_progress)
    every = -(-len(photos.photos) // PHOTOS_AT_ONCE)  # photos are sorted by class
    selection = replace(photos, photos=photos.photos[:: max(1, every)])
    labels = np.array(selection.labels)
    for levels in candidates if len(candidates) > 1 else ():
        trial = network.student(trains=False)
        trial.read_levels(levels)
        seen = observe_all(trial, selection, ranks, on_progress)
        values = seen.head_inputs[:, : levels.values]
        accuracy[levels.grid] = ranks.by_first(partial(_accuracy, values, labels, report))
    # If several grids are equally good, this chooses the first one, which is the coarsest.
    chosen = max(candidates, key=lambda levels: accuracy.get(levels.grid, 0.0), default=None)
    if chosen:
        network.read_levels(chosen)
    return LevelsReport(grid=chosen.grid if chosen else 0, inputs=network.head.in_features, accuracy=accuracy)


def _accuracy(values: Features, labels: Labels, report: Callable[[], None]) -> float:
    """Computes the cross-validated accuracy of a head that reads only the levels' values [M, values]."""
    statistics = ClassStatistics.empty(classes := int(labels.max()) + 1, values.shape[1])
    statistics.learn(values, labels)
    logits = judge_unseen(statistics.discriminant(classes, values, labels), classes, report).logits
    return float((logits.argmax(1) == labels).mean())
