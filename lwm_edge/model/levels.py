"""Computes the values that a head reads from earlier blocks, whose outputs are averaged over a coarse grid.

This is a spatial pyramid (Lazebnik et al. 2006; He et al. 2014, "Spatial Pyramid Pooling") with a single
grid. A grid of 1x1 cells tells what a picture shows, and one of 3x3 cells also tells roughly where.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import ArchitectureError


class Activations(NamedTuple):
    """Holds the values that a network has computed for images after some of its blocks have run.

    Attributes:
        maps: Output of the last block that ran [B, C, h, w].
        levels: Values of each level that has been reached [B, values of the level].
    """

    maps: Tensor
    levels: tuple[Tensor, ...] = ()

    def pooled(self) -> Tensor:
        """Joins the levels' values and the globally averaged maps [B, values]."""
        last = self.maps.mean((2, 3))
        return torch.cat([*self.levels, last], 1) if self.levels else last


def grid_means(maps: Tensor, grid: int) -> Tensor:
    """Averages maps [B, C, h, w] over grid x grid cells [B, C * grid * grid].

    The cells are of equal size and cover the maps, so that a single AveragePool computes the means in ONNX.
    They overlap if a side is not divisible by the grid.

    Raises:
        ArchitectureError: The maps have fewer rows or columns than the grid.
    """
    height, width = maps.shape[2:]
    if min(height, width) < grid:
        raise ArchitectureError(f"maps of {height}x{width} cells cannot be averaged over {grid}x{grid}")
    stride = (height // grid, width // grid)
    size = (height - (grid - 1) * stride[0], width - (grid - 1) * stride[1])
    return F.avg_pool2d(maps, size, stride).flatten(1)
