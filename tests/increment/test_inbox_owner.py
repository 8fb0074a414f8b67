"""Whatever an owner puts into an inbox, the other classes go on, and the owner learns what to do."""

from __future__ import annotations

import errno
import re
import shlex
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import _disk, add_classes, watch_inbox
from lwm_edge.cli.commands import main
from lwm_edge.errors import GateError, StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment import inbox_teaching
from lwm_edge.increment.inbox_reports import InboxReport
from lwm_edge.increment.learn import learn_classes
from lwm_edge.records import Progress
from tests.increment.test_inbox import arrive, counts, photos_in, reason_of, refusing, teach
from tests.support.folders import DEMO_DATA, state_of
from tests.support.samples import QUICK


def refuse_colons(below: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder's file system refuse names with colons, as NTFS does."""

    def refusing_colons(original: Callable[..., None], *paths: Path) -> None:
        if paths[-1].is_relative_to(below) and ":" in str(paths[-1].relative_to(below)):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(*paths)

    for name in ("rename", "make_folder"):
        monkeypatch.setattr(_disk, name, partial(refusing_colons, getattr(_disk, name)))


def test_photos_and_classes_whose_names_the_taught_folder_refuses_get_other_names_there(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_colons(taught, monkeypatch)
    folder = arrive(inbox, "A: bag", "Bag")
    photo = (folder / "000.png").rename(folder / "IMG 12:30:05.png")
    content = photo.read_bytes()
    arrive(inbox, "Shirt", "Shirt")
    first, second = teach(home, inbox, taught).taught
    assert (first.class_name, second.class_name) == ("A: bag", "Shirt") and photos_in(inbox) == []
    assert first.moved_to is not None and len(photos_in(first.moved_to)) == 8
    (moved,) = first.moved_to.glob("IMG*")
    assert re.fullmatch(r"IMG_12_30_05-[0-9a-f]{12}\.png", moved.name) and moved.read_bytes() == content
    folder.mkdir(exist_ok=True)
    photo.write_bytes(content)  # like a tool that delivers files again
    arrive(inbox, "A: bag", "Bag", range(10, 15))
    assert teach(home, inbox, taught).taught[0].photos == 5 and photo.exists()
    assert "has been used for teaching" in reason_of(inbox, "A: bag")["problems"][0]


@pytest.mark.parametrize("there", ["another photo", "a folder", "a link"])
def test_a_photo_whose_longest_name_is_taken_gets_a_shorter_one(
    home: Home, inbox: Path, taught: Path, there: str
) -> None:
    folder, name = arrive(inbox, "Bag", "Bag"), 251 * "x" + ".png"
    (folder / "000.png").rename(folder / name)
    in_the_way = taught / "Bag" / name
    in_the_way.parent.mkdir(parents=True)
    if there == "a folder":
        in_the_way.mkdir()
    elif there == "a link":
        in_the_way.symlink_to("nowhere")
    else:
        in_the_way.write_bytes(b"another photo")
    assert teach(home, inbox, taught).taught[0].photos == 8
    assert len([path for path in photos_in(taught) if path != name]) == 8 and photos_in(inbox) == []


def test_files_beside_the_class_folders_are_reported(home: Home, inbox: Path, taught: Path) -> None:
    folder = arrive(inbox, "Bag", "Bag", range(20))
    for photo in folder.iterdir():
        photo.rename(inbox / photo.name)
    arrive(inbox, "Shirt", "Shirt")
    report = teach(home, inbox, taught)
    assert [done.class_name for done in report.taught] == ["Shirt"] and not report.waiting
    (note,) = report.notes
    assert "000.png, 001.png, 002.png, 003.png, 004.png, and 15 more; move them" in note
    assert len(photos_in(inbox)) == 20

    reports: list[InboxReport] = []

    def on_report(report: InboxReport) -> None:
        reports.append(report)
        arrive(inbox, "Coat", "Coat", range(1))
        if len(reports) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        watch_inbox(home, inbox, on_report=on_report, taught=taught, quiet_seconds=0.4, isolate=False)
    assert reports[0].notes == reports[1].notes == (note,)
    assert reports[0].waiting != reports[1].waiting, "the same report came twice"


def test_photos_in_sub_folders_wait_with_a_reason(home: Home, inbox: Path, taught: Path) -> None:
    arrive(inbox, "Bag/2024", "Bag")
    arrive(inbox, "Shirt", "Shirt", range(3))
    for number in range(30):
        arrive(inbox, f"Shirt/{number}", "Shirt", range(4, 5))
    (inbox / "Empty" / "2024").mkdir(parents=True)
    for _ in range(2):
        first, second = teach(home, inbox, taught).waiting
        assert (first.class_name, first.state, first.photos) == ("Bag", "waiting", 8)
        assert reason_of(inbox, "Bag")["problems"] == ["2024 is a folder; move its photos up one level"]
        assert (second.class_name, second.state, second.photos) == ("Shirt", "waiting", 3)
        assert reason_of(inbox, "Shirt")["problems"][-1] == "and 10 more files"
    for photo in (inbox / "Bag" / "2024").iterdir():
        photo.rename(inbox / "Bag" / photo.name)
    assert [done.class_name for done in teach(home, inbox, taught).taught] == ["Bag"]
    assert not (inbox / "Bag.waits.json").exists()


def test_a_class_folder_that_cannot_be_read_waits(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, iterdir = arrive(inbox, "Bag", "Bag"), Path.iterdir

    def refuse(path: Path) -> Any:
        if path == folder:
            raise PermissionError(errno.EACCES, "Permission denied")
        return iterdir(path)

    arrive(inbox, "Shirt", "Shirt")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        report = teach(home, inbox, taught)
    assert [done.class_name for done in report.taught] == ["Shirt"]
    assert reason_of(inbox, "Bag")["problems"] == ["Bag cannot be read (Permission denied)"]
    assert [done.class_name for done in teach(home, inbox, taught).taught] == ["Bag"]


@pytest.mark.parametrize("count", [3, 8])
def test_no_photo_leaves_a_class_folder_that_is_a_link(home: Home, inbox: Path, count: int) -> None:
    real = arrive(inbox.parent, "real", "Bag", range(count))
    (inbox / "Linked").symlink_to("../real")
    before = state_of(real)
    for _ in range(2):
        (left,) = teach(home, inbox, None, delete=True).waiting
        assert left.state == "waiting" and "is a link to another folder" in left.reason
        assert reason_of(inbox, "Linked")["final"] and state_of(real) == before
    (inbox / "Linked").unlink()
    real.rename(inbox / "Linked")
    assert [left.state for left in teach(home, inbox, None, delete=True).waiting] != ["waiting"]


def test_a_refusal_by_the_gate_says_what_an_owner_can_do(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_teaching, "add_classes", refusing(GateError("pass --fresh", ["too bad"]), []))
    arrive(inbox, "A bag", "Bag")
    teach(home, inbox, taught)
    reason = reason_of(inbox, "A bag")
    assert "--fresh" not in reason["reason"] and reason["problems"] == ["too bad"]
    command = re.search(r"with lwm-edge (.* --force)", reason["reason"])
    assert command
    monkeypatch.setattr(sys, "argv", ["lwm-edge", *shlex.split(command[1])])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and counts(home)["A bag"] == 8
    assert "--recipe lda" in command[1]  # as the inbox teaches
    monkeypatch.setattr(inbox_teaching, "add_photos", refusing(GateError("no", ["too bad"]), []))
    arrive(inbox, "A bag", "Bag", range(8, 16))
    teach(home, inbox, taught)
    assert "add-photos" in (advice := reason_of(inbox, "A bag")["reason"]) and "--solve-head" in advice


def test_a_refusal_because_of_an_interrupted_increment_says_what_an_owner_can_do(
    home: Home, inbox: Path, taught: Path
) -> None:
    seen: list[Progress] = []
    with home.lock(), pytest.raises(StoppedError):
        learn_classes(home, DEMO_DATA / "train/1", QUICK, seen.append, lambda: seen[-1].phase == "train")
    arrive(inbox, "Bag", "Bag")
    (left,) = teach(home, inbox, taught).waiting
    assert left.reason == reason_of(inbox, "Bag")["reason"] and "--fresh" not in left.reason
    command = re.search(r"run: lwm-edge (.*); then remove Bag\.waits\.json$", left.reason)
    assert command and shlex.split(command[1])[:2] == ["add-classes", str(DEMO_DATA / "train/1")]


def test_a_class_folder_with_the_longest_name_is_not_tried_for_ever(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, tries = 255 * "x", list[int]()

    def counting(*given: Any, **named: Any) -> Any:
        tries.append(1)
        return add_classes(*given, **named)

    monkeypatch.setattr(inbox_teaching, "add_classes", counting)
    arrive(inbox, name, "Bag")
    for _ in range(3):
        (left,) = teach(home, inbox, taught).waiting
        assert "is longer than 64 bytes" in left.reason
    (written,) = inbox.glob("*.waits.json")
    assert written.name.startswith("xxx") and len(tries) == 1
    (inbox / name).rename(inbox / "Bag")
    assert [done.class_name for done in teach(home, inbox, taught).taught] == ["Bag"]
    assert not written.exists()
