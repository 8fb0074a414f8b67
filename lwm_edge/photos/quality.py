"""Measures a photo's sharpness, brightness and size, to find out what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .guard import MAX_BYTES_HERE, TooCostlyHereError
from .opening import open_photo
from .pixels import Pixels

_BRIGHTEST, _DARKEST = 99, 1  # percentiles, so that a few odd pixels do not count


def sharpness(pixels: Pixels) -> float:
    """Returns the variance of a photo's Laplacian, divided by the variance of its brightness.

    The variance of the Laplacian is small for a blurred photo: Pech-Pacheco et al. 2000, "Diatom Autofocusing
    in Brightfield Microscopy". The quotient does not depend on contrast. It does depend on what the photo
    shows, so compare only photos of the same class.
    """
    grey = _grey(pixels)
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var() / max(grey.var(), 1.0))


def brightness_range(pixels: Pixels) -> tuple[float, float]:
    """Returns the brightness of a photo's darkest and brightest parts, from 0 to 255."""
    darkest, brightest = np.percentile(_grey(pixels), [_DARKEST, _BRIGHTEST])
    return float(darkest), float(brightest)


def short_side(path: Path, resize_size: int) -> int | None:
    """Returns a photo's short side in pixels; None if the photo is too costly for this process."""
    try:
        with open_photo(path, resize_size, MAX_BYTES_HERE) as image:
            return min(image.size)
    except TooCostlyHereError:
        return None


def _grey(pixels: Pixels) -> NDArray[np.float64]:
    grey: NDArray[np.float64] = pixels @ np.array([0.299, 0.587, 0.114])
    return grey
