from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from lwm_edge import Classifier, export_onnx
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ExportError, ParityError
from lwm_edge.model.bundle import ONNX_GRAPH, open_bundle
from lwm_edge.model.loading import load_network, network_arrays
from lwm_edge.model.manifest import Manifest
from lwm_edge.model.onnx_file import check_parity, fill_graph, generated_images, parity_probe, trace_graph
from tests.support.networks import PREPROCESSING, fresh_network
from tests.support.samples import photo_set


@pytest.fixture(scope="module")
def onnx_file() -> bytes:
    bundle = open_bundle(BASE_BUNDLE)
    return fill_graph(bundle.arrays(ONNX_GRAPH)[ONNX_GRAPH].tobytes(), bundle.arrays(), bundle.manifest)


def test_inputs_outputs_and_metadata(onnx_file: bytes) -> None:
    model, manifest = onnx.load_model_from_string(onnx_file), open_bundle(BASE_BUNDLE).manifest
    (image,) = model.graph.input
    shape = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert shape == ["batch", 28, 28, 3]
    outputs = {
        o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output
    }
    assert outputs == {"logits": ["batch", 6], "probabilities": ["batch", 6]}
    metadata = {p.key: p.value for p in model.metadata_props}
    assert json.loads(metadata["class_names"]) == list(manifest.class_names)
    assert metadata["model_digest"] == manifest.model_digest and manifest.model_digest in model.graph.name
    assert metadata["activation"] == "sigmoid"
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]


def test_nothing_of_the_vendors_source_code_is_in_it(onnx_file: bytes) -> None:
    assert b".py" not in onnx_file and b"stack_trace" not in onnx_file


def test_the_graph_in_the_bundle_has_no_weights() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    weights = sum(a.nbytes for n, a in bundle.arrays().items() if n != ONNX_GRAPH)
    assert len(bundle.arrays(ONNX_GRAPH)[ONNX_GRAPH].tobytes()) < weights / 5


def test_the_same_bundle_gives_the_same_bytes(onnx_file: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    assert (
        fill_graph(bundle.arrays(ONNX_GRAPH)[ONNX_GRAPH].tobytes(), bundle.arrays(), bundle.manifest)
        == onnx_file
    )


def test_parity_on_photos_at_every_batch_size(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE))
    report = check_parity(onnx_file, parity_probe(network, photo_set("base", count=1).load(range(6))))
    assert report.batch_sizes == (1, 2, 5)
    assert report.largest_difference <= report.tolerance


def test_a_changed_weight_breaks_parity(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE)).student(trains=False)
    with torch.no_grad():
        network.head.bias[2] += 0.1
    with pytest.raises(ParityError, match=r"differs from the network by 0\.1"):
        check_parity(onnx_file, parity_probe(network))


def test_another_number_of_classes_breaks_parity(onnx_file: bytes) -> None:
    network = load_network(open_bundle(BASE_BUNDLE)).student(trains=False)
    network.add_classes(1, torch.Generator())
    with pytest.raises(ParityError, match="6 classes, the network 7"):
        check_parity(onnx_file, parity_probe(network))


@pytest.mark.parametrize("graph", [b"", b"garbage" * 10])
def test_a_damaged_graph(graph: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    with pytest.raises((ExportError, IndexError)):
        fill_graph(graph, bundle.arrays(), bundle.manifest)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "activation"),
    [
        (
            "resnet18",
            "softmax",
        ),  # with sigmoid, its export differs in the last node alone, as the others have it
        ("mobilenet_v2", "sigmoid"),
        ("efficientnet_b0", "sigmoid"),
        ("shufflenet_v2_x0_5", "sigmoid"),
    ],
)
def test_every_family_exports_and_grows(name: str, activation: str) -> None:
    network = fresh_network(name)
    graph = trace_graph(network, activation)
    network.add_classes(2, torch.Generator().manual_seed(0))
    manifest = Manifest(
        architecture=name,
        preprocessing=PREPROCESSING,
        activation=activation,  # type: ignore[arg-type]
        class_names=tuple("abcde"),
        shipped_classes=3,
        capacity=5,
        bundle_bytes=0,
        recipe="base",
        tensors_digest="0" * 64,
    )
    content = fill_graph(graph, network_arrays(network), manifest)
    report = check_parity(content, parity_probe(network))
    assert report.largest_difference <= report.tolerance
    logits, probabilities = Classifier(content).run(generated_images(64))
    assert logits.shape == (5, 5)
    if activation == "softmax":
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
    else:
        np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-4, atol=1e-6)


def test_export_writes_the_homes_classifier(home: object, tmp_path: Path) -> None:
    report = export_onnx(home, tmp_path / "out.onnx")  # type: ignore[arg-type]
    assert (tmp_path / "out.onnx").read_bytes() == home.current().onnx.read_bytes()  # type: ignore[attr-defined]
    assert report.onnx_bytes == (tmp_path / "out.onnx").stat().st_size


def test_export_takes_a_bundle_file(tmp_path: Path, onnx_file: bytes) -> None:
    export_onnx(BASE_BUNDLE, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == onnx_file


def test_a_foreign_onnx_file(tmp_path: Path, onnx_file: bytes) -> None:
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
