"""The audit finds what is hidden in the form of a home's files, such as extra digits, order and padding."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
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
from lwm_edge.model.custody_record import Custody, Link
from lwm_edge.model.manifest import decode_text
from lwm_edge.model.tensors import BIAS, COUNTS, MANIFEST, ONNX_GRAPH, ROWS_BY_CLASS, WEIGHT
from lwm_edge.records import ignore_progress, plain_json
from tests.support.folders import PhotoMaker
from tests.support.samples import QUICK

Arrays = dict[str, np.ndarray]


def problems(home: Home) -> str:
    return "\n".join(audit(home).problems)


def rewrite(
    home: Home, change: Callable[[Arrays], None] = lambda arrays: None, **of_manifest: object
) -> None:
    """Changes the bundle, and recomputes all digests as an attacker would."""
    bundle = home.open_bundle()
    arrays = bundle.arrays()
    change(arrays)
    manifest = bundle.manifest.model_copy(update={"bundle_bytes": 0, **of_manifest})
    save_bundle(bundle.path, arrays, manifest)


@pytest.mark.parametrize("name", sorted(ROWS_BY_CLASS & {WEIGHT, BIAS, COUNTS, "statistics.means"}))
def test_the_signs_of_zeros_in_reserved_rows_hide_nothing(home: Home, name: str) -> None:
    rewrite(home, lambda arrays: arrays[name][-1:].fill(-0.0))
    assert f"{name} has bits set beyond the last class" in problems(home)


def test_classes_that_were_never_confused_hide_nothing(home: Home) -> None:
    rewrite(home, lambda arrays: arrays["measured.confusions"][-1:].__setitem__((0, slice(2)), 1))
    assert "names classes that were never confused" in problems(home)


def _graph_with(change: Callable[[bytes], bytes]) -> Callable[[Arrays], None]:
    def apply(arrays: Arrays) -> None:
        arrays[ONNX_GRAPH] = np.frombuffer(change(arrays[ONNX_GRAPH].tobytes()), np.uint8)

    return apply


def _with_model_version(graph: bytes) -> bytes:
    model = onnx.load_model_from_string(graph)
    model.model_version = 2**62
    return model.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        # The producer's name (field 2) comes twice, and readers take the last one.
        (lambda graph: b"\x12\x83\x10" + b"x" * 2051 + graph, "hold more than the graph"),
        (lambda graph: b"\x08\x88\x80\x80\x80\x00" + graph, "hold more than the graph"),  # IR version 8
        (_with_model_version, "it has the model version"),
    ],
)
def test_bytes_of_a_graph_that_no_reader_sees_are_named(
    home: Home, change: Callable[[bytes], bytes], problem: str
) -> None:
    rewrite(home, _graph_with(change))
    assert problem in problems(home)


def _replace_header(path: Path, header: Mapping[str, object]) -> None:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def _header(path: Path) -> dict[str, dict[str, object]]:
    content = path.read_bytes()
    header: dict[str, dict[str, object]] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def test_the_order_of_tensors_hides_nothing(home: Home) -> None:
    path = home.current().bundle
    header = _header(path)
    _replace_header(path, dict(reversed(header.items())))
    assert "its tensors are not in the order" in problems(home)
    _replace_header(path, {name: dict(reversed(entry.items())) for name, entry in header.items()})
    assert "its tensors are not in the order" in problems(home)
    _replace_header(path, header)
    assert problems(home) == ""


def _manifest_text(home: Home) -> bytes:
    return decode_text(load_file(home.current().bundle)[MANIFEST].tobytes())


def _replace_manifest(home: Home, text: bytes) -> None:
    path = home.current().bundle
    content = path.read_bytes()
    old = load_file(path)[MANIFEST].tobytes()
    path.write_bytes(content.replace(old, text.ljust(len(old), b"\0")))


@pytest.mark.parametrize(
    "hide",
    [
        lambda text: re.sub(rb'("std":\[0\.\d+)', rb"\g<1>" + b"0" * 500, text, count=1),
        lambda text: re.sub(rb'"seconds":([\d.]+)', rb'"seconds":\g<1>000000', text),
        lambda text: re.sub(rb'"seconds":([\d.]+)', rb'"seconds":"\g<1>"', text),
        lambda text: re.sub(rb'"capacity":(\d+)', rb'"capacity":"000000\g<1>"', text),
        lambda text: re.sub(rb'"capacity":(\d+)', rb'"capacity":\g<1>.0', text),
        lambda text: re.sub(rb'("architecture":"[^"]*"),("preprocessing":\{[^}]*\})', rb"\2,\1", text),
        lambda text: text.replace(b'"shipped_classes":6', b'"shipped_classes":6.0'),
    ],
)
def test_digits_and_the_order_of_fields_hide_nothing_in_a_manifest(
    home: Home, hide: Callable[[bytes], bytes]
) -> None:
    text = _manifest_text(home)
    assert hide(text) != text
    _replace_manifest(home, hide(text))
    with pytest.raises(BundleError, match="hides something"):
        audit(home)


def test_a_recipe_that_does_not_exist_is_named(home: Home) -> None:
    rewrite(home, recipe="8080" * 16)
    assert "the manifest names the recipe '8080" in problems(home)


def test_a_false_record_of_custody_is_named(home: Home) -> None:
    link = Link(increment=1, parent_digest="80" * 32, model_digest="81" * 32, shipped_classes=6)
    rewrite(home, custody=Custody(links=(link,) * 8, dropped_links=80))
    assert "but the record holds 8 and has dropped 80: links were added or removed" in problems(home)


def test_whitespace_after_a_receipt_hides_nothing(home: Home) -> None:
    path = home.current().receipt
    content = path.read_bytes()
    text = content.rstrip()
    path.write_bytes(
        text + b" \n" * ((len(content) - len(text)) // 2) + b"\n" * (len(content) - len(text) & 1)
    )
    assert path.stat().st_size == len(content)
    assert "receipt.json hides something: its padding is not as lwm-edge writes it" in problems(home)


def _change_receipt(home: Home, change: Callable[[bytes], bytes]) -> None:
    path = home.current().receipt
    content = path.read_bytes()
    assert change(content) != content
    path.write_bytes(change(content.rstrip()).ljust(len(content) - 1) + b"\n")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace(b"\n  ", b"\n\t "), "hides something"),  # of the same length
        (
            lambda text: re.sub(rb"(\"tolerance\": [\d.]+)", rb"\g<1>000000", text),
            "more digits than it needs",
        ),
        (
            lambda text: re.sub(rb"(\"onnx_bytes\": )\d+", rb"\g<1>" + b"8" * 900, text),
            "number that is larger",
        ),
        (
            lambda text: re.sub(rb"(\"onnx_bytes\": )(\d+)", rb'\g<1>"' + b"8" * 900 + b'"', text),
            "receipt.json has a value in footprint.onnx_bytes that no receipt can have",
        ),
    ],
)
def test_figures_hide_nothing_in_a_receipt(
    home: Home, change: Callable[[bytes], bytes], problem: str
) -> None:
    _change_receipt(home, change)
    assert problem in problems(home)


@pytest.mark.parametrize("name", ["labels.txt", "receipt.json", "classifier.onnx"])
def test_a_link_in_place_of_a_file_is_named(home: Home, tmp_path: Path, name: str) -> None:
    path = home.current().path / name  # a link as long as its file would not change the number of bytes
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    assert f"{name} is a link, not a file" in problems(home)


def test_a_lock_that_is_not_a_file_is_named(home: Home) -> None:
    (home.path / "lock").unlink(missing_ok=True)
    os.mkfifo(home.path / "lock")
    assert "lock is a named pipe (FIFO), not a file" in problems(home)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb'"job":"\w{64}"', b'"job":"' + b"80" * 300 + b'"'),
        (rb'"step":(\d+)', rb'"step":"000000\1"'),
        (rb'"predicted_seconds":([\d.]+)', rb'"predicted_seconds":\g<1>0000'),
    ],
)
def test_nothing_is_hidden_in_the_header_of_a_checkpoint(
    home: Home, make_photos: PhotoMaker, old: bytes, new: bytes
) -> None:
    asked, config = iter(range(99)), QUICK.model_copy(update={"recipe": "lwm", "epochs": 3, "batch_size": 4})
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, make_photos("Bag"), config, ignore_progress, lambda: next(asked) == 1)
    assert problems(home) == ""
    tensors = load_file(home.training)
    block = tensors["header"].tobytes()
    text = re.sub(old, new, block.rstrip())
    assert text != block.rstrip()
    save_file(tensors | {"header": np.frombuffer(text.ljust(len(block)), np.uint8)}, home.training)
    assert "training.safetensors: its header" in problems(home)


@pytest.mark.parametrize(
    "number", ["1.0", "0.5", "1e-7", "1e-07", "1e16", "1e+16", "0.00001", "-0.0", "7", "-7"]
)
def test_numbers_are_plain_with_or_without_padded_exponents(number: str) -> None:
    assert plain_json(f'{{"a":[{number},"{number}"]}}'.encode()) == {"a": [json.loads(number), number]}


@pytest.mark.parametrize(
    "text",
    [
        *("1.00", "5e-1", "1E-7", "1.0e-7", "0.1e-6", "0.10000000000000001", "1e400", "1e0", "-0"),
        *("9223372036854775808", "0.0e5", '"\\u001F"', '"\\/"', '"\\ue000"', '"\\ue0001.5\\ue000"', "[1 ]"),
    ],
)
def test_json_that_is_not_in_its_plainest_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        plain_json(f"[{text}]".encode())


def test_a_manifest_of_an_earlier_release_may_lack_fields(home: Home) -> None:
    text = _manifest_text(home)
    lacking = text.replace(b'"author":null,', b"")
    assert lacking != text
    _replace_manifest(home, lacking)
    assert problems(home) == ""
