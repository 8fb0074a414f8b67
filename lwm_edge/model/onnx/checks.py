"""Checks a graph before anything runs it: a base comes from elsewhere, so its graph could contain anything.

The form of a sound graph is known, as only `tracing` and `lowering` make graphs. Any other graph is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Set
from typing import Any, NamedTuple

from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, shape_inference

from ...errors import ExportError, first_line
from ..onnx_file import HEAD_INPUTS, INPUT, LOGITS, PROBABILITIES, UNKNOWN

OPSET, IR_VERSION = 17, 8
OUTPUTS = (LOGITS, PROBABILITIES, UNKNOWN, HEAD_INPUTS)
OPERATORS = {
    *("Conv", "BatchNormalization", "Gemm", "MatMul", "Cast", "Identity"),
    *("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "Pad"),
    *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice"),
    *("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Neg", "Abs", "Sqrt", "Exp", "Erf"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softmax"),
}
"""Operators that a classifier may need. TensorRT's parser has read all of them since 8.4, in the data types
used here. Source: https://github.com/onnx/onnx-tensorrt/blob/release/8.4-GA/docs/operators.md."""

_MAX_NODES, _MAX_NODE_BYTES = 20_000, 4096
_MAX_BYTES_PER_CONSTANT, _MAX_BYTES_OF_CONSTANTS = 1024, 256 * 1024
_MAX_ATTRIBUTE_VALUES, _MAX_TEXT = 16, 200
_CAST_TO = {TensorProto.FLOAT, TensorProto.INT64}
_MAX_OPERATIONS = 250_000_000_000  # per image; regnet_y_128gf, of 2.6 GB, needs 127 billion at 224 px
_MAX_COST_OF_OTHERS = 8  # operations between layers, per element that the layers write; the most seen was 1.5
_LISTED_PROBLEMS = 20


def check_form(model: ModelProto, weights: Set[str]) -> None:
    """Refuses a graph that is not of the form that `tracing` and `lowering` make.

    Args:
        model: Graph of a bundle, without data for its weights.
        weights: Names of the tensors that are filled in from the bundle.

    Raises:
        ExportError: The graph is of another form; the first few problems are listed.
    """
    problems = [*_model_problems(model), *_node_problems(model), *_tensor_problems(model, weights)]
    if problems:
        raise ExportError(
            "the ONNX graph in the bundle is not of the form that lwm-edge exports; use another base, or "
            "rebuild it with lwm-edge build-base",
            problems[:_LISTED_PROBLEMS],
        )


def _model_problems(model: ModelProto) -> Iterator[str]:
    graph = model.graph
    opsets = [(opset.domain, opset.version) for opset in model.opset_import]
    if opsets != [("", OPSET)] or model.ir_version != IR_VERSION:
        yield f"it has opsets {opsets} and IR version {model.ir_version}, not {OPSET} and {IR_VERSION}"
    if model.model_version:
        yield f"it has the model version {model.model_version}, but exported models have none"
    if model.functions:
        yield "it has functions of its own, which may call one another"
    if [value.name for value in graph.input] != [INPUT]:
        yield f"it must have one input, {INPUT}"
    elif not _is_image(graph.input[0]):
        yield f"{INPUT} must be uint8 [batch, height, width, 3]"
    if tuple(value.name for value in graph.output) != OUTPUTS:
        yield f"its outputs are not {', '.join(OUTPUTS)}"
    elif any(_type(value) != (TensorProto.FLOAT, 2) for value in graph.output):
        yield "its outputs must be float32 with two dimensions"
    if len(graph.node) > _MAX_NODES:
        yield f"it has {len(graph.node)} nodes; at most {_MAX_NODES} are allowed"
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    parts: list[Any] = [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    if any(part.doc_string for part in (*parts, *attributes)) or any(part.metadata_props for part in parts):
        yield "it has comments"
    if any(len(text) > _MAX_TEXT for text in _texts(model)):
        yield f"it has names of more than {_MAX_TEXT} characters"
    if graph.sparse_initializer or graph.quantization_annotation or graph.value_info or model.training_info:
        yield "it has parts that no classifier needs"
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.DiscardUnknownFields()
    if copy.ByteSize() != model.ByteSize():
        yield "it has bytes that ONNX does not define"


def _type(value: ValueInfoProto) -> tuple[int, int]:
    tensor = value.type.tensor_type
    return tensor.elem_type, len(tensor.shape.dim)


def _is_image(value: ValueInfoProto) -> bool:
    sizes = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return _type(value) == (TensorProto.UINT8, 4) and min(sizes[1:3]) > 0 and sizes[3] == 3


def _texts(model: ModelProto) -> Iterator[str]:
    """Yields the text in a graph that no other check limits in length."""
    graph = model.graph
    yield from (model.producer_name, model.producer_version, model.domain, graph.name)
    for node in graph.node:
        yield from (node.name, node.domain, node.overload, *node.input, *node.output)
        yield from (
            text for attribute in node.attribute for text in (attribute.name, attribute.ref_attr_name)
        )
    for tensor in graph.initializer:
        yield tensor.name
    for value in (*graph.input, *graph.output):
        yield from (value.name, value.type.denotation)
        for dim in value.type.tensor_type.shape.dim:
            yield from (dim.dim_param, dim.denotation)


def _node_problems(model: ModelProto) -> Iterator[str]:
    nodes = model.graph.node
    strange = sorted({ascii(node.op_type) for node in nodes if node.domain or node.op_type not in OPERATORS})
    if strange:
        yield f"it has operators that no classifier needs: {', '.join(strange[:_LISTED_PROBLEMS])}"
    attributes = [attribute for node in nodes for attribute in node.attribute]
    if any(a.type not in _PLAIN_ATTRIBUTES or _values(a) > _MAX_ATTRIBUTE_VALUES for a in attributes):
        yield "it has loops, branches, or data in attributes"
    if any(a.i not in _CAST_TO for node in nodes if node.op_type == "Cast" for a in node.attribute):
        yield "it casts to types that no classifier needs"
    if any(node.ByteSize() > _MAX_NODE_BYTES for node in nodes):
        yield f"it has nodes of more than {_MAX_NODE_BYTES} bytes"
    readers = [node.op_type for node in nodes if INPUT in node.input]
    if readers != ["Cast"]:
        yield f"{INPUT} must be read by one Cast alone, as runtimes require"


_PLAIN_ATTRIBUTES = {
    AttributeProto.INT,
    AttributeProto.INTS,
    AttributeProto.FLOAT,
    AttributeProto.FLOATS,
    AttributeProto.STRING,
}


def _values(attribute: AttributeProto) -> int:
    return max(len(attribute.ints), len(attribute.floats), len(attribute.s))


def _tensor_problems(model: ModelProto, weights: Set[str]) -> Iterator[str]:
    tensors = model.graph.initializer
    constants = [tensor for tensor in tensors if tensor.name not in weights]
    used = {name for node in model.graph.node for name in node.input}
    if len({tensor.name for tensor in tensors}) < len(tensors):
        yield "two of its tensors share a name"
    if unused := [tensor.name for tensor in tensors if tensor.name not in used]:
        yield f"no node reads its tensors {', '.join(map(ascii, unused[:_LISTED_PROBLEMS]))}"
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        yield "it takes tensors from other files"
    if any(tensor.name in weights and tensor.ByteSize() > _declared_bytes(tensor) for tensor in tensors):
        yield "it has data of its own for the network's tensors"
    for tensor in constants:
        if tensor.ByteSize() > _MAX_BYTES_PER_CONSTANT or math.prod(tensor.dims) > _MAX_BYTES_PER_CONSTANT:
            yield f"its constant {tensor.name!a} is larger than {_MAX_BYTES_PER_CONSTANT} bytes"
    if sum(tensor.ByteSize() for tensor in constants) > _MAX_BYTES_OF_CONSTANTS:
        yield f"its constants take more than {_MAX_BYTES_OF_CONSTANTS} bytes together"


def _declared_bytes(tensor: TensorProto) -> int:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims).ByteSize()


class Cost(NamedTuple):
    """Holds what some nodes of a graph cost for one image.

    Attributes:
        operations: Number of multiplications, counted as at least one per element read or written.
        elements: Number of elements written.
    """

    operations: int = 0
    elements: int = 0

    def with_node(self, operations: int, elements: int) -> Cost:
        """Returns the cost with one more node."""
        return Cost(self.operations + operations, self.elements + elements)


def check_cost(model: ModelProto, weights: Set[str]) -> None:
    """Refuses a graph that costs more than its weights account for, or more than a classifier is allowed to.

    A classifier uses each weight at most once for each pixel, and does little between its layers.

    Args:
        model: Graph that `check_form` accepted.
        weights: Names of the tensors that are filled in from the bundle.

    Raises:
        ExportError: The graph reads a weight twice or costs too much, or its cost cannot be computed.
    """
    readers = [name for node in model.graph.node for name in node.input if name in weights]
    if again := sorted({name for name in readers if readers.count(name) > 1}):
        listed = ", ".join(again[:_LISTED_PROBLEMS])
        raise ExportError(f"the ONNX graph in the bundle uses some weights more than once: {listed}")
    of_weights, others = graph_cost(model, weights)
    _, height, width, _ = (dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    values = sum(math.prod(tensor.dims) for tensor in model.graph.initializer if tensor.name in weights)
    for what, count, allowed in (
        ("multiplications with weights", of_weights.operations, height * width * values),
        ("multiplications", of_weights.operations + others.operations, _MAX_OPERATIONS),
        ("operations between its layers", others.operations, _MAX_COST_OF_OTHERS * of_weights.elements),
    ):
        if count > allowed:
            raise ExportError(
                f"the ONNX graph in the bundle needs {count:,} {what} per image; {allowed:,} are allowed"
            )


def graph_cost(model: ModelProto, weights: Set[str]) -> tuple[Cost, Cost]:
    """Computes a graph's cost for one image from its shapes, without running it.

    Returns:
        Cost of the nodes that read weights, and cost of all other nodes.

    Raises:
        ExportError: Some shapes cannot be inferred, or grow faster than the batch.
    """
    shapes, shapes_of_two = _inferred_shapes(model, 1), _inferred_shapes(model, 2)
    of_weights, others = Cost(), Cost()
    for node in model.graph.node:
        made = [output for output in node.output if output]
        inputs_known = all(name in shapes for name in node.input if name)
        if not inputs_known or not all(shapes.get(output) and min(shapes[output]) > 0 for output in made):
            raise ExportError(f"the ONNX graph in the bundle is not sound: {node.name!a} has no known shape")
        if any(math.prod(shapes_of_two[output]) > 2 * math.prod(shapes[output]) for output in made):
            raise ExportError(
                f"the ONNX graph in the bundle is not sound: {node.name!a} grows faster than the batch"
            )
        elements = sum(math.prod(shapes[output]) for output in made)
        read = sum(math.prod(shapes[name]) for name in node.input if name)
        operations = max(elements * _operations_per_element(node, shapes), read)
        if weights.isdisjoint(node.input):
            others = others.with_node(operations, elements)
        else:
            of_weights = of_weights.with_node(operations, elements)
    return of_weights, others


def _inferred_shapes(model: ModelProto, batch_size: int) -> dict[str, list[int]]:
    fixed = ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch_size
    for output in fixed.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True).graph
    except Exception as error:  # inference raises errors of several kinds
        raise ExportError(f"the ONNX graph in the bundle is not sound: {first_line(error)}") from None
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return shapes | {tensor.name: list(tensor.dims) for tensor in inferred.initializer}


def _operations_per_element(node: NodeProto, shapes: dict[str, list[int]]) -> int:
    """Returns how many multiplications to count for each element of a node's output."""
    if node.op_type == "Conv":
        return math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("Gemm", "MatMul"):
        return max(shapes[node.input[0]][-1], *shapes[node.input[1]])
    windows = [math.prod(attribute.ints) for attribute in node.attribute if attribute.name == "kernel_shape"]
    return windows[0] if windows else 1
