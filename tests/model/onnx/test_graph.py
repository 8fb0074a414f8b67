"""The exported file has one form for every architecture, describes itself, and matches the network."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn

from lwm_edge import Classifier, export_onnx
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ExportError, ParityError
from lwm_edge.home.home import Home
from lwm_edge.model.architectures.registry import architecture_names
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network, network_arrays
from lwm_edge.model.network import Network
from lwm_edge.model.onnx.checks import check_cost, graph_cost
from lwm_edge.model.onnx.graph import declared_backbone, fill_graph, metadata, read_graph
from lwm_edge.model.onnx.parity import (
    ParityProbe,
    check_parity,
    generated_images,
    head_inputs_of_probe,
    parity_probe,
    verified_file,
)
from lwm_edge.model.onnx.tracing import trace_graph
from lwm_edge.model.onnx_file import OnnxFile
from lwm_edge.model.tensors import HISTOGRAM, ONNX_GRAPH, SCORE, empty_tensors
from lwm_edge.model.unknown import known_scores
from tests.support.networks import (
    ARCHITECTURES,
    GRAPH_COVERED_BY,
    fresh_network,
    manifest_of,
    network_with_levels,
)
from tests.support.samples import photo_set

# Operators of opset 17 that TensorRT 8.6 can parse in float32; not all of them. See the column "Supported" of
# https://github.com/onnx/onnx-tensorrt/blob/release/8.4-GA/docs/operators.md; 8.5 and 8.6 only added to it.
TENSORRT = {
    *("Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "Div", "Gemm"),
    *("MaxPool", "Mul", "ReduceMean", "Relu", "Reshape", "Sigmoid", "Softmax", "Split", "Sub"),
    *("HardSigmoid", "Transpose", "ReduceMax"),
}


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    bundle = open_bundle(BASE_BUNDLE)
    return fill_graph(bundle.arrays(), bundle.manifest)


def shape(value: onnx.ValueInfoProto) -> list[str | int]:
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


def test_inputs_and_outputs_have_the_documented_names_and_shapes(onnx_file: bytes) -> None:
    model = onnx.load_model_from_string(onnx_file)
    (image,) = model.graph.input
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert shape(image) == ["batch", 28, 28, 3]
    assert {o.name: shape(o) for o in model.graph.output} == {
        "logits": ["batch", 6],
        "probabilities": ["batch", 6],
        "unknown": ["batch", 1],
        "head_inputs": ["batch", 496],
    }


def test_the_metadata_describes_the_model(onnx_file: bytes) -> None:
    model, manifest = onnx.load_model_from_string(onnx_file), open_bundle(BASE_BUNDLE).manifest
    said = {p.key: p.value for p in model.metadata_props}
    assert json.loads(said["class_names"]) == list(manifest.class_names)
    assert ast.literal_eval(said["names"]) == dict(enumerate(manifest.class_names))
    assert said["model_digest"] == manifest.model_digest and manifest.model_digest in model.graph.name
    assert said["activation"] == "sigmoid"
    image = {
        key: said[f"Image.{key}"] for key in ("BitmapPixelFormat", "ColorSpaceGamma", "NominalPixelRange")
    }
    assert list(image.values()) == ["Rgb8", "SRGB", "NominalRange_0_255"]
    assert model.graph.input[0].type.denotation == "IMAGE"  # the keys describe an input of this kind
    assert model.producer_name == "lwm_edge" and not model.doc_string
    assert "model_author" not in said and "model_license" not in said


def test_author_licence_and_description_are_the_vendors(onnx_file: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    words = {"author": "Zoë & Co", "license": "MIT", "description": "Clothes, 28 pixels."}
    manifest = bundle.manifest.model_copy(update=words)
    said = metadata(manifest)
    assert (said["model_author"], said["model_license"]) == ("Zoë & Co", "MIT")
    model = onnx.load_model_from_string(fill_graph(bundle.arrays(), manifest))
    assert model.doc_string == "Clothes, 28 pixels."


def test_the_file_contains_nothing_of_the_vendors_source_code(onnx_file: bytes) -> None:
    assert b".py" not in onnx_file and b"stack_trace" not in onnx_file
    graph = onnx.load_model_from_string(onnx_file).graph
    parts: list[Any] = [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    assert not any(part.metadata_props or part.doc_string for part in parts)


def test_the_graph_in_the_bundle_has_no_weights() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    weights = sum(a.nbytes for n, a in bundle.arrays().items() if n != ONNX_GRAPH)
    assert bundle.arrays(ONNX_GRAPH)[ONNX_GRAPH].nbytes < weights / 50


def test_the_same_bundle_gives_the_same_bytes(onnx_file: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    assert fill_graph(bundle.arrays(), bundle.manifest) == onnx_file


def test_the_file_agrees_with_the_network_on_photos_at_several_batch_sizes(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE))
    report = check_parity(
        Classifier(onnx_file), parity_probe(network, photo_set("base", count=1).load(range(6)))
    )
    assert report.batch_sizes == (1, 2, 5)
    assert report.largest_difference <= report.tolerance


def test_the_file_gives_the_bundles_probe_for_the_generated_images(onnx_file: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    probe = bundle.arrays("probe.head_inputs")["probe.head_inputs"]
    np.testing.assert_allclose(head_inputs_of_probe(load_network(bundle)), probe, atol=1e-5)
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    (given,) = session.run(["head_inputs"], {"image": generated_images(28)})
    np.testing.assert_allclose(given, probe, atol=1e-4)


def test_the_score_for_unknown_objects_is_what_numpy_computes(onnx_file: bytes) -> None:
    classifier, images = Classifier(onnx_file), photo_set("2", count=10).load(range(20))
    head_inputs, _ = classifier.head_inputs_and_unknown(images)
    expected = known_scores(head_inputs, open_bundle(BASE_BUNDLE).arrays(*SCORE), 6)
    np.testing.assert_allclose(classifier.outputs(images).unknown, -expected, rtol=1e-4, atol=1e-3)


def test_another_score_for_unknown_objects_breaks_parity() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    arrays, probe = bundle.arrays(), parity_probe(load_network(bundle))
    verified_file(arrays, bundle.manifest, probe)
    model = onnx.load_model_from_string(arrays[ONNX_GRAPH].tobytes())
    next(
        node for node in model.graph.node if node.op_type == "Sub" and "unknown" in node.output
    ).op_type = "Add"
    changed = {**arrays, ONNX_GRAPH: np.frombuffer(model.SerializeToString(), np.uint8)}
    with pytest.raises(ParityError, match="output unknown differs by"):
        verified_file(changed, bundle.manifest, probe)


def test_the_thresholds_are_in_the_metadata_at_a_constant_length() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    arrays, lengths = bundle.arrays(), set()
    for photos in (0, 30, 2**30):
        arrays[HISTOGRAM][:6, 80] = photos
        content = fill_graph(arrays, bundle.manifest)
        calibration = Classifier(content).calibration
        assert (calibration.photos, calibration.classes) == (6 * photos, 6 if photos else 0)
        assert calibration.threshold(0.95) == (-9.5023 if photos else None)
        lengths.add(len(content))
    assert len(lengths) == 1


def test_a_changed_weight_breaks_parity(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE)).student(trains=False)
    with torch.no_grad():
        network.head.bias[2] += 0.1
    with pytest.raises(ParityError, match=r"differs from the network by 0\.1"):
        check_parity(Classifier(onnx_file), parity_probe(network))


@pytest.mark.parametrize(("real_photos", "picture"), [(False, "generated picture"), (True, "photo")])
def test_another_best_class_breaks_parity_even_if_each_logit_is_near_enough(
    real_photos: bool, picture: str
) -> None:
    expected = np.zeros((5, 3), np.float32)
    expected[:, 0], expected[:, 1] = 0.5, 0.4
    actual = expected.copy()
    expected[1, 2] = 0.5 + 1.5e-4  # the best class by more than the tolerance of 1e-4
    actual[1, [0, 2]] = 0.5 + 0.9e-4, 0.5 + 0.6e-4
    file = SimpleNamespace(run=lambda images: (actual[: len(images)], None))
    probe = ParityProbe(generated_images(8), expected, real_photos)
    with pytest.raises(
        ParityError, match=rf"puts {picture} 2 in a different .* class_index 0, not 2 .*size 2"
    ) as no:
        check_parity(cast(OnnxFile, file), probe)
    assert "allowed" not in no.value.message


def test_another_number_of_classes_breaks_parity(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE)).student(trains=False)
    network.add_classes(1, torch.Generator())
    with pytest.raises(ParityError, match="6 classes, the network 7"):
        check_parity(Classifier(onnx_file), parity_probe(network))


@pytest.mark.parametrize("graph", [b"", b"garbage" * 10])
def test_a_damaged_graph_is_refused(graph: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    arrays = {**bundle.arrays(), ONNX_GRAPH: np.frombuffer(graph, np.uint8)}
    with pytest.raises(ExportError):
        fill_graph(arrays, bundle.manifest)


# Every architecture


def exported(network: Network, name: str, activation: str = "sigmoid") -> tuple[ModelProto, bytes]:
    """Traces a network, adds two classes to it, and returns its graph without and with the weights."""
    graph = trace_graph(network, activation)  # type: ignore[arg-type]
    network.add_classes(2, torch.Generator().manual_seed(0))
    manifest = manifest_of(name, network.levels).model_copy(
        update={"activation": activation, "class_names": tuple("abcde")}
    )
    nothing_measured = empty_tensors(network.head.out_features, network.head.in_features)
    arrays = {**network_arrays(network), **nothing_measured, ONNX_GRAPH: np.frombuffer(graph, np.uint8)}
    return read_graph(arrays), fill_graph(arrays, manifest)


ALWAYS_TRIED = {name for name in ARCHITECTURES if isinstance(name, str)} - GRAPH_COVERED_BY.keys()
EXPORTED = [
    name if name in ALWAYS_TRIED else pytest.param(name, marks=pytest.mark.extended)
    for name in architecture_names()
]


@pytest.mark.slow
def test_a_network_that_could_still_be_trained_makes_the_same_graph() -> None:
    """`pack` traces a trainable network before it finds out which blocks overwrite their input."""
    graphs = []
    for trains in (True, False):
        network = load_network(open_bundle(BASE_BUNDLE)).requires_grad_(trains)
        assert network.levels
        graphs.append(exported(network, "small_resnet20")[1])
    assert graphs[0] == graphs[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_family_exports_in_a_form_that_runtimes_can_read(name: str, tmp_path: Path) -> None:
    network = fresh_network(name)
    disturb_normalisation(network)
    graph, content = exported(network, name)
    assert (graph.ir_version, [(o.domain, o.version) for o in graph.opset_import]) == (8, [("", 17)])
    assert {node.op_type for node in graph.graph.node} <= TENSORRT
    first = graph.graph.node[0]
    assert first.op_type == "Cast" and list(first.input) == ["image"]
    assert with_foreign_tensors(graph) == []
    left = normalisations_left(content, tmp_path)
    # DenseNet normalises before it convolves, so runtimes cannot fold its normalisations.
    assert left > 60 if name.startswith("densenet") else left == 0
    check_cost(graph, network_arrays(network).keys())
    of_weights, others = graph_cost(graph, network_arrays(network).keys())
    assert 0.7 < (of_weights.operations + others.operations) / multiplications(network) < 1.5
    counted = {name for name in network_arrays(network) if name.startswith("backbone.")}
    assert declared_backbone(graph.SerializeToString()).keys() == counted, "the graph leaves tensors out"
    report = check_parity(Classifier(content), parity_probe(network))
    assert report.largest_difference <= report.tolerance
    logits, probabilities = Classifier(content).run(generated_images(64))
    assert logits.shape == (5, 5)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)


def test_an_exporter_that_fails_may_be_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def export(*args: object, **settings: object) -> None:
        raise ValueError("The model contains functions.\nUse a pass that inlines them.")

    monkeypatch.setattr(torch.onnx, "export", export)
    told = "to ONNX: The model contains functions; if onnxscript is old, update it: pip install"
    with pytest.raises(ExportError, match=told):
        trace_graph(fresh_network("small_resnet20"), "sigmoid")


@pytest.mark.slow
def test_softmax_and_levels_export_in_the_same_form() -> None:
    network = network_with_levels()
    graph, content = exported(network, "small_resnet20", "softmax")
    assert {node.op_type for node in graph.graph.node} <= TENSORRT
    assert check_parity(Classifier(content), parity_probe(network)).largest_difference < 1e-4
    _, probabilities = Classifier(content).run(generated_images(64))
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)


def multiplications(network: Network) -> int:
    """Counts torch's multiplications for one image; each element of an output counts as at least one."""
    count = 0

    def add(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal count
        weights = module.weight[0].numel() if isinstance(module, nn.Conv2d | nn.Linear) else 1
        count += output.numel() * weights

    layers = [m for m in network.modules() if [*m.parameters(recurse=False)] or not [*m.children()]]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    size = network.preprocessing.image_size
    with torch.no_grad():
        network(torch.zeros(1, size, size, 3, dtype=torch.uint8))
    for hook in hooks:
        hook.remove()
    return count


def disturb_normalisation(network: Network) -> None:
    """Moves BatchNormalization away from its initial values, with which it does almost nothing."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean += 0.1 * torch.randn(module.running_mean.shape, generator=generator)
            module.running_var *= 1 + torch.rand(module.running_var.shape, generator=generator)


def with_foreign_tensors(model: ModelProto) -> list[str]:
    """Names the convolutions whose weight or bias is not one of the network's tensors."""
    weights = {tensor.name for tensor in model.graph.initializer if not tensor.raw_data}
    return [n.name for n in model.graph.node if n.op_type == "Conv" and not weights.issuperset(n.input[1:])]


def normalisations_left(content: bytes, folder: Path) -> int:
    """Counts the BatchNormalization nodes that are left when ONNX Runtime has loaded and optimised a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    nodes = onnx.load_model(folder / "optimised.onnx").graph.node
    return sum(node.op_type == "BatchNormalization" for node in nodes)


# Export


def test_export_writes_the_homes_classifier(home: Home, tmp_path: Path) -> None:
    report = export_onnx(home, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == home.current().onnx.read_bytes()
    assert report.onnx_bytes == (tmp_path / "out.onnx").stat().st_size


def test_export_takes_a_bundle_file(tmp_path: Path, onnx_file: bytes) -> None:
    export_onnx(BASE_BUNDLE, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == onnx_file


def test_a_foreign_onnx_file_is_refused(tmp_path: Path, onnx_file: bytes) -> None:
    model = onnx.load_model_from_string(onnx_file)
    del model.metadata_props[:]
    (tmp_path / "foreign.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match="not exported by lwm-edge"):
        Classifier(tmp_path / "foreign.onnx")
    (tmp_path / "garbage.onnx").write_bytes(b"garbage")
    with pytest.raises(ExportError, match="cannot be loaded"):
        Classifier(tmp_path / "garbage.onnx")
    with pytest.raises(ExportError, match="does not exist"):
        Classifier(tmp_path / "none.onnx")
