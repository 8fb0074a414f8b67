"""Finds photos that are nearly the same, by imagehash's perceptual hash (the `check` extra)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import ConfigError
from ..extras import load_library
from .pixels import Pixels

_HASH_SIDE = 16  # so a hash has 256 bits
_NEAR_BITS = 24  # photos whose hashes differ in no more bits than this are nearly the same
_ROWS_AT_ONCE = 512

Hash = NDArray[np.bool_]


def why_not_comparable() -> str | None:
    """Returns why photos cannot be compared here, or None if they can."""
    try:
        _imagehash()
    except ConfigError as error:
        return error.message
    return None


def _imagehash() -> Any:
    return load_library("imagehash", "near-duplicates were not looked for, as that needs")


def hash_of(pixels: Pixels) -> Hash:
    """Returns a perceptual hash [256]: which low frequencies of a photo's brightness are above the median."""
    imagehash = _imagehash()
    bits: Hash = imagehash.phash(Image.fromarray(pixels), hash_size=_HASH_SIDE).hash.ravel()
    return bits


def near_duplicates(hashes: Sequence[Hash]) -> dict[int, int]:
    """Finds photos that are nearly the same as an earlier one.

    Args:
        hashes: Hash of each photo.

    Returns:
        A dictionary from the index of each such photo to the index of the earlier photo that is most similar
            to it. Earlier photos that have an entry themselves are not considered.
    """
    if not hashes:
        return {}
    signs = np.array(hashes, dtype=np.float32).reshape(len(hashes), -1) * 2 - 1
    found: dict[int, int] = {}
    for start in range(0, len(signs), _ROWS_AT_ONCE):
        differing = (signs.shape[1] - signs[start : start + _ROWS_AT_ONCE] @ signs.T) / 2
        for row, bits in enumerate(differing, start):
            earlier = [i for i in np.flatnonzero(bits[:row] <= _NEAR_BITS) if i not in found]
            if earlier:
                found[row] = int(min(earlier, key=lambda i: bits[i]))
    return found
