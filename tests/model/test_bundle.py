from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ArchitectureError, BundleError, CapacityError, HomeError, ResourceError
from lwm_edge.model import manifest as manifests
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle, tensors_digest
from lwm_edge.model.loading import load_network, network_arrays
from lwm_edge.model.onnx_file import OnnxFile
from lwm_edge.model.tensors import MANIFEST
from tests.support.networks import same_tensors
from tests.support.samples import batch_of, photo_set

Arrays = dict[str, NDArray[Any]]


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(Path(shutil.copy(BASE_BUNDLE, tmp_path / "model.lwm")))


def _rewrite(path: Path, change: dict[str, NDArray[Any]], drop: str | None = None) -> None:
    tensors = {**load_file(path), **change}
    tensors.pop(drop or "", None)
    path.write_bytes(save(tensors))


def _changed_manifest(bundle: Bundle, **update: object) -> NDArray[Any]:
    block = manifests.encode(bundle.manifest.model_copy(update=update))
    return np.frombuffer(block, dtype=np.uint8)


def test_what_is_saved_is_what_is_opened(bundle: Bundle, tmp_path: Path) -> None:
    saved = save_bundle(tmp_path / "saved.lwm", bundle.arrays(), bundle.manifest)
    opened = open_bundle(saved.path)
    assert opened.manifest == bundle.manifest
    assert same_tensors(opened.arrays(), bundle.arrays())
    again = save_bundle(tmp_path / "again.lwm", opened.arrays(), opened.manifest)
    assert again.path.read_bytes() == saved.path.read_bytes()


def test_the_network_computes_from_the_mapped_file(bundle: Bundle) -> None:
    before = bundle.path.read_bytes()
    network = load_network(bundle)
    images, labels = batch_of(photo_set("base", count=20))
    with torch.no_grad():
        accuracy = (network(images)[1].argmax(1) == labels).float().mean().item()
    assert accuracy > 0.9
    assert not any(parameter.requires_grad for parameter in network.parameters())
    declared = {n: a for n, a in bundle.arrays().items() if n.startswith(("backbone.", "head."))}
    assert same_tensors(network_arrays(network), declared)
    assert bundle.path.read_bytes() == before


def test_training_a_copy_leaves_the_mapped_tensors_alone(bundle: Bundle) -> None:
    frozen = load_network(bundle)
    copied = frozen.student(trains=True)
    with torch.no_grad():
        copied.head.weight += 1
    assert not torch.equal(frozen.head.weight, copied.head.weight)
    assert {p.data_ptr() for p in frozen.parameters()}.isdisjoint(p.data_ptr() for p in copied.parameters())


def test_the_length_of_a_bundle_never_changes(bundle: Bundle, tmp_path: Path) -> None:
    names = tuple(f"{i:02d} {'x' * 61}" for i in range(bundle.manifest.capacity))
    full = bundle.manifest.model_copy(update={"class_names": names, "increment_count": 10**9})
    save_bundle(tmp_path / "full.lwm", bundle.arrays(), full)
    assert (
        (tmp_path / "full.lwm").stat().st_size == bundle.path.stat().st_size == bundle.manifest.bundle_bytes
    )


def test_more_classes_than_capacity_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    too_many = tuple(f"class {i}" for i in range(bundle.manifest.capacity + 1))
    with pytest.raises(CapacityError):
        save_bundle(
            tmp_path / "x.lwm", bundle.arrays(), bundle.manifest.model_copy(update={"class_names": too_many})
        )
    assert not (tmp_path / "x.lwm").exists()


def test_another_length_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    grown = {**bundle.arrays(), "more": np.zeros(8, np.float32)}
    with pytest.raises(BundleError, match="as shipped"):
        save_bundle(tmp_path / "x.lwm", grown, bundle.manifest)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="does not exist"):
        open_bundle(tmp_path / "none.lwm")


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (errno.EACCES, HomeError, "Permission denied; check the path and its permissions"),
        (errno.EMFILE, ResourceError, r"too many files open; raise the limit \(ulimit -n\)"),
    ],
)
def test_a_file_that_the_system_does_not_open_is_not_called_damaged(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], words: str
) -> None:
    def refuse(*given: object, **named: object) -> None:
        raise OSError(number, os.strerror(number), str(bundle.path))

    for module in ("lwm_edge.model.bundle.safe_open", "lwm_edge.inspection.read_regular"):
        with monkeypatch.context() as patch:
            patch.setattr(module, refuse)
            with pytest.raises(kind, match=words):
                open_bundle(bundle.path)
    onnx = bundle.path.with_suffix(".onnx")
    onnx.write_bytes(b"any")
    monkeypatch.setattr("lwm_edge.inspection.open_regular", refuse)
    with pytest.raises(kind, match=words):
        OnnxFile(onnx)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + b"x" * 100, b"\x80\x02}q\x00." * 20, b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.lwm").write_bytes(content)
    with pytest.raises(BundleError, match="not a readable bundle"):
        open_bundle(tmp_path / "x.lwm")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_bundle_is_refused(bundle: Bundle, share: float) -> None:
    content = bundle.path.read_bytes()
    bundle.path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError):
        open_bundle(bundle.path)


def test_appended_bytes_are_refused(bundle: Bundle) -> None:
    bundle.path.write_bytes(bundle.path.read_bytes() + b"pixels")
    with pytest.raises(BundleError):
        open_bundle(bundle.path)


def test_another_schema_version_is_refused(bundle: Bundle) -> None:
    text = bundle.manifest.model_dump_json().replace('"schema_version":2', '"schema_version":3')
    block = text.encode().ljust(manifests.encoded_length(bundle.manifest.capacity), b"\0")
    _rewrite(bundle.path, {MANIFEST: np.frombuffer(block, np.uint8)})
    with pytest.raises(BundleError, match=r"schema version 3.*install the lwm-edge release"):
        open_bundle(bundle.path)


def test_a_flipped_weight_breaks_the_digest(bundle: Bundle) -> None:
    head = bundle.arrays()["head.weight"]
    head[0, 0] += 1
    _rewrite(bundle.path, {"head.weight": head})
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle.path)
    assert any("digest" in problem for problem in caught.value.problems)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bundle: Bundle, value: float) -> None:
    arrays = bundle.arrays()
    arrays["head.bias"][0] = value
    _rewrite(
        bundle.path, {**arrays, MANIFEST: _changed_manifest(bundle, tensors_digest=tensors_digest(arrays))}
    )
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle.path)
    assert caught.value.problems == ("head.bias has values that are not finite",)


def test_values_after_the_last_class_are_refused(bundle: Bundle) -> None:
    arrays = bundle.arrays()
    arrays["head.weight"][-1, 0] = 1
    _rewrite(
        bundle.path, {**arrays, MANIFEST: _changed_manifest(bundle, tensors_digest=tensors_digest(arrays))}
    )
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle.path)
    assert caught.value.problems == ("head.weight has values beyond the last class",)


@pytest.mark.parametrize(
    ("name", "at", "value", "problem"),
    [
        ("measured.right", 0, 1, "measured.right has more photos than measured.total"),
        ("measured.confusions", (0, 1), 6, "measured.confusions names a class that does not exist"),
        ("measured.total", 1, -1, "measured.total has negative numbers of photos"),
        ("statistics.counts", 31, 1, "statistics.counts has values beyond the last class"),
    ],
)
def test_impossible_counts_are_refused(bundle: Bundle, name: str, at: Any, value: int, problem: str) -> None:
    arrays = bundle.arrays()
    arrays[name][at] = value
    block = _changed_manifest(bundle, tensors_digest=tensors_digest(arrays))
    _rewrite(bundle.path, {**arrays, MANIFEST: block})
    with pytest.raises(BundleError) as caught:
        open_bundle(bundle.path)
    assert problem in caught.value.problems


def test_an_edited_class_name_is_found(bundle: Bundle) -> None:
    content = bundle.path.read_bytes()
    assert content.count(b'"Coat"') == 1
    bundle.path.write_bytes(content.replace(b'"Coat"', b'"Boat"'))
    with pytest.raises(BundleError, match="do not match the model's digest"):
        open_bundle(bundle.path)


def test_a_missing_tensor_is_refused(bundle: Bundle) -> None:
    _rewrite(bundle.path, {}, drop="onnx_graph")
    with pytest.raises(BundleError, match="no tensor onnx_graph"):
        open_bundle(bundle.path)


def test_shapes_of_another_architecture_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    block = _changed_manifest(bundle, architecture="small_resnet32")
    _rewrite(bundle.path, {MANIFEST: block})
    with pytest.raises(ArchitectureError) as caught:
        load_network(open_bundle(bundle.path))
    assert any(problem.endswith("is missing") for problem in caught.value.problems)


def test_an_unknown_architecture_is_refused(bundle: Bundle) -> None:
    _rewrite(bundle.path, {MANIFEST: _changed_manifest(bundle, architecture="os.system")})
    with pytest.raises(ArchitectureError, match="not a registered architecture"):
        load_network(open_bundle(bundle.path))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_bytes_give_only_bundle_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(BASE_BUNDLE.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.one_of(st.integers(0, 6000), st.integers(0, len(content) - 1)))
        content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.lwm"
    path.write_bytes(content)
    try:
        opened = open_bundle(path)
    except BundleError:
        return
    # only what the model digest does not cover may differ, such as figures measured on the device
    assert opened.manifest.model_digest == open_bundle(BASE_BUNDLE).manifest.model_digest
