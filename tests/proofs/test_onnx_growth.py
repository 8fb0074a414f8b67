"""An ONNX file grows by exactly as many bytes as computed."""

from __future__ import annotations

import numpy as np
import pytest

from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ExportError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.onnx.graph import fill_graph
from lwm_edge.model.tensors import CENTRES, ROWS_BY_CLASS
from lwm_edge.proofs.onnx_growth import expected_growth

BUNDLE = open_bundle(BASE_BUNDLE)
FEATURES, CAPACITY = BUNDLE.arrays("head.weight")["head.weight"].shape[1], 400
AXES_COUNT = BUNDLE.arrays(CENTRES)[CENTRES].shape[1]


def onnx_file(names: tuple[str, ...]) -> bytes:
    arrays = BUNDLE.arrays()
    for name in ROWS_BY_CLASS:
        arrays[name] = np.resize(arrays[name], (CAPACITY, *arrays[name].shape[1:]))
    manifest = BUNDLE.manifest.model_copy(update={"class_names": names, "capacity": CAPACITY})
    return fill_graph(arrays, manifest)


def names(count: int, length: int = 5) -> tuple[str, ...]:
    return tuple(f"{n:0{length}}" for n in range(count))


@pytest.mark.parametrize(("before", "after"), [(6, 7), (6, 126), (6, 127), (6, 128), (127, 129), (6, 400)])
@pytest.mark.parametrize("length", [3, 63])
def test_the_growth_is_explained_to_the_byte(before: int, after: int, length: int) -> None:
    small, large = onnx_file(names(before, length)), onnx_file(names(after, length))
    parts = expected_growth(names(before, length), names(after, length), FEATURES, large)
    assert sum(parts) == len(large) - len(small)
    assert parts.head == (after - before) * (FEATURES + 1 + AXES_COUNT + 1) * 4
    indices = sum(len(str(n)) for n in range(before, after))
    # each class is listed twice: as "name", and as N: 'name',
    assert parts.names == (after - before) * (length + 4 + length + 6) + indices
    back = expected_growth(names(after, length), names(before, length), FEATURES, small)
    assert sum(back) == -sum(parts)


def test_names_beyond_ascii_and_with_quotation_marks_are_counted() -> None:
    before, after = ("Coat",), ("Coat", "Ёлка", '"x"', "🦊")
    large = onnx_file(after)
    assert sum(expected_growth(before, after, FEATURES, large)) == len(large) - len(onnx_file(before))


def test_content_that_is_not_an_onnx_file_is_refused() -> None:
    with pytest.raises(ExportError, match="not an ONNX file"):
        expected_growth(("a",), ("a", "b"), FEATURES, b"pixels" * 100)
