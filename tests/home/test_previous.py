"""Undo is itself a change: it returns to the model before the latest change, if the vendor permits it."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import (
    IncrementConfig,
    add_classes,
    audit,
    init_home,
    remove_class,
    rename_class,
    repair_home,
    undo,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import BundleError, ConfigError, HomeError
from lwm_edge.home.home import Home
from lwm_edge.home.ownership import GENERATION_FILES, PREVIOUS
from lwm_edge.model.bundle import open_bundle, save_bundle
from lwm_edge.model.custody_record import Custody
from tests.support.failing_disk import refuse
from tests.support.folders import PhotoMaker, state_of
from tests.support.networks import same_tensors

LDA = IncrementConfig(recipe="lda", device="cpu")


def test_without_the_vendors_permission_there_is_no_previous_model_and_no_undo(home: Home) -> None:
    rename_class(home, "Coat", "Mantel")
    assert {path.name for path in home.current().path.iterdir()} == set(GENERATION_FILES)
    before = state_of(home.path)
    advice = f"lwm-edge init BASE.lwm --replace --home {home.path}"
    with pytest.raises(ConfigError, match=rf"the vendor does not permit undo.* {re.escape(advice)}$"):
        undo(home)
    assert state_of(home.path) == before


def test_the_previous_model_is_there_from_init_on_at_a_constant_length(permitting_home: Home) -> None:
    lengths = set()
    for new in (None, "Mantel", "Jacke"):
        if new:
            rename_class(permitting_home, "Coat" if new == "Mantel" else "Mantel", new)
        generation = permitting_home.current()
        lengths |= {generation.previous.stat().st_size, generation.bundle.stat().st_size}
        (item,) = [item for item in audit(permitting_home).items if item.part == PREVIOUS]
        assert item.owner == "previous model, for undo" and {item.bytes} == lengths
    assert len(lengths) == 1 and audit(permitting_home).problems == ()
    assert open_bundle(generation.previous).manifest.class_names[0] == "Mantel"


@pytest.mark.slow
def test_an_increment_is_undone_by_a_further_change(permitting_home: Home, make_photos: PhotoMaker) -> None:
    shipped = permitting_home.open_bundle()
    tensors = shipped.arrays()
    add_classes(permitting_home, make_photos("Bag"), LDA, isolate=False)
    grown = permitting_home.open_bundle()
    report = undo(permitting_home)
    back = permitting_home.open_bundle()
    assert report.change == "undo" and report.increment == 2
    assert back.manifest.model_digest == shipped.manifest.model_digest
    assert same_tensors(back.arrays(), tensors)
    assert (back.manifest.increment_count, back.manifest.parent_digest) == (2, grown.manifest.model_digest)
    assert [entry.increment for entry in back.manifest.ledger.latest] == [0, 1, 2]
    assert back.manifest.custody and [link.increment for link in back.manifest.custody.links] == [1, 2]
    assert undo(permitting_home).model_digest == grown.manifest.model_digest
    assert permitting_home.open_bundle().manifest.increment_count == 3
    assert audit(permitting_home).problems == ()


@pytest.mark.slow
def test_an_increment_neither_reads_nor_loads_the_previous_model(
    home: Home, permitting_home: Home, make_photos: PhotoMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos("Bag")
    plain = add_classes(home, photos, LDA, isolate=False).footprint.memory
    opened: list[str] = []
    for module in ("lwm_edge.model.bundle", "lwm_edge.home.ownership"):
        _noting(f"{module}.safe_open", opened, monkeypatch)
    _noting("lwm_edge.model.loading.load_file", opened, monkeypatch)
    _noting("lwm_edge.inspection.open_regular", opened, monkeypatch)
    memory = add_classes(permitting_home, photos, LDA, isolate=False).footprint.memory
    assert any("model.lwm" in path for path in opened)
    assert not [path for path in opened if path.endswith(PREVIOUS)]
    assert (memory.teacher_networks, memory.images_alive) == (plain.teacher_networks, plain.images_alive)


def _noting(function: str, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = function.rpartition(".")
    original: Callable[..., Any] = getattr(__import__(module, fromlist=[name]), name)

    def noting(path: Any, *more: Any, **named: Any) -> Any:
        opened.append(str(path))
        return original(path, *more, **named)

    monkeypatch.setattr(function, noting)


def test_a_shipped_class_comes_back(permitting_home: Home) -> None:
    remove_class(permitting_home, "Coat", shipped=True)
    undo(permitting_home)
    manifest = permitting_home.open_bundle().manifest
    assert manifest.shipped_classes == 6 and manifest.class_names[0] == "Coat"
    assert audit(permitting_home).problems == ()


def test_a_home_that_starts_over_has_nothing_to_undo(permitting_base: Path, tmp_path: Path) -> None:
    init_home(permitting_base, tmp_path / "home")
    rename_class(tmp_path / "home", "Coat", "Mantel")
    init_home(permitting_base, tmp_path / "home", replace=True)
    with pytest.raises(ConfigError, match=r"there is nothing to undo: previous\.lwm holds the current model"):
        undo(tmp_path / "home")
    assert audit(tmp_path / "home").problems == ()


def _of_another_model(path: Path) -> None:
    bundle = open_bundle(path)
    names = ("Hut", *bundle.manifest.class_names[1:])
    save_bundle(path, bundle.arrays(), bundle.manifest.model_copy(update={"class_names": names}))


def _with_fewer_shipped_classes(path: Path) -> None:
    """Alters a field that the custody record covers, but the model's digest does not."""
    bundle = open_bundle(path)
    save_bundle(path, bundle.arrays(), bundle.manifest.model_copy(update={"shipped_classes": 5}))


def _with_another_record(path: Path) -> None:
    bundle = open_bundle(path)
    (link,) = bundle.manifest.custody.links if bundle.manifest.custody else ()
    forged = link.model_copy(update={"deed": None})
    custody = Custody(base=bundle.manifest.custody.base if bundle.manifest.custody else None, links=(forged,))
    save_bundle(path, bundle.arrays(), bundle.manifest.model_copy(update={"custody": custody}))


def _with_metadata(path: Path) -> None:
    """Hides text in the header, which no digest covers."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps({"__metadata__": {"x": "y"}, **json.loads(content[8 : 8 + length])}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


HARM: dict[str, Callable[[Path], object]] = {
    "is missing": lambda path: path.unlink(),
    "is empty": lambda path: path.write_bytes(b""),
    "is cut short": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "was edited": lambda path: path.write_bytes(path.read_bytes().replace(b"Dress", b"Press", 1)),
    "is of another model": _of_another_model,
    "is the shipped base": lambda path: shutil.copy(BASE_BUNDLE, path),
    "has other shipped classes": _with_fewer_shipped_classes,
    "has another record": _with_another_record,
    "hides something": _with_metadata,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_is_not_the_previous_model_is_noticed_and_repaired(
    permitting_home: Home, harm: str
) -> None:
    rename_class(permitting_home, "Coat", "Jacke")
    rename_class(permitting_home, "Jacke", "Mantel")
    HARM[harm](permitting_home.current().previous)
    model = permitting_home.current().bundle.read_bytes()
    assert any(PREVIOUS in problem for problem in audit(permitting_home).problems)
    before = state_of(permitting_home.path)
    with pytest.raises(BundleError, match="missing or damaged"):
        undo(permitting_home)
    assert state_of(permitting_home.path) == before
    report = repair_home(permitting_home)
    assert any(PREVIOUS in line for line in report.repaired)
    assert report.warnings == ("the model before the latest change is lost, so there is nothing to undo",)
    assert permitting_home.current().bundle.read_bytes() == model
    assert permitting_home.current().previous.read_bytes() == model
    assert audit(permitting_home).problems == ()


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES])
def test_a_previous_model_that_cannot_be_read_is_replaced_only_if_the_disk_fails(
    permitting_home: Home, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rename_class(permitting_home, "Coat", "Mantel")
    why, before = os.strerror(number), state_of(permitting_home.path)
    with monkeypatch.context() as context:
        refuse(PREVIOUS, number, context)
        assert audit(permitting_home).problems == (f"{PREVIOUS} cannot be read ({why})",)
        if number == errno.EACCES:
            for change in (undo, repair_home):
                with pytest.raises(HomeError, match=f"cannot read .*{PREVIOUS}: {why}"):
                    change(permitting_home)
            assert state_of(permitting_home.path) == before
            return
        with pytest.raises(BundleError, match=rf"{PREVIOUS} cannot be read \({why}\).*lwm-edge repair"):
            undo(permitting_home)
        assert repair_home(permitting_home).repaired == (f"{PREVIOUS} cannot be read ({why})",)
    assert audit(permitting_home).problems == ()


def test_repairing_another_file_keeps_the_previous_model(permitting_home: Home) -> None:
    rename_class(permitting_home, "Coat", "Mantel")
    previous = permitting_home.current().previous.read_bytes()
    permitting_home.current().labels.unlink()
    assert repair_home(permitting_home).repaired == ("labels.txt is missing",)
    assert permitting_home.current().previous.read_bytes() == previous
    undo(permitting_home)
    assert permitting_home.open_bundle().manifest.class_names[0] == "Coat"


def test_without_permission_for_undo_a_previous_model_is_unexplained(home: Home) -> None:
    shutil.copy(BASE_BUNDLE, home.current().previous)
    assert any(PREVIOUS in problem and "unexplained" in problem for problem in audit(home).problems)
    rename_class(home, "Coat", "Mantel")
    assert audit(home).problems == ()
