"""Computes by how many bytes an ONNX file must grow, almost independently of the code that makes the file.

Only the metadata that lists the class names comes from that code. Each class takes a row of the head (a bias
and a weight for each value that the head reads), a row of the score for unknown objects (a number for each of
its axes and one more), and its name in the metadata. Each of these numbers takes 4 bytes. The rest is
framing: the format needs more bytes to write larger numbers and lengths. To find out how many, the file is
resized in memory to the classes that it had before, and protobuf computes the new length. The format is
described at
https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ExportError
from ..model.onnx_file import LOGITS, PROBABILITIES
from ..model.tensors import CENTRES, CUT_TO_CLASSES, WEIGHT

if TYPE_CHECKING:
    from onnx import ModelProto

_FLOAT_BYTES = 4


class GrowthParts(NamedTuple):
    """Splits the growth of an ONNX file by cause.

    Attributes:
        head: Bytes of the new rows of the head and of the score for unknown objects.
        names: Bytes of the new names in the metadata, where they are listed twice.
        framing: Bytes that the format needs to write larger numbers.
    """

    head: int
    names: int
    framing: int


def expected_growth(before: Sequence[str], after: Sequence[str], features: int, onnx: bytes) -> GrowthParts:
    """Computes by how many bytes an ONNX file must have grown, and why.

    Args:
        before: Class names that the file had before.
        after: Class names that the file has now.
        features: Number of values that the head reads.
        onnx: Content of the file.

    Raises:
        ExportError: The content is not an ONNX file.
    """
    from google.protobuf.message import DecodeError
    from onnx import load_model_from_string

    try:
        model = load_model_from_string(onnx)
    except DecodeError:
        raise ExportError("this is not an ONNX file") from None
    _resize(model, after, features)
    length = model.ByteSize()
    _resize(model, before, features)
    total = length - model.ByteSize()
    axes = next((list(t.dims)[1] for t in model.graph.initializer if t.name == CENTRES), 0)
    head = (len(after) - len(before)) * (features + 1 + axes + 1) * _FLOAT_BYTES
    names = _names_bytes(after) - _names_bytes(before)
    return GrowthParts(head, names, total - head - names)


def _resize(model: ModelProto, names: Sequence[str], features: int) -> None:
    """Resizes a graph's head, score for unknown objects, output shapes and metadata to these classes."""
    from ..model.onnx.graph import names_metadata

    classes = len(names)
    for tensor in model.graph.initializer:
        if tensor.name in CUT_TO_CLASSES:
            columns = {WEIGHT: features, CENTRES: tensor.dims[-1]}.get(tensor.name)
            tensor.dims[:] = (classes,) if columns is None else (classes, columns)
            tensor.raw_data = bytes(_FLOAT_BYTES * classes * (columns or 1))
    for output in model.graph.output:
        if output.name in (LOGITS, PROBABILITIES):
            output.type.tensor_type.shape.dim[1].dim_value = classes
    texts = names_metadata(names)
    for entry in model.metadata_props:
        entry.value = texts.get(entry.key, entry.value)


def _names_bytes(names: Sequence[str]) -> int:
    from ..model.onnx.graph import names_metadata

    return sum(len(text.encode()) for text in names_metadata(names).values())
