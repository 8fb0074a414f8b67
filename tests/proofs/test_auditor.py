"""The audit attributes every byte of a home, explains how the ONNX file grew, and names what is planted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lwm_edge import add_classes, audit, remove_class
from lwm_edge.home.home import Home, open_home
from lwm_edge.model.bundle import save_bundle
from lwm_edge.model.tensors import AXES_COUNT, BINS
from tests.support.failing_disk import refuse
from tests.support.folders import photo_folder
from tests.support.samples import QUICK

INPUTS = 9 * (16 + 32) + 64  # the demo's head reads two levels on a grid of 3x3, and the last maps


@pytest.fixture(scope="module")
def grown_once(shipped_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a home with one increment, to be copied."""
    folder = tmp_path_factory.mktemp("grown")
    shutil.copytree(shipped_home, folder / "home", symlinks=True)
    photos = photo_folder(folder / "new_photos", {"Bag": "Bag", "Shirt": "Shirt"})
    add_classes(folder / "home", photos, QUICK, isolate=False)
    return folder / "home"


@pytest.fixture
def grown(grown_once: Path, tmp_path: Path) -> Home:
    return open_home(shutil.copytree(grown_once, tmp_path / "home", symlinks=True))


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
@pytest.mark.parametrize("name", ["classifier.onnx", "labels.txt", "receipt.json"])
def test_a_file_that_cannot_be_read_is_named_and_the_audit_goes_on(
    grown: Home, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    (grown.path / "photos").mkdir()
    refuse(name, number, monkeypatch)
    found = audit(grown).problems
    assert f"{name} cannot be read ({os.strerror(number)})" in found
    assert len(found) == 2 and "photos (a folder) is unexplained" in found[1]


def test_every_byte_is_accounted_for(grown: Home) -> None:
    report = audit(grown)
    on_disk = sum(p.lstat().st_size for p in grown.path.rglob("*") if p.is_file() or p.is_symlink())
    assert report.passed and report.problems == ()
    assert report.accounted_bytes == report.total_bytes == on_disk
    owners = report.bytes_by_owner()
    d = INPUTS
    assert owners["head rows in use"] == 8 * (d + 1) * 4
    assert owners["head rows reserved"] == (32 - 8) * (d + 1) * 4
    assert owners["statistics rows in use"] == 8 * (d + 1) * 4
    assert owners["statistics rows reserved"] == (32 - 8) * (d + 1) * 4
    assert owners["statistics"] == (d * d + 1) * 4
    assert owners["measured accuracy"] == 32 * 3 * 4 and owners["parity probe"] == 5 * d * 4
    axes = AXES_COUNT
    rows = (BINS + axes + 1) * 4  # a class's histogram, its centre, and the centre's offset
    assert owners["calibration rows in use"] == 8 * rows
    assert owners["calibration rows reserved"] == (32 - 8) * rows
    assert owners["calibration"] == (axes * (d + 1) + axes) * 4
    assert owners["manifest"] + owners["padding"] == 24 * 1024 + 128 * 32
    assert owners["labels"] == grown.current().labels.stat().st_size
    assert report.bundle_bytes == report.bundle_bytes_shipped


def test_the_onnx_growth_is_the_heads_rows_and_the_names(grown: Home) -> None:
    growth = audit(grown).onnx_growth
    assert growth is not None and growth.classes == 2
    rows, names = (
        2 * (INPUTS + 1 + AXES_COUNT + 1) * 4,
        len(', "Bag", "Shirt"') + len(", 6: 'Bag', 7: 'Shirt'"),
    )
    assert rows + names <= growth.bytes < rows + names + 20
    assert growth.bytes_per_class == growth.bytes / 2
    assert (growth.explained, growth.head_bytes, growth.names_bytes) == (True, rows, names)
    assert growth.framing_bytes == growth.bytes - rows - names


def test_the_ledgers_head_is_in_the_audit_and_in_the_receipt(grown: Home) -> None:
    report, receipt = audit(grown), json.loads(grown.current().receipt.read_bytes())
    assert report.ledger_entries == 2 and report.ledger_head
    assert receipt["footprint"]["ledger_head"] == report.ledger_head


def test_the_cost_of_the_increment_is_in_the_ledger(grown: Home) -> None:
    last = grown.open_bundle().manifest.ledger.last
    assert last is not None and last.labels_bytes == grown.current().labels.stat().st_size
    assert last.teacher_networks is not None and last.images_alive == 0
    assert 0 < (last.peak_anonymous_bytes or 0) <= last.peak_rss_bytes


def test_removals_leave_the_growth_explained_until_a_shipped_class_goes(grown: Home) -> None:
    remove_class(grown, "Bag")
    growth = audit(grown).onnx_growth
    assert growth is not None and growth.classes == 1 and growth.explained
    remove_class(grown, "Coat", shipped=True)  # its name is kept nowhere, so its bytes are unknown
    report = audit(grown)
    assert report.passed and report.onnx_growth is not None and report.onnx_growth.explained is None


@pytest.mark.parametrize("planted", ["photo.png", ".hidden/photo.png", "generations/00000007/photo.png"])
def test_a_planted_file_is_named(grown: Home, planted: str) -> None:
    path = grown.path / planted
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)
    report = audit(grown)
    assert not report.passed
    assert any(planted in problem and "100 bytes" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("classifier.onnx", "does not match the bundle"),
        ("labels.txt", "does not list the bundle's classes"),
        ("receipt.json", "is not this model's receipt"),
    ],
)
def test_pixels_appended_to_a_file_are_found(grown: Home, file: str, problem: str) -> None:
    path = grown.current().path / file
    path.write_bytes(path.read_bytes() + b"pixels")
    assert any(problem in found for found in audit(grown).problems)


def test_a_missing_file_is_named(grown: Home) -> None:
    grown.current().labels.unlink()
    assert any(problem.endswith("labels.txt is missing") for problem in audit(grown).problems)


def test_a_tensor_that_nobody_declares_is_named(grown: Home) -> None:
    bundle = grown.open_bundle()
    arrays = {**bundle.arrays(), "exemplars": np.zeros((2, 28, 28), np.uint8)}
    manifest = bundle.manifest.model_copy(update={"bundle_bytes": 0})
    save_bundle(grown.current().bundle, arrays, manifest)
    report = audit(grown)
    assert any("nor lwm-edge declares a tensor exemplars uint8 [2, 28, 28]" in p for p in report.problems)
    assert any("bytes long, but was" in problem for problem in report.problems)
