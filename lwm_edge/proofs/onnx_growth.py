"""How long an ONNX file is for other classes: by how many bytes it must grow, reckoned apart from its making.

Per class it takes a row of the head (d weights and a bias, 4 bytes each) and a name in the metadata. The rest
is framing: where a number passes 127, 16383, ... the format writes it, or the length of what holds it, in one
byte more. Format: https://protobuf.dev/programming-guides/encoding, https://onnx.ai/onnx/repo-docs/IR.html.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import ExportError
from ..model.classifier import CLASS_NAMES_KEY

_FLOAT = 4  # bytes; also 1, the type's number, takes a byte and its tag another


class GrowthParts(NamedTuple):
    """Bytes that an ONNX file grows by, and for what.

    Attributes:
        head: Rows of weight and bias.
        names: In the metadata.
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
        graph = load_model_from_string(onnx).graph.ByteSize()
    except DecodeError:
        raise ExportError("this is no ONNX file") from None
    graph_before = graph - (_graph_part(len(after), features) - _graph_part(len(before), features))
    total = _field(graph) - _field(graph_before) + _metadata(after) - _metadata(before)
    head = (len(after) - len(before)) * (features + 1) * _FLOAT
    names = len(_names_text(after)) - len(_names_text(before))
    return GrowthParts(head, names, total - head - names)


def _graph_part(classes: int, features: int) -> int:
    """Bytes of the graph that depend on the classes: two tensors of the head, and two outputs' shapes."""
    weight = _tensor("head.weight", classes, features)
    return weight + _tensor("head.bias", classes) + 2 * _number(classes)


def _tensor(name: str, *shape: int) -> int:
    data = _FLOAT
    for side in shape:
        data *= side
    dimensions = sum(1 + _number(side) for side in shape)
    return _field(dimensions + 2 + _field(len(name)) + _field(data))


def _metadata(names: Sequence[str]) -> int:
    return _field(_field(len(CLASS_NAMES_KEY)) + _field(len(_names_text(names))))


def _names_text(names: Sequence[str]) -> bytes:
    return json.dumps(names, ensure_ascii=False).encode()


def _field(length: int) -> int:
    """Bytes of a field that holds `length` bytes: its tag, its length, and those."""
    return 1 + _number(length) + length


def _number(value: int) -> int:
    """Bytes of a variable-length number: seven bits a byte."""
    return max(1, -(-value.bit_length() // 7))
