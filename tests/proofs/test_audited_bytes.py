"""The audit finds and names content in a home that nothing declares."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import load_file, save_file

from lwm_edge import audit
from lwm_edge.errors import BundleError, StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment.learn import learn_classes
from lwm_edge.model.bundle import save_bundle
from lwm_edge.model.tensors import ONNX_GRAPH
from lwm_edge.records import ignore_progress
from tests.support.folders import PhotoMaker
from tests.support.samples import QUICK

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


def test_a_home_inside_the_home_is_not_said_to_be_removed_by_the_next_change(home: Home) -> None:
    inner = home.path / "sub"
    inner.mkdir()
    (inner / "lock").touch()
    (inner / "current").symlink_to("generations/00000000")
    found = problems(home)
    for name in ("sub", "sub/lock", "sub/current"):
        assert re.search(rf"{name} \([^)]*\) is unexplained: it does not belong to this home", found)
    assert "the next change will remove it" not in found


def test_a_link_out_of_the_home_is_named(home: Home, tmp_path: Path) -> None:
    (home.path / "photos").symlink_to(tmp_path)
    assert "photos (" in problems(home) and "is unexplained" in problems(home)


def test_an_extended_attribute_is_named(home: Home) -> None:
    try:
        os.setxattr(home.current().onnx, "user.exemplar", PIXELS[:1000])
    except OSError:
        pytest.skip("this file system has no extended attributes")
    assert "classifier.onnx has the extended attribute user.exemplar" in problems(home)


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        ("trusted.exemplar", False),
        ("security.exemplar", False),
        ("security.selinux", True),
        ("system.x", False),
    ],
)
def test_known_attributes_of_the_system_are_named_and_all_others_are_problems(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, passes: bool
) -> None:
    monkeypatch.setattr(os, "listxattr", lambda path, follow_symlinks: [name])
    report = audit(home)
    assert report.passed == passes and report.not_audited == ((name,) if passes else ())
    assert passes or f"classifier.onnx has the extended attribute {name}" in "\n".join(report.problems)


def test_pixels_appended_to_the_bundle_are_refused_with_its_path(home: Home) -> None:
    path = home.current().bundle
    path.write_bytes(path.read_bytes() + PIXELS)
    with pytest.raises(BundleError, match=r"model\.lwm"):
        audit(home)


def compact(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


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
            lambda h: compact({"__metadata__": {"pixels": "80" * 500}, **json.loads(h)}),
            "metadata",
        ),
        (lambda h: h + b" " * 1000, "padded with 100"),
        (lambda h: h.replace(b'"dtype"', b' "dtype"'), "its header hides something"),
        (lambda h: h.replace(b"backbone", b"\\u0062ackbone"), "its header hides something"),
    ],
)
def test_a_header_with_more_content_is_named(home: Home, hide, problem: str) -> None:  # type: ignore[no-untyped-def]
    path = home.current().bundle
    longer = hide(header_of(path)).ljust(8)
    rewrite_header(path, longer)
    _replace_manifest(path, _manifest_stating_length(home, path.stat().st_size))
    assert problem in problems(home)


def _manifest_stating_length(home: Home, length: int) -> bytes:
    """Returns the home's manifest, except that it states the given length for the bundle."""
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


def test_pixels_in_the_graphs_comments_are_named(home: Home) -> None:
    change_graph(home, lambda model: setattr(model.graph, "doc_string", "80" * 2000))
    assert "onnx_graph: it has comments" in problems(home)


def test_pixels_in_the_receipt_are_named(home: Home) -> None:
    path = home.current().receipt
    length, content = path.stat().st_size, json.loads(path.read_bytes())
    for change in ({"pixels": "80" * 1000}, {"footprint": content["footprint"] | {"pixels": "80" * 1000}}):
        path.write_bytes(json.dumps(content | change, indent=2).encode().ljust(length - 1) + b"\n")
        assert "pixels, which is not a field of a receipt" in problems(home)


@pytest.mark.parametrize(
    "hide",
    [
        lambda text: text.replace(b"{", b'{"home": "' + b"80" * 1000 + b'",', 1),
        lambda text: text.replace(b"\n", b" \t \n"),
        lambda text: text.replace(b'"home"', b'"\\u0068ome"'),
    ],
)
def test_content_hidden_in_a_receipts_json_is_found(home: Home, hide: Callable[[bytes], bytes]) -> None:
    path = home.current().receipt
    content = path.read_bytes()
    path.write_bytes(hide(content.rstrip()).ljust(len(content) - 1) + b"\n")
    assert "receipt.json hides something" in problems(home)


@pytest.mark.parametrize(
    "hide",
    [
        lambda text: text.replace(b"{", b'{"recipe":"' + b"80" * 1000 + b'",', 1),
        lambda text: text.replace(b",", b" \t,"),
        lambda text: text.replace(b'"recipe"', b'"\\u0072ecipe"'),
        lambda text: text[:-1] + b',"pixels":"8080"}',
        lambda text: text.replace(b'"custody":', b'"\\u0063ustody":'),
    ],
)
def test_content_hidden_in_a_manifest_is_refused(home: Home, hide: Callable[[bytes], bytes]) -> None:
    path = home.current().bundle
    block = _manifest_stating_length(home, path.stat().st_size)
    _replace_manifest(path, hide(block.rstrip(b"\0")).ljust(len(block), b"\0"))
    with pytest.raises(BundleError, match=r"hides something|breaks the bundle format"):
        audit(home)


@pytest.fixture
def interrupted(home: Home, make_photos: PhotoMaker) -> Home:
    """Makes a home with a checkpoint in it."""
    asked, config = iter(range(99)), QUICK.model_copy(update={"recipe": "lwm", "epochs": 3, "batch_size": 4})
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, make_photos("Bag"), config, ignore_progress, lambda: next(asked) == 1)
    assert home.training.exists()
    return home


def test_a_checkpoint_of_this_model_is_accounted_for(interrupted: Home) -> None:
    assert problems(interrupted) == ""


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: {**t, "pixels": np.zeros(100_000, np.uint8)}, "pixels U8 [100000] is not part of"),
        (lambda t: {**t, "parameter.pixels": np.zeros(9, np.float32)}, "parameter.pixels F32 [9] is no"),
        (lambda t: {n: t[n] for n in t if n != "momentum.head.bias"}, "parameter.head.bias F32 [32] is no"),
        (
            lambda t: t | {"momentum.head.bias": t["momentum.head.bias"].astype(float)},
            "head.bias F64 [32] is no",
        ),
        (lambda t: t | {"header": t["header"][:-1]}, "its header is not as lwm-edge writes it"),
        (lambda t: t | {"header": _with(t["header"], b'"step"', b' "step"')}, "its header hides something"),
        (
            lambda t: t | {"header": _with(t["header"], b'"step"', b'"x":1,"step"')},
            "not as lwm-edge writes it",
        ),
        (lambda t: t | {"header": _other_model(t["header"])}, "it belongs to the model 0000"),
    ],
)
def test_a_checkpoint_that_holds_anything_else_is_named(
    interrupted: Home, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], problem: str
) -> None:
    save_file(change(load_file(interrupted.training)), interrupted.training)
    assert problem in problems(interrupted)


def _with(header: np.ndarray, old: bytes, new: bytes) -> np.ndarray:
    text = header.tobytes().replace(old, new, 1)[: len(header)]
    return np.frombuffer(text, np.uint8)


def _other_model(header: np.ndarray) -> np.ndarray:
    digest = json.loads(header.tobytes())["parent_digest"].encode()
    return _with(header, digest, b"0" * 64)


def test_a_tensor_of_another_data_type_is_named(home: Home) -> None:
    bundle = home.open_bundle()
    arrays = bundle.arrays()
    name = next(name for name in arrays if name.startswith("backbone.") and arrays[name].dtype == np.float32)
    arrays[name] = arrays[name].astype(np.float64)
    save_bundle(home.current().bundle, arrays, bundle.manifest.model_copy(update={"bundle_bytes": 0}))
    assert f"nor lwm-edge declares a tensor {name} float64" in problems(home)


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
    [
        ("teacher_networks", 2, "had 2 teacher networks in memory"),
        ("images_alive", 7, "left 7 photos in memory"),
    ],
)
def test_photos_and_teachers_that_an_increment_left_in_memory_are_named(
    home: Home, figure: str, count: int, problem: str
) -> None:
    bundle = home.open_bundle()
    (entry,) = bundle.manifest.ledger.latest
    ledger = bundle.manifest.ledger.with_entry(entry.model_copy(update={figure: count}))
    save_bundle(bundle.path, bundle.arrays(), bundle.manifest.model_copy(update={"ledger": ledger}))
    assert problem in problems(home)
