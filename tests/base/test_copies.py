"""A copy of a photo is lit differently within bounds, and in the same way for the same seed."""

from __future__ import annotations

import numpy as np

from lwm_edge.base.copies import relight


def test_light_changes_within_bounds_and_the_same_way_for_the_same_seed() -> None:
    pixels = np.random.default_rng(0).integers(60, 180, (8, 8, 3)).astype(np.uint8)
    varied = [relight(pixels, np.random.default_rng(seed)) for seed in range(20)]
    assert all(copy.dtype == np.uint8 and copy.shape == pixels.shape for copy in varied)
    assert not any(np.array_equal(copy, pixels) for copy in varied)
    means = [copy.mean() / pixels.mean() for copy in varied]
    assert 0.55 < min(means) < 0.8 and 1.2 < max(means) < 1.45
    np.testing.assert_array_equal(varied[3], relight(pixels, np.random.default_rng(3)))
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert np.ptp(relight(grey, np.random.default_rng(1))) == 0
