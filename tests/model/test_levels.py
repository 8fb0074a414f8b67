from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lwm_edge.errors import ArchitectureError
from lwm_edge.model.levels import grid_means


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(0, 9), st.integers(0, 9))
def test_the_cells_of_a_grid_cover_the_maps(grid: int, more_rows: int, more_columns: int) -> None:
    maps = torch.ones(2, 3, grid + more_rows, grid + more_columns, requires_grad=True)
    means = grid_means(maps, grid)
    assert means.shape == (2, 3 * grid * grid)
    assert torch.equal(means, torch.ones_like(means))
    means.sum().backward()
    assert maps.grad is not None and maps.grad.min() > 0


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_cells_do_not_overlap_if_the_grid_divides_the_sides(grid: int, rows: int, columns: int) -> None:
    maps = torch.rand(2, 3, grid * rows, grid * columns)
    expected = torch.nn.functional.adaptive_avg_pool2d(maps, grid).flatten(1)
    torch.testing.assert_close(grid_means(maps, grid), expected)


def test_a_grid_finer_than_the_maps_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="2x5 cells cannot be averaged over 3x3"):
        grid_means(torch.zeros(1, 1, 2, 5), 3)
