"""What nobody declares is found in a home and named, wherever it hides."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from lwm_edge import audit
from lwm_edge.errors import BundleError
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import ONNX_GRAPH, save_bundle

PIXELS = b"\x80" * 28 * 28 * 3


def problems(home: Home) -> str:
    report = audit(home)
    assert report.passed == (not report.problems)
    return "\n".join(report.problems)


def test_nothing_is_found_in_a_fresh_home(home: Home) -> None:
    assert problems(home) == ""


@pytest.mark.parametrize("hidden", [".thumbnails", "photos/.deep", "generations/00000007", "current/.cache"])
def test_a_hidden_or_empty_folder_is_named(home: Home, hidden: str) -> None:
    (home.path / hidden).mkdir(parents=True)
    assert f"{Path(hidden).name} (a folder) is unexplained" in problems(home)


def test_a_link_out_of_the_home_is_named(home: Home, tmp_path: Path) -> None:
    (home.path / "photos").symlink_to(tmp_path)
    assert "photos (" in problems(home) and "is unexplained" in problems(home)


def test_an_extended_attribute_is_named(home: Home) -> None:
    try:
        os.setxattr(home.current().onnx, "user.exemplar", PIXELS[:1000])
    except OSError:
        pytest.skip("this file system has no extended attributes")
    assert "classifier.onnx carries the extended attribute user.exemplar" in problems(home)


def test_pixels_appended_to_the_bundle_are_refused_with_its_path(home: Home) -> None:
    path = home.current().bundle
    path.write_bytes(path.read_bytes() + PIXELS)
    with pytest.raises(BundleError, match=r"model\.lwm"):
        audit(home)


def rewrite_header(path: Path, header: bytes) -> None:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def header_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


@pytest.mark.parametrize(
    ("hide", "problem"),
    [
        (
            lambda h: json.dumps({"__metadata__": {"pixels": "80" * 500}, **json.loads(h)}).encode(),
            "metadata",
        ),
        (lambda h: h + b" " * 1000, "bytes more than it needs"),
    ],
)
def test_a_header_that_holds_more_is_named(home: Home, hide, problem: str) -> None:  # type: ignore[no-untyped-def]
    path = home.current().bundle
    longer = hide(header_of(path)).ljust(8)
    rewrite_header(path, longer)
    bundle = home.current().bundle.stat().st_size
    manifest = _manifest_said_to_be(home, bundle)
    _replace_manifest(path, manifest)
    assert problem in problems(home)


def _manifest_said_to_be(home: Home, length: int) -> bytes:
    """Makes the manifest of somebody who changed the stated length too."""
    from safetensors import safe_open

    from lwm_edge.model import manifest as manifests

    with safe_open(home.current().bundle, framework="np") as file:
        found = manifests.decode(file.get_tensor("manifest").tobytes(), "")
    return manifests.encode(found.model_copy(update={"bundle_bytes": length}))


def _replace_manifest(path: Path, block: bytes) -> None:
    content, header = path.read_bytes(), header_of(path)
    start, end = json.loads(header)["manifest"]["data_offsets"]
    data = 8 + len(header)
    path.write_bytes(content[: data + start] + block + content[data + end :])


def change_graph(home: Home, change) -> None:  # type: ignore[no-untyped-def]
    bundle = home.open_bundle()
    arrays = bundle.arrays()
    model = onnx.load_model_from_string(arrays[ONNX_GRAPH].tobytes())
    change(model)
    arrays[ONNX_GRAPH] = np.frombuffer(model.SerializeToString(), dtype=np.uint8)
    save_bundle(home.current().bundle, arrays, bundle.manifest.model_copy(update={"bundle_bytes": 0}))


def test_pixels_in_the_graphs_tensors_are_named(home: Home) -> None:
    exemplar = onnx.numpy_helper.from_array(np.frombuffer(PIXELS, np.uint8), "exemplar")
    change_graph(home, lambda model: model.graph.initializer.append(exemplar))
    assert "onnx_graph: its constant 'exemplar' is larger than" in problems(home)


def test_pixels_in_the_graphs_remarks_are_named(home: Home) -> None:
    change_graph(home, lambda model: setattr(model.graph, "doc_string", "80" * 2000))
    assert "onnx_graph: it has comments" in problems(home)


def test_pixels_in_the_receipt_are_named(home: Home) -> None:
    path = home.current().receipt
    content = json.loads(path.read_bytes()) | {"pixels": "80" * 1000}
    path.write_bytes(json.dumps(content).encode().ljust(path.stat().st_size))
    assert "receipt.json has pixels, which is not a field of a receipt" in problems(home)


def test_a_receipt_of_another_ledger_is_named(home: Home) -> None:
    path = home.current().receipt
    head = home.open_bundle().manifest.ledger.head
    assert head is not None
    path.write_bytes(path.read_bytes().replace(head.encode(), b"a" * 64))
    assert "receipt.json was written for another ledger" in problems(home)


def test_an_edited_ledger_is_named(home: Home) -> None:
    bundle = home.open_bundle()
    (entry,) = bundle.manifest.ledger.latest
    latest = (entry.model_copy(update={"peak_rss_bytes": 1}),)
    ledger = bundle.manifest.ledger.model_copy(update={"latest": latest})
    save_bundle(bundle.path, bundle.arrays(), bundle.manifest.model_copy(update={"ledger": ledger}))
    assert "the ledger was edited" in problems(home)


@pytest.mark.parametrize(
    ("figure", "count", "problem"),
    [("teacher_networks", 2, "2 teacher networks alive"), ("images_alive", 7, "7 photos left in memory")],
)
def test_what_an_increment_left_in_memory_is_named(home: Home, figure: str, count: int, problem: str) -> None:
    bundle = home.open_bundle()
    (entry,) = bundle.manifest.ledger.latest
    ledger = bundle.manifest.ledger.with_entry(entry.model_copy(update={figure: count}))
    save_bundle(bundle.path, bundle.arrays(), bundle.manifest.model_copy(update={"ledger": ledger}))
    assert problem in problems(home)
