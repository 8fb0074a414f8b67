"""Lowers a traced graph to a form that older runtimes read too: opset 17, IR version 8, no shape arithmetic.

TensorRT 8.6 reads opset 17 but no sequences; ONNX Runtime 1.17 reads IR version 9 at most. The onnx package's
own converter fails on these graphs, which are traced in opset 18. The few operators that need rewriting are
rewritten here. Any other operator that opset 18 defines differently is refused.
Definitions: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, defs, helper, numpy_helper

from ... import __version__
from ...errors import ExportError
from .checks import IR_VERSION, OPSET

_TRACED_OPSET = 18
_PRODUCER = "lwm_edge"


def lower(model: ModelProto) -> ModelProto:
    """Lowers a graph of opset 18 with folded constants to the form that `checks` demands.

    Raises:
        ExportError: The graph has operators that cannot be lowered.
    """
    graph = model.graph
    _replace_sequence_splits(graph)
    _replace_hard_swishes(graph)
    _fix_reshape_shapes(graph)
    refused = set()
    for node in graph.node:
        if node.op_type in _LOWERINGS:
            _LOWERINGS[node.op_type](node, graph)
        elif node.domain or _changed_since(node.op_type):
            refused.add(node.op_type)
    if refused:
        raise ExportError(
            f"this network needs operators that opset {OPSET} does not define, or defines differently: "
            f"{', '.join(sorted(refused))}"
        )
    _remove_unused(graph)
    _remove_remarks(model)
    lowered = helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name=_PRODUCER,
        producer_version=__version__,
    )
    lowered.graph.name = _PRODUCER
    return lowered


def _changed_since(operator: str) -> bool:
    return defs.get_schema(operator, _TRACED_OPSET).since_version > OPSET


def _move_axes_to_attribute(node: NodeProto, graph: GraphProto) -> None:
    """Lowers a reduction, whose axes became an input in opset 18."""
    if len(node.input) > 1:
        axes = _constant(graph, node.input[1])
        node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes]))
        del node.input[1:]
    _remove_attribute(node, "noop_with_empty_axes")


def _drop_output_count(node: NodeProto, graph: GraphProto) -> None:
    """Lowers a split into equal parts; opset 18 added the number of parts as an attribute."""
    _remove_attribute(node, "num_outputs")


def _refuse_pad_axes(node: NodeProto, graph: GraphProto) -> None:
    """Leaves a Pad node as it is, but refuses it if it has axes, which opset 18 added as an input."""
    if len(node.input) > 3:
        raise ExportError(f"{node.name} pads only some axes, which cannot be lowered to opset {OPSET}")


_LOWERINGS: dict[str, Callable[[NodeProto, GraphProto], None]] = {
    "ReduceMean": _move_axes_to_attribute,
    "ReduceMax": _move_axes_to_attribute,
    "Split": _drop_output_count,
    "Pad": _refuse_pad_axes,
}


def _replace_sequence_splits(graph: GraphProto) -> None:
    """Replaces each SplitToSequence, and the nodes that take its parts, with a single Split."""
    for split in [node for node in graph.node if node.op_type == "SplitToSequence"]:
        parts = [node for node in graph.node if split.output[0] in node.input]
        lengths = _constant(graph, split.input[1]) if len(split.input) > 1 else np.array(1)
        if any(node.op_type != "SequenceAt" for node in parts) or lengths.ndim != 0:
            raise ExportError(f"{split.name} splits maps in a way that cannot be lowered to opset {OPSET}")
        by_index = {int(_constant(graph, node.input[1])): node for node in parts}
        if min(by_index, default=0) < 0:
            raise ExportError(
                f"{split.name} counts parts from the end, so it cannot be lowered to opset {OPSET}"
            )
        outputs = [by_index[n].output[0] if n in by_index else "" for n in range(max(by_index) + 1)]
        axis = next((a.i for a in split.attribute if a.name == "axis"), 0)
        name = f"{split.output[0]}_lengths"
        lengths_of_parts = np.full(len(outputs), int(lengths), np.int64)
        graph.initializer.append(numpy_helper.from_array(lengths_of_parts, name))
        replacement = helper.make_node("Split", [split.input[0], name], outputs, split.name, axis=axis)
        split.CopyFrom(replacement)
        for node in parts:
            graph.node.remove(node)


def _replace_hard_swishes(graph: GraphProto) -> None:
    """Replaces HardSwish, which TensorRT 8 does not have, with its definition: x * HardSigmoid(x)."""
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    graph.ClearField("node")
    for node in nodes:
        if node.op_type != "HardSwish":
            graph.node.append(node)
            continue
        x, gate = node.input[0], f"{node.output[0]}_gate"
        hard_sigmoid = helper.make_node(
            "HardSigmoid", [x], [gate], f"{node.name}_gate", alpha=1 / 6, beta=0.5
        )
        graph.node.extend([hard_sigmoid, helper.make_node("Mul", [x, gate], node.output, node.name)])


def _fix_reshape_shapes(graph: GraphProto) -> None:
    """Gives reshapes a constant shape in which 0 stands for the batch, so that no node works on shapes."""
    made_by = {output: node for node in graph.node for output in node.output}
    for node in [node for node in graph.node if node.op_type == "Reshape"]:
        source = made_by.get(node.input[1])
        if source is None or source.op_type != "Concat":
            continue
        batch, *sizes = source.input
        if (
            batch not in made_by
            or made_by[batch].op_type != "Shape"
            or any(name in made_by for name in sizes)
        ):
            raise ExportError(f"{node.name} has a shape that depends on more than the batch")
        shape = np.concatenate([[0], *(_constant(graph, name) for name in sizes)]).astype(np.int64)
        name = f"{node.output[0]}_shape"
        graph.initializer.append(numpy_helper.from_array(shape, name))
        node.input[1] = name
        _remove_attribute(node, "allowzero")


def _constant(graph: GraphProto, name: str) -> NDArray[np.int64]:
    for tensor in graph.initializer:
        if tensor.name == name:
            return numpy_helper.to_array(tensor)
    raise ExportError(f"{name} is computed, but only a constant can be lowered to opset {OPSET}")


def _remove_attribute(node: NodeProto, name: str) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    node.ClearField("attribute")
    node.attribute.extend(kept)


def _remove_unused(graph: GraphProto) -> None:
    """Removes nodes and initialisers that no output depends on."""
    used = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):  # a graph lists each node after those whose outputs it reads
        if used.intersection(node.output):
            used.update(node.input)
            nodes.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in reversed(nodes)]
    initializers = [tensor.FromString(tensor.SerializeToString()) for tensor in initializers]
    graph.ClearField("node")
    graph.ClearField("initializer")
    graph.node.extend(nodes)
    graph.initializer.extend(initializers)


def _remove_remarks(model: ModelProto) -> None:
    """Removes the exporter's notes about the vendor's source code, and shapes that no longer hold."""
    graph = model.graph
    graph.ClearField("value_info")
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for node in graph.node:
        for name in ("domain", "overload"):
            node.ClearField(name)
