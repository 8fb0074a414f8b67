"""Hostile bundles and ONNX files work or raise a BundleError or ExportError, in bounded memory and time."""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import math
import os
import pickle
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from lwm_edge import evaluate, export_onnx, init_home, predict
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.errors import BundleError, ExportError, LwmEdgeError
from lwm_edge.home.home import Home
from lwm_edge.model import manifest as manifests
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle, tensors_digest
from lwm_edge.model.loading import load_network
from lwm_edge.model.manifest import VENDOR_FIELDS, Levels, Manifest
from lwm_edge.model.onnx.parity import parity_probe, verified_file
from lwm_edge.model.tensors import (
    COUNTS,
    COVARIANCE,
    MANIFEST,
    MEANS,
    ONNX_GRAPH,
    PHOTOS,
    PROBE,
    empty_tensors,
)
from lwm_edge.photos.class_names import class_name_problem
from lwm_edge.photos.preprocessing import Preprocessing
from tests.support.folders import state_of
from tests.support.hostile import memory_bound, no_hang, published

HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**300, 1.5, -0.0, 1e308, math.nan, math.inf, -math.inf,
    "", "\0", "../../etc/passwd", "a\nb", "\u202egnp", "\ud800", "x" * 70_000, "__import__('os')", "1", "F64",
    [], [[]], [None], [-1], [2**60, 2**60], [0] * 300, {}, {"": 0}, {"__class__": "os.system"},
)  # fmt: skip
HOSTILE_NAMES = (
    "../up", "/etc/passwd", "a/b", "a\\b", ".", "..", "C:\\x", "", " ", "a ", "\ta", "a\nb", "a\rb", "a\0b",
    "\x1b[2J", "\x7f", "\x9b", "\u202eabc", "a\u2066b", "\u200b", "a\u200db", "\ufeffa", "a\u00adb", "\u2028",
    "\ue000", "\ud800", "x" * 65, "é" * 33, "Cafe\u0301", "\u212b",
)  # fmt: skip
FLOATS = ("backbone.weight", "head.weight", "head.bias", MEANS, COVARIANCE, PHOTOS, COUNTS, PROBE)
Content = bytes
Case = tuple[str, Content, bool]  # how the file was made, its content, whether it may still be sound


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Makes a sound bundle that is small enough to be opened ten thousand times quickly."""
    generator = np.random.default_rng(0)
    arrays: dict[str, NDArray[Any]] = {
        "backbone.weight": generator.normal(size=(2, 3)).astype(np.float32),
        "head.weight": generator.normal(size=(4, 3)).astype(np.float32),
        "head.bias": generator.normal(size=4).astype(np.float32),
        MEANS: generator.normal(size=(4, 3)).astype(np.float32),
        COVARIANCE: np.eye(3, dtype=np.float32),
        PHOTOS: np.ones(1, np.float32),
        COUNTS: np.ones(4, np.float32),
        PROBE: generator.normal(size=(5, 3)).astype(np.float32),
        **empty_tensors(4, 3),
        ONNX_GRAPH: generator.integers(0, 256, 64).astype(np.uint8),
    }
    for name in ("head.weight", "head.bias", MEANS, COUNTS):
        arrays[name][2:] = 0
    manifest = Manifest(
        architecture="small_resnet20",
        preprocessing=Preprocessing(image_size=28, resize_size=28, mean=(0, 0, 0), std=(1, 1, 1)),
        activation="sigmoid",
        levels=Levels(blocks=(0,), grid=1, values=1),
        class_names=("Coat", "Dress"),
        shipped_classes=2,
        capacity=4,
        bundle_bytes=0,
        recipe="base",
        tensors_digest="0" * 64,
    )
    saved = save_bundle(tmp_path_factory.mktemp("small") / "small.lwm", arrays, manifest)
    return open_bundle(saved.path)


def bytes_changed(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    whole = bundle.path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for _ in range(3500):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            content[draw.randrange(draw.choice((header_end, len(content))))] = draw.randrange(256)
        yield "bytes changed anywhere", bytes(content), True


def lengths_changed(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    whole = bundle.path.read_bytes()
    right = int.from_bytes(whole[:8], "little")
    for _ in range(500):
        wrong = draw.choice((draw.randrange(2**16), 2 ** draw.randrange(64), 2**64 - 1 - draw.randrange(9)))
        yield "header length changed", wrong.to_bytes(8, "little") + whole[8:], wrong == right
    for _ in range(500):
        yield "cut short", whole[: draw.randrange(len(whole))], False
    for _ in range(250):
        yield "made longer", whole + draw.randbytes(draw.randrange(1, 2000)), False


def headers_changed(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    whole = bundle.path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    for _ in range(2000):
        changed = copy.deepcopy(header)
        entry = changed[draw.choice(sorted(header))]
        match draw.randrange(4):
            case 0:
                entry[draw.choice(("dtype", "shape", "data_offsets"))] = draw.choice(HOSTILE_VALUES)
            case 1:
                offsets = draw.choice((entry["shape"] or [0], entry["data_offsets"]))
                offsets[draw.randrange(len(offsets))] = draw.choice((-1, 0, 2**31, 2**40, 2**62, 2**64))
            case 2:
                changed[draw.choice((*HOSTILE_NAMES, "__metadata__"))] = draw.choice((entry, "x", {}))
            case _:
                changed.pop(draw.choice(sorted(header)))
        text = json.dumps(changed).encode()
        yield "header's JSON changed", len(text).to_bytes(8, "little") + text + whole[end:], changed == header


def manifests_changed(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    tensors = load_file(bundle.path)
    original = json.loads(manifests.encode(bundle.manifest).rstrip(b"\0"))
    same = copy.deepcopy(original)
    with_manifest(tensors, same, original)
    assert same["model_digest"] == original["model_digest"]  # as the package computes it
    for _ in range(2000):
        content = copy.deepcopy(original)
        inside: Any = content
        while isinstance(inside, dict | list) and inside:
            key = draw.choice(sorted(inside) if isinstance(inside, dict) else range(len(inside)))
            if draw.random() < 0.6 or not isinstance(inside[key], dict | list):
                inside[key] = draw.choice(HOSTILE_VALUES)
                break
            inside = inside[key]
        yield "manifest's JSON changed", with_manifest(tensors, content, original), content == original


def with_manifest(tensors: dict[str, Any], content: dict[str, Any], original: dict[str, Any]) -> Content:
    """Gives the bundle another manifest, with a correct digest so that later checks are reached."""
    if content.get("model_digest") == original["model_digest"]:
        parts = ("class_names", "preprocessing", "levels", *VENDOR_FIELDS)
        identity = {name: content[name] for name in parts if name in content}
        text = json.dumps({"tensors": content["tensors_digest"], **identity}, sort_keys=True)
        compact = json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        content["model_digest"] = hashlib.sha256(compact.encode()).hexdigest()
    size = tensors[MANIFEST].size
    block = json.dumps(content).encode()[:size].ljust(size, b"\0")
    return save({**tensors, MANIFEST: np.frombuffer(block, np.uint8)})


def values_not_finite(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    for _ in range(600):
        arrays = bundle.arrays()
        array = arrays[draw.choice(FLOATS)]
        array.flat[draw.randrange(array.size)] = draw.choice((np.nan, np.inf, -np.inf))
        digest = tensors_digest(arrays)
        block = manifests.encode(bundle.manifest.model_copy(update={"tensors_digest": digest}))
        yield "NaN and infinite weights", save({**arrays, MANIFEST: np.frombuffer(block, np.uint8)}), False


def class_names_changed(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    tensors = load_file(bundle.path)
    original = json.loads(manifests.encode(bundle.manifest).rstrip(b"\0"))
    for number in range(600):
        name = HOSTILE_NAMES[number % len(HOSTILE_NAMES)]
        other = draw.choice(("Coat", "Ça", "日本語"))
        content = {**original, "class_names": draw.sample([name, other], 2)}
        yield "class names that mislead", with_manifest(tensors, content, original), False


def other_kinds(bundle: Bundle, draw: random.Random) -> Iterator[Case]:
    zipped, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n")
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        tar.add(bundle.path, "../../model.lwm")
    kinds = (
        zipped.getvalue(), tarred.getvalue(), pickle.dumps({"state_dict": [1.0] * 50}),
        b"cos\nsystem\n(S'touch owned'\ntR.", gzip.compress(bundle.path.read_bytes()), b"\x7fELF" + bytes(60),
        b"\x89HDF\r\n\x1a\n" + bytes(60), b"#!/bin/sh\nexit\n", b"\xff\xd8\xff\xe0" + bytes(99), b"{}", b"",
    )  # fmt: skip
    for number in range(330):
        yield (
            "files of another kind",
            kinds[number % len(kinds)] + draw.randbytes(number // len(kinds)),
            False,
        )


KINDS: tuple[Callable[[Bundle, random.Random], Iterator[Case]], ...] = (
    bytes_changed, lengths_changed, headers_changed, manifests_changed, values_not_finite,
    class_names_changed, other_kinds,
)  # fmt: skip


@pytest.mark.slow
def test_ten_thousand_mutated_bundles_give_only_bundle_errors(small: Bundle, tmp_path: Path) -> None:
    tried, whole = Counter[str](), Counter[str]()
    path = tmp_path / "mutated.lwm"
    with memory_bound(64 * 2**20):
        for kind in KINDS:
            for name, content, may_be_whole in kind(small, random.Random(0)):
                tried[name] += 1
                path.unlink(missing_ok=True)  # overwriting a file would wait for the disk
                path.write_bytes(content)
                with no_hang():
                    whole[name] += opens(path, small, may_be_whole or "changed" in name)
    assert sum(tried.values()) >= 10_000
    assert whole["manifest's JSON changed"] < tried["manifest's JSON changed"] / 2
    for name, count in tried.items():
        print(f"{name}: {count - whole[name]:,} of {count:,} refused")
        assert published(f"| {name} | {count:,} | nothing |")


def opens(path: Path, original: Bundle, may_open: bool) -> bool:
    """Returns whether a file opens; checks that an opened file is sound and a refusal is printable."""
    try:
        opened = open_bundle(path)
    except BundleError as error:
        text = str(error)
        assert str(path) in text and len(text) < 30_000
        assert text.replace("\n", "").isprintable(), ascii(text)
        return False
    assert may_open, "it was opened"
    assert opened.manifest.tensors_digest == original.manifest.tensors_digest
    assert all(class_name_problem(name) is None for name in opened.manifest.class_names)
    return True


def declared(header: dict[str, Any], tail: int = 0) -> Content:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(tail)


def sparse(path: Path, start: Content, length: int) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(length)


@pytest.mark.parametrize("length", [2**20, 2**30, 3 * 2**30, 5 * 2**30, 2**40])
@pytest.mark.parametrize("name", [MANIFEST, ONNX_GRAPH, "head.weight"])
def test_a_file_that_declares_a_huge_tensor_takes_no_memory(
    small: Bundle, tmp_path: Path, name: str, length: int
) -> None:
    whole = small.path.read_bytes()
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])
    offset = 0
    for key, entry in sorted(header.items(), key=lambda item: item[0] == name):
        size = length if key == name else entry["data_offsets"][1] - entry["data_offsets"][0]
        if key == name:
            entry["dtype"], entry["shape"] = "U8", [length]
        entry["data_offsets"], offset = [offset, offset + size], offset + size
    start = declared(header)
    try:
        sparse(tmp_path / "huge.lwm", start, len(start) + offset)
    except OSError as error:
        pytest.skip(f"no sparse files of that length here: {error}")
    with memory_bound(64 * 2**20, length + 2**20), no_hang(), pytest.raises(BundleError):
        open_bundle(tmp_path / "huge.lwm")


@pytest.mark.parametrize("header_bytes", [5 * 2**20, 99 * 2**20, 2**32, 2**63])
def test_a_huge_header_is_not_read(tmp_path: Path, header_bytes: int) -> None:
    sparse(tmp_path / "huge.lwm", header_bytes.to_bytes(8, "little") + b"{", min(header_bytes + 100, 2**27))
    with memory_bound(16 * 2**20), pytest.raises(BundleError, match="declares more data than any bundle has"):
        open_bundle(tmp_path / "huge.lwm")


def test_a_header_of_many_tiny_tensors_is_refused_within_bounds(tmp_path: Path) -> None:
    header = {f"t{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(60_000)}
    (tmp_path / "many.lwm").write_bytes(declared(header))
    with memory_bound(128 * 2**20), pytest.raises(BundleError, match="has no tensor"):
        open_bundle(tmp_path / "many.lwm")


def test_a_path_that_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.lwm")
    (tmp_path / "loop.lwm").symlink_to("loop.lwm")
    (tmp_path / "folder.lwm").mkdir()
    for name in ("fifo.lwm", "loop.lwm", "folder.lwm"):
        with no_hang(), pytest.raises(BundleError, match=name):
            open_bundle(tmp_path / name)


# The ONNX graph in the bundle, and the ONNX file in the home

GRAPHS, ONNX_FILES = 300, 150


def damaged(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


@pytest.mark.slow
def test_a_mutated_onnx_graph_gives_only_export_errors() -> None:
    bundle = open_bundle(BASE_BUNDLE)
    arrays, network, draw = bundle.arrays(), load_network(bundle), random.Random(0)
    graph = arrays[ONNX_GRAPH].tobytes()
    probe = parity_probe(network)
    refused = 0
    with memory_bound(512 * 2**20):
        for _ in range(GRAPHS):
            try:
                with no_hang():
                    changed = np.frombuffer(damaged(graph, draw), np.uint8)
                    verified_file({**arrays, ONNX_GRAPH: changed}, bundle.manifest, probe)
            except ExportError as error:
                refused += 1
                assert all(line.isprintable() for line in str(error).splitlines())
    assert refused > GRAPHS / 3
    assert published(f"| ONNX graph in the bundle changed | {GRAPHS} | nothing |")


def test_init_refuses_each_mutated_graph_that_export_refuses(tmp_path: Path) -> None:
    bundle, draw = open_bundle(BASE_BUNDLE), random.Random(5)
    arrays = bundle.arrays()
    for _ in range(6):
        graph = damaged(arrays[ONNX_GRAPH].tobytes(), draw)
        changed = {**arrays, ONNX_GRAPH: np.frombuffer(graph, np.uint8)}
        save_bundle(tmp_path / "changed.lwm", changed, bundle.manifest)
        try:
            export_onnx(tmp_path / "changed.lwm", tmp_path / "out.onnx")
        except ExportError:
            assert not (tmp_path / "out.onnx").exists()
            with pytest.raises(ExportError):
                init_home(tmp_path / "changed.lwm", tmp_path / "home")
            assert not (tmp_path / "home").exists()
        (tmp_path / "out.onnx").unlink(missing_ok=True)


def test_a_mutated_onnx_file_predicts_or_is_refused(home: Home) -> None:
    onnx, draw = home.current().onnx, random.Random(0)
    photo = DEMO_DATA / "test" / "base" / "Trouser" / "000.png"
    content, refused = onnx.read_bytes(), 0
    end = content.index(b"backbone") + 40_000  # the changes are in the graph and in the first weights
    with memory_bound(256 * 2**20):
        for number in range(ONNX_FILES):
            changed = damaged(content[:end], draw) + content[end:]
            onnx.write_bytes(changed if number % 2 else content[: draw.randrange(len(content))])
            try:
                with no_hang():
                    predict(home, [photo])
            except ExportError as error:
                refused += 1
                assert str(onnx.parent) in str(error) and str(error).isprintable()
    assert refused > ONNX_FILES / 3
    assert published(f"| classifier.onnx changed or cut short | {ONNX_FILES} | nothing |")


@pytest.mark.parametrize("content", [b"", b"x", b"\x08\x08" * 500, None])
def test_evaluate_and_predict_point_to_repair_if_the_onnx_file_is_damaged_or_missing(
    home: Home, content: bytes | None
) -> None:
    onnx = home.current().onnx
    onnx.unlink()
    if content is not None:
        onnx.write_bytes(content)
    before = state_of(home.path)
    photos = DEMO_DATA / "test" / "base"
    for call in (lambda: evaluate(home, photos), lambda: predict(home, [photos / "Coat" / "000.png"])):
        with pytest.raises(ExportError, match="repair"):
            call()
    assert state_of(home.path) == before


def test_an_error_names_a_file_whose_name_has_two_lines(small: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a name\nof two lines.lwm"
    path.write_bytes(small.path.read_bytes()[:-1])
    with pytest.raises(LwmEdgeError) as caught:
        open_bundle(path)
    assert "of two lines.lwm" in str(caught.value)
