"""A converted form of the exported file is refused if it does not agree with the original."""

from __future__ import annotations

import errno
import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from lwm_edge import Classifier, ExportConfig, export_onnx
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import ConfigError, ExportError, ParityError, PhotosError, ResourceError
from lwm_edge.home import export
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.onnx import variants
from lwm_edge.model.onnx.comparison import VariantReport
from lwm_edge.model.onnx.graph import fill_graph
from lwm_edge.model.onnx.parity import generated_images
from lwm_edge.records import Progress
from tests.support.folders import PhotoMaker

PHOTOS = DEMO_DATA / "test" / "base"
IMAGES = generated_images(28)


@pytest.fixture(scope="module")
def original() -> bytes:
    bundle = open_bundle(BASE_BUNDLE)
    return fill_graph(bundle.arrays(), bundle.manifest)


def test_a_static_batch_has_fixed_shapes_and_takes_any_number_of_images(original: bytes) -> None:
    static = variants.with_static_batch(original, 4)
    session = onnxruntime.InferenceSession(static, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [4, 28, 28, 3]
    assert {output.name: output.shape[0] for output in session.get_outputs()} == {
        "logits": 4, "probabilities": 4, "unknown": 4, "head_inputs": 4
    }  # fmt: skip
    for count in (0, 1, 4, 5):
        expected = Classifier(original).outputs(IMAGES[:count])
        for given, wanted in zip(Classifier(static).outputs(IMAGES[:count]), expected, strict=True):
            np.testing.assert_allclose(given, wanted, atol=1e-4)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_outputs_of_a_fixed_head_beyond_the_classes_have_probability_0(
    original: bytes, activation: str
) -> None:
    fixed = variants.with_fixed_head(original, 32)
    if activation == "softmax":
        model = onnx.load_model_from_string(fixed)
        node = next(n for n in model.graph.node if n.op_type == "Sigmoid")
        node.op_type = "Softmax"
        fixed = model.SerializeToString()
    session = onnxruntime.InferenceSession(fixed, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": IMAGES})
    assert logits.shape == (5, 32) and (probabilities[:, 6:] == 0).all()
    assert (logits[:, 6:] == -1e4).all() and np.isfinite(np.float16(logits)).all()
    assert Classifier(fixed).run(IMAGES)[0].shape == (5, 6)  # as an app sees it
    np.testing.assert_array_equal(Classifier(fixed).run(IMAGES)[0], Classifier(original).run(IMAGES)[0])
    expected = Classifier(original).outputs(IMAGES).unknown
    np.testing.assert_array_equal(Classifier(fixed).outputs(IMAGES).unknown, expected)


def test_shapes_of_a_fixed_head_do_not_change_when_a_class_is_learnt(original: bytes) -> None:
    bundle = open_bundle(BASE_BUNDLE)
    names = (*bundle.manifest.class_names, "Bag")
    grown = fill_graph(bundle.arrays(), bundle.manifest.model_copy(update={"class_names": names}))
    shapes = [
        [(i.name, list(i.dims)) for i in onnx.load_model_from_string(f).graph.initializer]
        for f in (variants.with_fixed_head(original, 32), variants.with_fixed_head(grown, 32))
    ]
    assert shapes[0] == shapes[1]


def types(content: bytes) -> dict[str, int]:
    return {t.name: t.data_type for t in onnx.load_model_from_string(content).graph.initializer}


def test_fp16_halves_the_backbone_but_not_the_head_the_inputs_or_the_outputs(original: bytes) -> None:
    half = variants.in_half_precision(original)
    assert types(half)["backbone.stem.0.weight"] == TensorProto.FLOAT16
    assert types(half)["head.weight"] == TensorProto.FLOAT
    assert len(half) < 0.6 * len(original)
    session = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(uint8)"
    assert {output.type for output in session.get_outputs()} == {"tensor(float)"}
    difference = np.abs(Classifier(half).run(IMAGES)[0] - Classifier(original).run(IMAGES)[0]).max()
    assert 0 < difference < 0.1
    unknown, expected = (Classifier(content).outputs(IMAGES).unknown for content in (half, original))
    np.testing.assert_allclose(unknown, expected, rtol=0.02, atol=0.1)


def test_int8_is_symmetric_and_by_channel_and_leaves_the_head_in_float32(original: bytes) -> None:
    content = variants.in_eight_bits(original, IMAGES)
    model = onnx.load_model_from_string(content)
    by_name = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs and all((by_name[n.input[2]] == 0).all() for n in pairs)
    assert {by_name[n.input[2]].dtype for n in pairs} == {np.dtype(np.int8)}
    weights = [n for n in pairs if n.op_type == "DequantizeLinear" and n.input[0] in by_name]
    # all convolutions but the first
    assert len(weights) == 20 and all(by_name[n.input[1]].size > 1 for n in weights)
    assert not any(node.op_type == "BatchNormalization" for node in model.graph.node)
    gemms = [node for node in model.graph.node if node.op_type == "Gemm"]
    assert len(gemms) == 4 and all(by_name[gemm.input[1]].dtype == np.float32 for gemm in gemms)
    assert len(content) < 0.4 * len(original)
    said = {p.key: p.value for p in model.metadata_props}
    assert said == {p.key: p.value for p in onnx.load_model_from_string(original).metadata_props}
    assert model.graph.name == onnx.load_model_from_string(original).graph.name


def test_int8_for_tensorrt_keeps_weights_in_float_and_dequantises_once_per_use(original: bytes) -> None:
    content = variants.in_eight_bits(original, IMAGES, float_weights=True)
    graph = onnx.load_model_from_string(content).graph
    stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
    quantised = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    weights = [node for node in quantised if node.input[0] in stored]
    assert len(weights) == 20 and {stored[n.input[0]] for n in weights} == {TensorProto.FLOAT}
    read = [name for node in graph.node for name in node.input if name]
    restored = [node for node in graph.node if node.op_type == "DequantizeLinear"]
    assert len(restored) == len(quantised) and all(read.count(node.output[0]) == 1 for node in restored)
    small = variants.in_eight_bits(original, IMAGES)
    first, second = (Classifier(file).run(IMAGES)[0] for file in (content, small))
    np.testing.assert_allclose(first, second, atol=0.2)


@pytest.mark.parametrize(
    ("convert", "module"),
    [
        (variants.in_half_precision, "onnxruntime.transformers.onnx_model"),
        (lambda content: variants.in_eight_bits(content, IMAGES), "onnxruntime.quantization"),
    ],
)
def test_a_converter_that_cannot_be_imported_is_explained(
    convert: Callable[[bytes], bytes], module: str, original: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as in onnxruntime 1.25 and 1.26 where there is no sympy
    with pytest.raises(ExportError, match=f"cannot convert .* {module} .*; another version of .* work"):
        convert(original)


def test_conversions_that_overlap_silence_only_the_tool_and_then_restore_everything(
    original: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def state() -> list[object]:
        root, tools = logging.root, logging.getLogger("onnxruntime")
        return [root.manager.disable, [*root.handlers], [*root.filters], tools.level, [*warnings.filters]]

    def log(progress: Progress) -> None:
        logging.getLogger("app").critical("The app still logs.")

    monkeypatch.setattr(logging.root, "handlers", [])
    before = state()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        first, second = variants._quietly("float16"), variants._quietly("int8")
        for thread, conversion in ((one, first), (other, second)):
            thread.submit(conversion.__enter__).result()
        variants.in_eight_bits(original, IMAGES, on_progress=log)
        for thread, conversion in ((one, first), (other, second)):
            thread.submit(conversion.__exit__, None, None, None).result()
    assert state() == before
    assert set(capsys.readouterr().err.splitlines()) == {"The app still logs."}


@pytest.mark.parametrize(
    "refusal",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("ModelProto serialization failed")],
)
def test_a_full_disk_is_not_taken_for_a_fault_of_the_converter(
    refusal: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise refusal

    monkeypatch.setattr(variants, "open_session", full)
    if not isinstance(refusal, OSError):  # as ONNX Runtime says it
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20_000))
    config = ExportConfig(precision="int8", photos=PHOTOS)
    with pytest.raises(
        ResourceError, match=r"cannot use /.* for temporary files: the disk is full; set TMPDIR"
    ):
        export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config)


@pytest.mark.parametrize(
    ("settings", "least", "below"),
    [
        ({"precision": "fp16"}, 0.99, 0.6),
        ({"precision": "int8"}, 0.97, 0.4),
        ({"static_batch": 2, "fixed_head": True}, 1.0, 1.2),
        ({"precision": "fp16", "static_batch": 3, "fixed_head": True}, 0.99, 0.7),
    ],
)
def test_a_form_is_compared_on_photos_and_loads_as_a_classifier(
    settings: dict, least: float, below: float, tmp_path: Path
) -> None:
    config = ExportConfig(photos=PHOTOS, **settings)
    report = export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config).comparison
    assert report is not None and report.min_agreement == least <= report.agreement
    assert report.photos == (150 if settings.get("precision") == "int8" else 300)
    assert report.accuracy is not None and report.original_accuracy is not None
    assert abs(report.accuracy - report.original_accuracy) < 0.03 and report.accuracy > 0.9
    assert report.onnx_bytes == (tmp_path / "form.onnx").stat().st_size
    assert report.onnx_bytes < below * report.original_onnx_bytes
    model = onnx.load_model(tmp_path / "form.onnx")
    assert (model.ir_version, [(o.domain, o.version) for o in model.opset_import]) == (8, [("", 17)])
    assert not any(node.domain for node in model.graph.node)
    onnx.checker.check_model(model)
    (prediction,) = Classifier(tmp_path / "form.onnx").classify([PHOTOS / "Trouser" / "000.png"], top_k=1)
    assert prediction.class_names == ("Trouser",)


def test_a_form_that_differs_too_often_is_not_written_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variants, "in_half_precision", wrong)
    config = ExportConfig(precision="fp16", photos=PHOTOS)
    with pytest.raises(ParityError, match=r"% of 300 photos; at least 99% is needed, so nothing was written"):
        export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config)
    assert not (tmp_path / "form.onnx").exists()
    forced = config.model_copy(update={"force": True})
    report = export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", forced).comparison
    assert report is not None and report.agreement < 0.5 and (tmp_path / "form.onnx").exists()


def test_an_agreement_that_is_just_too_low_is_not_rounded_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly_same = VariantReport(
        photos=2500,
        agreement=2499 / 2500,
        min_agreement=1.0,
        accuracy=None,
        original_accuracy=None,
        onnx_bytes=1,
        original_onnx_bytes=1,
        photo_ms=1,
        original_photo_ms=1,
    )
    monkeypatch.setattr(export, "compare", lambda *_, **__: nearly_same)
    config = ExportConfig(static_batch=2, photos=PHOTOS)
    with pytest.raises(ParityError, match=r"on 99\.9% of 2500 photos; at least 100% is needed"):
        export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config)


def wrong(content: bytes) -> bytes:
    """Makes a file favour one class, whatever the photo shows."""
    model = onnx.load_model_from_string(content)
    bias = next(t for t in model.graph.initializer if t.name == "head.bias")
    values = onnx.numpy_helper.to_array(bias).copy()
    values[0] += 100
    bias.CopyFrom(onnx.numpy_helper.from_array(values, "head.bias"))
    return model.SerializeToString()


def test_photos_of_unknown_classes_have_no_accuracy_and_few_photos_are_refused(
    tmp_path: Path, make_photos: PhotoMaker
) -> None:
    config = ExportConfig(precision="fp16", photos=make_photos("Sneaker", count=5), force=True)
    with pytest.raises(PhotosError, match="5 photos; at least 20 are needed"):
        export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config)
    assert not (tmp_path / "form.onnx").exists()
    make_photos("Bag", "Shirt", count=12)
    comparison = export_onnx(BASE_BUNDLE, tmp_path / "form.onnx", config).comparison
    assert comparison is not None and comparison.accuracy is None


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "int8"}, "int8 must be checked on photos, so give a folder of photos"),
        ({"float_weights": True}, "float_weights applies only to int8, so choose int8 as well"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict, problem: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        ExportConfig(**settings)
    assert refused.value.problems == (problem,)
