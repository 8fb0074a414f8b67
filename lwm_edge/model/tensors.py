"""Names the tensors of a bundle, and says which types and shapes they have.

Where d is the number of values that the head reads (see `network`):

- `backbone.*`, `head.weight` [capacity, d] and `head.bias` [capacity]: the network.
- `statistics.*`: what remains of the photos; see `learning.class_statistics`.
- `measured.right` and `measured.total` [capacity], `measured.confusions` [32, 3] (class_index, predicted
  class_index, number of photos): the vendor's counts on photos that the network never saw; 0 if there are
  none or they are outdated. `measured.right_solved` [capacity] is like `measured.right`, for the head that a
  device computes from the statistics; the two can differ only if the base ships with a trained head.
- `unknown.axes.*`, `unknown.damping.*` and `unknown.centres.*`: the score for unknown objects, made from the
  statistics by `learning.unknown` on 64 axes; `unknown.histogram` [capacity, 128]: the score's calibration
  (see `model.unknown`), 0 if there is none.
- `probe.head_inputs` [5, d]: the head's inputs for five generated images, computed with torch by the vendor
  or, if an increment trained the network, by the device.
- `onnx_graph` (uint8): the graph without its weights, see `onnx`; `manifest` (uint8): see `manifest`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BACKBONE = "backbone."
"""Prefix of the names of the backbone's tensors."""

WEIGHT, BIAS = "head.weight", "head.bias"
MEANS, COUNTS = "statistics.means", "statistics.counts"
COVARIANCE, PHOTOS = "statistics.covariance", "statistics.photos"
RIGHT, RIGHT_SOLVED = "measured.right", "measured.right_solved"
TOTAL, CONFUSIONS = "measured.total", "measured.confusions"
HISTOGRAM, PROBE = "unknown.histogram", "probe.head_inputs"
AXES, AXES_OFFSET = "unknown.axes.weight", "unknown.axes.bias"
CENTRES, CENTRES_OFFSET = "unknown.centres.weight", "unknown.centres.bias"
DAMPING = "unknown.damping.weight"
MANIFEST, ONNX_GRAPH = "manifest", "onnx_graph"

MEASURED = (RIGHT, RIGHT_SOLVED, TOTAL, CONFUSIONS)
SCORE = (AXES, AXES_OFFSET, DAMPING, CENTRES, CENTRES_OFFSET)
"""Tensors of the score for unknown objects, which the ONNX graph reads."""

CUT_TO_CLASSES = (WEIGHT, BIAS, CENTRES, CENTRES_OFFSET)
"""Tensors of which an ONNX file holds only the rows of the classes in use."""

ROWS_BY_CLASS = {*CUT_TO_CLASSES, MEANS, COUNTS, RIGHT, RIGHT_SOLVED, TOTAL, HISTOGRAM}
"""Tensors that have one row for each class, zero beyond the last class."""

BESIDE_THE_NETWORK = {
    *(MEANS, COUNTS, COVARIANCE, PHOTOS),
    *MEASURED,
    *SCORE,
    *(HISTOGRAM, PROBE, ONNX_GRAPH, MANIFEST),
}
"""Tensors that are not the network's own."""

BINS, AXES_COUNT = 128, 64
_FIXED_SHAPES: dict[str, tuple[str, tuple[int | str, ...]]] = {
    WEIGHT: ("F32", ("capacity", "d")),
    BIAS: ("F32", ("capacity",)),
    MEANS: ("F32", ("capacity", "d")),
    COUNTS: ("F32", ("capacity",)),
    COVARIANCE: ("F32", ("d", "d")),
    PHOTOS: ("F32", (1,)),
    RIGHT: ("I32", ("capacity",)),
    RIGHT_SOLVED: ("I32", ("capacity",)),
    TOTAL: ("I32", ("capacity",)),
    CONFUSIONS: ("I32", (32, 3)),
    HISTOGRAM: ("I32", ("capacity", BINS)),
    AXES: ("F32", (AXES_COUNT, "d")),
    AXES_OFFSET: ("F32", (AXES_COUNT,)),
    DAMPING: ("F32", (1, AXES_COUNT)),
    CENTRES: ("F32", ("capacity", AXES_COUNT)),
    CENTRES_OFFSET: ("F32", ("capacity",)),
    PROBE: ("F32", (5, "d")),
}
NUMPY_DTYPES = {"F32": np.float32, "I32": np.int32}
SAFETENSORS_DTYPES = {"F64", "F32", "F16", "I64", "I32", "U8"}
NAME_PATTERN = re.compile(r"[\w.]{1,200}", re.ASCII)

Arrays = Mapping[str, NDArray[Any]]


def declared_tensors(capacity: int, d: int) -> dict[str, tuple[str, list[int]]]:
    """Returns the data type and shape of each tensor whose shape depends on capacity and d alone."""
    sizes = {"capacity": capacity, "d": d}
    return {
        name: (dtype, [sizes[n] if isinstance(n, str) else n for n in shape])
        for name, (dtype, shape) in _FIXED_SHAPES.items()
    }


def empty_tensors(capacity: int, d: int) -> dict[str, NDArray[Any]]:
    """Makes the tensors that may stay empty in a new bundle, filled with zeros."""
    declared, empty = declared_tensors(capacity, d), (*MEASURED, *SCORE, HISTOGRAM)
    return {name: np.zeros(declared[name][1], NUMPY_DTYPES[declared[name][0]]) for name in empty}


def forget_what_was_measured(arrays: dict[str, NDArray[Any]], rows: Sequence[int]) -> None:
    """Removes the measurements of some classes, given by their rows, because these classes have changed."""
    for name in {*MEASURED, HISTOGRAM} & ROWS_BY_CLASS:
        arrays[name][rows] = 0
    confusions = arrays[CONFUSIONS]
    kept = confusions[~np.isin(confusions[:, :2], rows).any(1) & (confusions[:, 2] > 0)]
    arrays[CONFUSIONS] = np.concatenate([kept, np.zeros((len(confusions) - len(kept), 3), confusions.dtype)])


def problems_of_tensors(arrays: Arrays) -> list[str]:
    """Lists tensors that no bundle may hold, with the reasons."""
    names = [name for name in arrays if not NAME_PATTERN.fullmatch(name)]
    dtypes = {name: f"{a.dtype.kind.upper()}{8 * a.dtype.itemsize}" for name, a in arrays.items()}
    return [
        *(
            f"{name[:200]!r} has characters other than a-z, A-Z, 0-9, _ and ., or is too long"
            for name in names
        ),
        *(
            f"{name} is {arrays[name].dtype}, which bundles do not use"
            for name in arrays
            if dtypes[name] not in SAFETENSORS_DTYPES
        ),
    ]
