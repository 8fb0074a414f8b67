"""A base's graph is untrusted: a graph that lwm-edge cannot have exported is refused before it is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, load_model_from_string, numpy_helper

from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ExportError
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.onnx.checks import check_cost, graph_cost
from lwm_edge.model.onnx.graph import fill_graph, read_graph
from lwm_edge.model.onnx.parity import shipped_probe, verified_file
from lwm_edge.model.tensors import BESIDE_THE_NETWORK, ONNX_GRAPH
from tests.support.hostile import memory_bound, no_hang, published

BUNDLE = open_bundle(BASE_BUNDLE)
WEIGHTS = BUNDLE.arrays().keys() - BESIDE_THE_NETWORK
Change = Callable[[ModelProto], object]


def changed(change: Change) -> dict[str, np.ndarray]:
    arrays = BUNDLE.arrays()
    model = load_model_from_string(arrays[ONNX_GRAPH].tobytes())
    change(model)
    return {**arrays, ONNX_GRAPH: np.frombuffer(model.SerializeToString(), np.uint8)}


def add_node(*given: object, **attributes: Any) -> Change:
    """Puts a node between the last map and the ReduceMean node that reads it."""

    def change(model: ModelProto) -> None:
        operator, *inputs = given
        mean = next(i for i, node in enumerate(model.graph.node) if node.op_type == "ReduceMean")
        source = model.graph.node[mean].input[0]
        node = helper.make_node(str(operator), [source, *map(str, inputs)], ["added"], "added", **attributes)
        model.graph.node[mean].input[0] = "added"
        model.graph.node.insert(mean, node)

    return change


def constant(name: str, array: np.ndarray) -> Change:
    return lambda model: model.graph.initializer.append(numpy_helper.from_array(array, name))


def all_of(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def nested_functions(model: ModelProto) -> None:
    """Makes thirty functions, each of which calls the one before it twice: a billion calls."""
    for level in range(30):
        name, calls = f"f{level}", f"f{level - 1}" if level else "Relu"
        domain = "x" if level else ""
        nodes = [
            helper.make_node(calls, ["a"], ["b"], domain=domain),
            helper.make_node(calls, ["b"], ["c"], domain=domain),
        ]
        model.functions.append(
            helper.make_function("x", name, ["a"], ["c"], nodes, [helper.make_opsetid("", 17)])
        )
    model.opset_import.append(helper.make_opsetid("x", 1))
    add_node("f29")(model)
    next(node for node in model.graph.node if node.name == "added").domain = "x"


def weight_of(model: ModelProto) -> TensorProto:
    return next(t for t in model.graph.initializer if t.name == "backbone.stage3.2.conv2.weight")


def in_another_file(model: ModelProto) -> None:
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL


BODY = helper.make_graph([], "body", [], [])
REFUSED: dict[str, tuple[Change, str]] = {
    "thirty nested functions": (nested_functions, "functions of its own"),
    "a loop": (add_node("Loop", body=BODY), "no classifier needs: 'Loop'"),
    "a graph in an attribute": (add_node("Relu", body=BODY), "loops, branches"),
    "an operator of another domain": (add_node("Relu", domain="com.evil"), "no classifier needs"),
    "a tensor whose shape is computed": (
        all_of(add_node("ConstantOfShape")), "no classifier needs: 'ConstantOfShape'"
    ),
    "a tensor that is not the network's": (
        all_of(constant("big", np.ones((64, 64), np.float32)), add_node("Add", "big")), "'big' is larger than"
    ),
    "many small tensors": (
        all_of(
            *(constant(f"c{n}", np.ones(200, np.float32)) for n in range(400)),
            *(add_node("Add", f"c{n}") for n in range(400)),
        ),
        "constants take more",
    ),
    "a tensor that nothing reads": (constant("hidden", np.ones(4, np.float32)), "no node reads"),
    "two tensors of one name": (
        lambda model: model.graph.initializer.append(model.graph.initializer[0]), "share a name"
    ),
    "a tensor in another file": (in_another_file, "from other files"),
    "data in an attribute": (add_node("Relu", x=list(range(1000))), "data in attributes"),
    "a tensor in an attribute": (
        add_node("Relu", x=numpy_helper.from_array(np.ones(9, np.float32))), "data in attributes"
    ),
    "text in a node": (lambda model: setattr(model.graph.node[3], "name", "x" * 5000), "nodes of more than"),
    "a remark": (lambda model: setattr(model.graph, "doc_string", "pixels"), "has comments"),
    "a remark on a node": (
        lambda model: model.graph.node[5].metadata_props.add(key="k", value="v"), "has comments"
    ),
    "an unknown field": (lambda model: model.MergeFromString(b"\xfa\x3f\x06pixels"), "does not define"),
    "the producer's name": (lambda model: setattr(model, "producer_name", "x" * 201), "names of more"),
    "a dimension's name": (
        lambda model: setattr(model.graph.output[0].type.tensor_type.shape.dim[0], "dim_param", "x" * 201),
        "names of more",
    ),
    "a type's denotation": (
        lambda model: setattr(model.graph.input[0].type, "denotation", "x" * 201), "names of more"
    ),
    "a value's name": (lambda model: model.graph.node[3].output.append("x" * 201), "names of more"),
    "a remark on an attribute": (
        lambda model: setattr(model.graph.node[1].attribute[0], "doc_string", "pixels"), "has comments"
    ),
    "data behind the name of a weight": (
        lambda model: setattr(weight_of(model), "raw_data", b"pixels"), "data of its own"
    ),
    "numbers cast to text": (add_node("Cast", to=TensorProto.STRING), "casts to types"),
    "an image without a shape": (
        lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"), "must be uint8"
    ),
    "an output without a shape": (
        lambda model: model.graph.output[2].type.tensor_type.ClearField("shape"), "two dimensions"
    ),
    "another opset": (lambda model: setattr(model.opset_import[0], "version", 18), "not 17 and 8"),
    "another IR version": (lambda model: setattr(model, "ir_version", 10), "not 17 and 8"),
    "a second input": (lambda model: model.graph.input.append(model.graph.input[0]), "must have one input"),
    "no head inputs": (lambda model: model.graph.output.pop(), "outputs are not"),
    "work on uint8": (
        lambda model: model.graph.node.append(helper.make_node("Transpose", ["image"], ["x"])), "one Cast"
    ),
    "too many nodes": (
        lambda model: model.graph.node.extend([helper.make_node("Relu", ["x"], ["y"])] * 20_000), "20000 are"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_graph_of_another_form_is_refused_at_once(kind: str) -> None:
    change, words = REFUSED[kind]
    arrays = changed(change)
    with no_hang(), memory_bound(256 * 2**20), pytest.raises(ExportError) as refused:
        read_graph(arrays)
    assert words in "\n".join(refused.value.problems)
    with pytest.raises(ExportError):
        fill_graph(arrays, BUNDLE.manifest)


def wrong_shape(model: ModelProto) -> None:
    weight_of(model).dims[2:] = [1, 1]


def test_a_weight_that_is_declared_too_small_is_refused() -> None:
    """Without this check, the cost of the weight would be whatever the graph claims."""
    with pytest.raises(ExportError, match="does not fit its tensors") as refused:
        read_graph(changed(wrong_shape))
    assert refused.value.problems == ("backbone.stage3.2.conv2.weight",)


def many_times(count: int) -> Change:
    """Runs the last block's convolution (64 channels to 64) again and again."""
    return all_of(
        *(add_node("Conv", "backbone.stage3.2.conv2.weight", pads=[1, 1, 1, 1]) for _ in range(count))
    )


def many_reductions(count: int) -> Change:
    """Reads the first layer's maps again and again, and reduces them to their largest value each time."""

    def change(model: ModelProto) -> None:
        first = next(node.output[0] for node in model.graph.node if node.op_type == "Relu")
        at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "ReduceMean")
        names = [f"peak{n}" for n in range(count)]
        for name in names:
            node = helper.make_node("ReduceMax", [first], [name], name, axes=[1, 2, 3], keepdims=0)
            model.graph.node.insert(at, node)

    return change


def larger_maps(model: ModelProto) -> None:
    """Pads 7x7 maps to 350x350 for one convolution, and brings its output back to 7x7."""
    constant("pads", np.array([0, 0, 0, 0, 0, 0, 343, 343]))(model)
    nodes = model.graph.node
    at = next(i for i, node in enumerate(nodes) if "backbone.stage3.2.conv2.weight" in node.input)
    convolution = nodes[at]
    pad = helper.make_node("Pad", [convolution.input[0], "pads"], ["padded"], "padded")
    size, back = [50, 50], [convolution.output[0]]
    pool = helper.make_node("MaxPool", ["large"], back, "pooled", kernel_shape=size, strides=size)
    convolution.input[0], convolution.output[0] = "padded", "large"
    nodes.insert(at + 1, pool)
    nodes.insert(at, pad)


EXPENSIVE: dict[str, tuple[Change, str]] = {
    "a convolution repeated": (many_times(500), "some weights more than once: backbone.stage3"),
    "padding to large maps": (
        all_of(constant("pads", np.array([0, 0, 0, 0, 0, 0, 4000, 4000])), add_node("Pad", "pads")),
        "operations between its layers",
    ),
    "large maps read again and again": (many_reductions(19_000), "operations between its layers"),
    "a pile of cheap nodes": (
        all_of(*(add_node("Relu") for _ in range(3000))),
        "operations between its layers",
    ),
    "a convolution of large maps": (larger_maps, "multiplications with weights"),
}


@pytest.mark.parametrize("kind", EXPENSIVE)
def test_a_graph_that_takes_more_than_its_weights_explain_is_never_run(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, words = EXPENSIVE[kind]
    arrays = changed(unique(change))
    monkeypatch.setattr("lwm_edge.model.onnx.parity.check_parity", lambda *_: pytest.fail("it was run"))
    probe = shipped_probe(arrays, BUNDLE.manifest)
    with no_hang(), memory_bound(256 * 2**20), pytest.raises(ExportError, match=words):
        verified_file(arrays, BUNDLE.manifest, probe)


def unique(change: Change) -> Change:
    """Gives each added node its own output, and connects the nodes in a row."""

    def renamed(model: ModelProto) -> None:
        change(model)
        added = [node for node in model.graph.node if node.name == "added"]
        for number, node in enumerate(added):  # the first one reads the map
            node.output[0] = f"added{number}"
            if number:
                node.input[0] = f"added{number - 1}"
        if added:
            mean = next(node for node in model.graph.node if node.op_type == "ReduceMean")
            mean.input[0] = f"added{len(added) - 1}"

    return renamed


def test_the_readme_states_how_many_graphs_are_tried() -> None:
    assert published(f"| a graph of a form that lwm-edge does not export | {len(REFUSED)} | nothing |")
    too_much = "a graph that needs more memory or time than its weights explain"
    assert published(f"| {too_much} | {len(EXPENSIVE)} | nothing |")


def test_a_graph_that_grows_faster_than_the_batch_is_refused() -> None:
    """One image costs little here, but five images cost 5**12 times as much."""

    def change(model: ModelProto) -> None:
        add_node("ReduceMean", axes=[1, 2, 3], keepdims=0)(model)
        at = next(i for i, node in enumerate(model.graph.node) if node.name == "added")
        model.graph.node[at + 1].input[0] = model.graph.node[at].input[0]
        for axis in range(12):
            axes = np.array([n for n in range(12) if n != axis])
            model.graph.initializer.append(numpy_helper.from_array(axes, f"axes{axis}"))
            node = helper.make_node("Unsqueeze", ["added", f"axes{axis}"], [f"turned{axis}"], f"turned{axis}")
            model.graph.node.insert(at + 1, node)
        node = helper.make_node("Max", [f"turned{axis}" for axis in range(12)], ["huge"], "huge")
        model.graph.node.insert(at + 13, node)

    with (
        no_hang(),
        memory_bound(256 * 2**20),
        pytest.raises(ExportError, match="grows faster than the batch"),
    ):
        check_cost(read_graph(changed(change)), WEIGHTS)


def test_an_input_that_no_node_produces_is_refused() -> None:
    """Shape inference does not notice a missing input if the output's shape does not depend on it."""
    with pytest.raises(ExportError, match="'added' has no known shape"):
        graph_cost(read_graph(changed(add_node("Clip", "", "nowhere"))), WEIGHTS)


def test_shapes_that_cannot_be_known_are_refused() -> None:
    def wrong(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "Transpose")
        node.attribute[0].ints[:] = [0, 3, 1]

    with pytest.raises(ExportError, match="not sound"):
        check_cost(read_graph(changed(wrong)), WEIGHTS)


def test_a_graph_that_would_take_minutes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lwm_edge.model.onnx.checks._MAX_OPERATIONS", 1_000_000)
    with pytest.raises(ExportError, match="multiplications per image; 1,000,000 are allowed"):
        check_cost(read_graph(BUNDLE.arrays()), WEIGHTS)


def test_the_cost_of_the_demos_network_is_that_of_its_convolutions() -> None:
    """Counted by hand, the demo's network needs 31.4 million multiplications, nearly all in convolutions."""
    of_weights, others = graph_cost(read_graph(BUNDLE.arrays()), WEIGHTS)
    assert 31_000_000 < of_weights.operations < 32_000_000
    assert others.operations < 2 * of_weights.elements
