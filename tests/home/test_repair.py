"""`repair` rebuilds the damaged files of a home from its bundle, and leaves the model as it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lwm_edge import add_classes, audit, inspection, predict, repair_home
from lwm_edge.demo import DEMO_DATA
from lwm_edge.errors import BundleError, BusyError, HomeError, ResourceError
from lwm_edge.home.home import Home, open_home
from tests.support.folders import PhotoMaker, state_of
from tests.support.hostile import published, refusing_to_read
from tests.support.samples import QUICK

PHOTO = DEMO_DATA / "test" / "base" / "Trouser" / "000.png"


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_dangling_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


HARM: dict[str, Callable[[Path], object]] = {
    "is missing": lambda path: path.unlink(),
    "is empty": lambda path: path.write_bytes(b""),
    "is cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "was edited": lambda path: path.write_bytes(path.read_bytes().replace(b"Coat", b"Boat", 1)),
    "is another file": lambda path: path.write_bytes(b"#!/bin/sh\n" * 50),
    "is a folder": _make_folder,
    "is a link that leads nowhere": _make_dangling_link,
}


def test_where_nothing_is_wrong_nothing_is_written(home: Home) -> None:
    before = state_of(home.path)
    report = repair_home(home)
    assert report.repaired == () and report.parity is None
    assert report.model_digest == home.open_bundle().manifest.model_digest
    assert {p: s for p, s in state_of(home.path).items() if not p.endswith("lock")} == {
        p: s for p, s in before.items() if not p.endswith("lock")
    }


def test_every_file_except_the_bundle_is_rebuilt(home: Home, make_photos: PhotoMaker) -> None:
    add_classes(home, make_photos("Bag"), QUICK, isolate=False)
    contents = {path.name: path.read_bytes() for path in home.current().path.iterdir()}
    tried = 0
    for name in ("classifier.onnx", "labels.txt", "receipt.json"):
        for what, harm in HARM.items():
            if (name, what) == ("receipt.json", "was edited"):
                continue  # only a receipt's length and its model's digest are checked
            harm(home.current().path / name)
            report = repair_home(home)
            tried += 1
            assert [line.split()[0] for line in report.repaired] == [name], what
            assert report.parity is not None
            for other in contents.keys() - {name}:
                assert (home.current().path / other).read_bytes() == contents[other]
            if name != "receipt.json":
                assert (home.current().path / name).read_bytes() == contents[name]
            else:
                contents[name] = (home.current().path / name).read_bytes()
            if what in ("is a folder", "is a link that leads nowhere"):  # we did not make it, so it stays
                assert [line for line in report.warnings if name in line and "left alone" in line]
                shutil.rmtree(min(home.current().path.parent.iterdir()))
            assert audit(home).passed and not home.describe_foreign()
    manifest = home.open_bundle().manifest
    assert manifest.increment_count == 1 and len(manifest.ledger.latest) == 2
    assert predict(home, [PHOTO]).predictions[0].class_names
    assert published(f"| ONNX file, labels, receipt missing or edited, then `repair` | {tried} | nothing |")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_file_that_the_disk_no_longer_gives_out_is_rebuilt(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    damaged = home.current().onnx
    monkeypatch.setattr(inspection, "read_regular", refusing_to_read(damaged, number))
    assert repair_home(home).repaired == (f"classifier.onnx cannot be read ({os.strerror(number)})",)
    assert home.current().onnx != damaged
    monkeypatch.undo()
    assert audit(home).passed


def test_too_many_open_files_are_no_damage(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state_of(home.path)
    monkeypatch.setattr(inspection, "read_regular", refusing_to_read(None, errno.EMFILE))
    with pytest.raises(ResourceError, match="too many files open"):
        repair_home(home)
    monkeypatch.undo()
    assert state_of(home.path) == before


def test_all_three_files_are_rebuilt_at_once(home: Home) -> None:
    digest = home.open_bundle().manifest.model_digest
    for path in home.current().path.iterdir():
        if path.name != "model.lwm":
            path.unlink()
    report = repair_home(home.path)
    assert report.repaired == (
        "classifier.onnx is missing",
        "labels.txt is missing",
        "receipt.json is missing",
    )
    assert audit(home).passed and home.open_bundle().manifest.model_digest == digest


@pytest.mark.parametrize("target", [None, "generations/00000007", "elsewhere", "/etc", "generations/../x"])
def test_a_link_that_is_missing_or_points_at_no_model(home: Home, target: str | None) -> None:
    before = state_of(home.path)
    link = home.path / "current"
    link.unlink()
    if target:
        link.symlink_to(target)
    with pytest.raises(HomeError, match="lwm-edge repair"):
        open_home(home.path)
    with home.lock():  # taking the lock clears leftovers, but must not remove the only model
        pass
    report = repair_home(home.path)
    assert report.repaired == ("current pointed at no model",)
    assert {p: s for p, s in state_of(home.path).items() if "lock" not in p} == {
        p: s for p, s in before.items() if "lock" not in p
    }


def test_a_half_written_generation_beside_the_complete_one(home: Home) -> None:
    complete = home.current().path
    half = complete.with_name("00000005")
    half.mkdir()
    shutil.copy(complete / "model.lwm", half)
    (home.path / "current").unlink()
    repair_home(home.path)
    assert home.current().path == complete


def test_the_owner_chooses_between_two_complete_models(home: Home) -> None:
    complete = home.current().path
    shutil.copytree(complete, complete.with_name("00000005"))
    (home.path / "current").unlink()
    before = state_of(home.path)
    with pytest.raises(HomeError, match="several models") as caught:
        repair_home(home.path)
    assert len(caught.value.problems) == 2
    assert state_of(home.path) == before
    shutil.rmtree(complete)
    repair_home(home.path)
    assert home.current().path.name == "00000005"


def test_a_damaged_bundle_cannot_be_repaired_and_nothing_is_touched(home: Home) -> None:
    bundle = home.current().bundle
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"x")
    before = state_of(home.path)
    with pytest.raises(BundleError, match="repair cannot fix it; replace model"):
        repair_home(home.path)
    (home.path / "current").unlink()
    before.pop(str(home.path / "current"))
    with pytest.raises(HomeError, match="no sound model; start over"):
        repair_home(home.path)
    assert {p: s for p, s in state_of(home.path).items() if "lock" not in p} == {
        p: s for p, s in before.items() if "lock" not in p
    }


def test_a_home_copied_without_links(home: Home) -> None:
    (home.path / "current").unlink()
    (home.path / "current").mkdir()
    with pytest.raises(HomeError, match="is not a link"):
        repair_home(home.path)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_that_is_no_home_stays_empty(tmp_path: Path, name: str) -> None:
    with pytest.raises(HomeError, match="lwm-edge init"):
        repair_home(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_one_writer_at_a_time(home: Home) -> None:
    with home.lock(), pytest.raises(BusyError, match="--wait"):
        repair_home(home)
