"""How long an ONNX file is for other classes: by how many bytes it must grow, reckoned apart from its making.

Per class it takes a row of the head (d weights and a bias, 4 bytes each) and a name in the metadata. The rest
is framing: the format writes larger numbers and lengths in more bytes. So the file is taken back to the
classes that it had before, and protobuf says how long that is. Format:
https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..errors import ExportError
from ..model.classifier import CLASS_NAMES_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

_FLOAT_BYTES = 4


class GrowthParts(NamedTuple):
    """Bytes that an ONNX file grows by, and for what.

    Attributes:
        head: Rows of weight and bias.
        names: Names in the metadata.
        framing: Numbers and lengths that take more bytes.
    """

    head: int
    names: int
    framing: int


def expected_growth(before: Sequence[str], after: Sequence[str], features: int, onnx: bytes) -> GrowthParts:
    """What an ONNX file must have grown by.

    Args:
        before: Class names then.
        after: Class names that the file has.
        features: d, what the head reads.
        onnx: The file's content.

    Raises:
        ExportError: It is no ONNX file.
    """
    from google.protobuf.message import DecodeError
    from onnx import load_model_from_string

    try:
        model = load_model_from_string(onnx)
    except DecodeError:
        raise ExportError("this is no ONNX file") from None
    _resize(model, after, features)
    length = model.ByteSize()
    _resize(model, before, features)
    total = length - model.ByteSize()
    head = (len(after) - len(before)) * (features + 1) * _FLOAT_BYTES
    names = len(_names_text(after).encode()) - len(_names_text(before).encode())
    return GrowthParts(head, names, total - head - names)


def _resize(model: ModelProto, names: Sequence[str], features: int) -> None:
    """Makes a graph as long as it is for these classes: its head, its outputs' shapes, and the metadata."""
    classes = len(names)
    shapes = {"head.weight": (classes, features), "head.bias": (classes,)}
    for tensor in model.graph.initializer:
        if shape := shapes.get(tensor.name):
            tensor.dims[:] = shape
            tensor.raw_data = bytes(_FLOAT_BYTES * classes * (features if len(shape) == 2 else 1))
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = classes
    for entry in model.metadata_props:
        if entry.key == CLASS_NAMES_KEY:
            entry.value = _names_text(names)


def _names_text(names: Sequence[str]) -> str:
    return json.dumps(names, ensure_ascii=False)
