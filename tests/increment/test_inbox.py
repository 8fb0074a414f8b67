"""Photos in an inbox are learnt once they stop changing; others wait with a reason, and retries end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lwm_edge import (
    InboxReport,
    IncrementConfig,
    _disk,
    add_classes,
    info,
    remove_class,
    rename_class,
    storage,
    teach_inbox,
    watch_inbox,
)
from lwm_edge.errors import (
    BusyError,
    ConfigError,
    GateError,
    HomeError,
    LwmEdgeError,
    PhotosError,
    ResourceError,
)
from lwm_edge.home.home import Home
from lwm_edge.increment import inbox as inbox_module
from lwm_edge.increment import inbox_record, inbox_teaching
from lwm_edge.increment.inbox_folder import InboxFolder, Note, noted
from lwm_edge.model.bundle import Bundle, open_bundle
from lwm_edge.model.tensors import COUNTS
from lwm_edge.photos.checking import file_digest
from lwm_edge.photos.photo_set import Photo
from lwm_edge.records import Progress
from tests.support.folders import DEMO_DATA, photo_folder, state_of

ROOT = Path(__file__).parents[2]


def arrive(inbox: Path, name: str, source: str, numbers: range = range(8)) -> Path:
    """Puts photos of a demo class into a class folder of an inbox."""
    (found,) = DEMO_DATA.glob(f"train/*/{source}")
    (inbox / name).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        shutil.copy(found / f"{number:03d}.png", inbox / name)
    return inbox / name


def teach(home: Home, inbox: Path, taught: Path | None, **settings: Any) -> InboxReport:
    settings = {"quiet_seconds": 0, "isolate": False, **settings}
    return teach_inbox(home, inbox, taught=taught, **settings)


def counts(home: Home) -> dict[str, int]:
    """Returns how many photos of each class the model has learnt."""
    bundle = home.open_bundle()
    return dict(zip(bundle.manifest.class_names, bundle.arrays(COUNTS)[COUNTS].tolist(), strict=False))


def photos_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*.png"))


def reason_of(inbox: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((inbox / f"{name}.waits.json").read_text())
    return found


def refusing(error: LwmEdgeError, tries: list[int]) -> Callable[..., Any]:
    """Makes a stand-in for `add_classes` that counts its calls and fails."""

    def fail(*given: object, **named: object) -> None:
        tries.append(1)
        raise error

    return fail


def take(home: Home, inbox: Path, taught: Path, name: str) -> Note:
    """Takes the photos of a class, like a process that is killed before any of them are learnt."""
    manifest, paths = home.open_bundle().manifest, sorted((inbox / name).glob("*.png"))
    note = Note(
        home=home.path,
        change="add-classes",
        folder=Path(name),
        class_name=name,
        increment=manifest.increment_count,
        model_digest=manifest.model_digest,
        tried=0,
        photos=noted(tuple(Photo(path, 0, file_digest(path)) for path in paths)),
    )
    folder = InboxFolder(inbox, taught)
    with folder.locked():
        folder.take(inbox / name, note)
    assert photos_in(inbox / name) == []
    return note


def test_new_classes_are_taught_and_their_photos_moved(home: Home, inbox: Path, taught: Path) -> None:
    arrive(inbox, "Bag", "Bag")
    arrive(inbox, "Shirt", "Shirt", range(3))
    report = teach(home, inbox, taught)
    (done,) = report.taught
    assert (done.class_name, done.change, done.photos, done.moved_to) == (
        "Bag",
        "add-classes",
        8,
        taught / "Bag",
    )
    assert done.judged == 8 and done.model_digest == info(home).model_digest
    (left,) = report.waiting
    assert (left.class_name, left.state, left.photos) == ("Shirt", "collecting", 3)
    assert photos_in(taught / "Bag") == photos_in(DEMO_DATA / "train" / "2" / "Bag")[:8]
    assert photos_in(inbox) == photos_in(inbox / "Shirt") and not list(inbox.glob("*.json"))
    assert counts(home)["Bag"] == 8 and "Shirt" not in counts(home)
    assert [change.class_names for change in info(home).history] == [("Bag",)]


def test_each_class_is_a_change_of_its_own_and_the_photos_may_be_deleted(home: Home, inbox: Path) -> None:
    arrive(inbox, "Bag", "Bag")
    arrive(inbox, "Shirt", "Shirt")
    report = teach(home, inbox, None, delete=True)
    assert [(done.class_name, done.moved_to) for done in report.taught] == [("Bag", None), ("Shirt", None)]
    assert photos_in(inbox) == [] and len(info(home).history) == 2


def test_a_folder_that_still_changes_is_left_alone(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(inbox, "Bag", "Bag")
    before = state_of(inbox / "Bag")

    def more_arrives(seconds: float, on_progress: object) -> None:
        (inbox / "Bag" / ".next.jpg.part").write_bytes(b"as rsync does")

    monkeypatch.setattr(inbox_module, "_wait", more_arrives)
    report = teach(home, inbox, taught, quiet_seconds=30)
    assert [(left.class_name, left.state) for left in report.waiting] == [("Bag", "arriving")]
    (inbox / "Bag" / ".next.jpg.part").unlink()
    assert state_of(inbox / "Bag") == before and not report.taught


def test_a_half_copied_photo_waits_until_it_is_whole(home: Home, inbox: Path, taught: Path) -> None:
    folder = arrive(inbox, "Bag", "Bag")
    whole = (DEMO_DATA / "train" / "2" / "Bag" / "020.png").read_bytes()
    (folder / "020.png").write_bytes(whole[: len(whole) // 2])
    assert teach(home, inbox, taught).taught[0].photos == 8
    assert photos_in(inbox) == ["020.png"] and "020.png is damaged" in reason_of(inbox, "Bag")["problems"][0]
    assert [left.state for left in teach(home, inbox, taught).waiting] == ["waiting"]
    (folder / "020.png").write_bytes(whole)
    arrive(inbox, "Bag", "Bag", range(30, 34))
    (done,) = teach(home, inbox, taught).taught
    assert (done.change, done.photos, counts(home)["Bag"]) == ("add-photos", 5, 13)
    assert photos_in(inbox) == [] and not list(inbox.glob("*.json"))


def test_photos_that_could_not_be_put_back_are_put_back_before_others_are_learnt(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[LwmEdgeError] = [GateError("not good enough"), ResourceError("the disk is full")]
    put_back = InboxFolder.put_back

    def learn(home: Home, folder: Path, *given: Any, **named: Any) -> Any:
        if len(failures) == 2:
            raise failures.pop(0)
        return add_classes(home, folder, *given, **named)

    def fail_once(folder: InboxFolder, note: Note) -> None:
        if failures:
            raise failures.pop()
        put_back(folder, note)

    monkeypatch.setattr(inbox_teaching, "add_classes", learn)
    monkeypatch.setattr(InboxFolder, "put_back", fail_once)
    arrive(inbox, "Bag", "Bag")
    arrive(inbox, "Shirt", "Shirt")
    assert [done.class_name for done in teach(home, inbox, taught).taught] == ["Shirt"]
    assert len(photos_in(inbox / "Bag")) == 8 and len(photos_in(taught / "Shirt")) == 8
    assert counts(home)["Shirt"] == 8 and "Bag" not in counts(home)


def test_a_shipped_class_gets_more_photos_only_if_the_vendor_permits_it(
    home: Home, permitting_home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Coat", "Coat")
    before = state_of(home.path)
    (left,) = teach(home, inbox, taught).waiting
    assert left.state == "waiting" and "does not permit more photos" in left.reason
    assert reason_of(inbox, "Coat")["reason"] == f"{inbox / 'Coat'} cannot be used"
    assert reason_of(inbox, "Coat")["final"] and len(photos_in(inbox / "Coat")) == 8
    assert {k: v for k, v in state_of(home.path).items() if not k.endswith("lock")} == {
        k: v for k, v in before.items() if not k.endswith("lock")
    }
    (inbox / "Coat.waits.json").unlink()
    (done,) = teach(permitting_home, inbox, taught).taught
    assert (done.class_name, done.change) == ("Coat", "add-photos")


@pytest.mark.parametrize(
    ("error", "final"),
    [(GateError("not good enough"), True), (PhotosError("odd"), True), (ResourceError("full"), False)],
)
def test_photos_that_failed_wait_with_the_reason_and_are_not_tried_for_ever(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch, error: LwmEdgeError, final: bool
) -> None:
    tries: list[int] = []
    monkeypatch.setattr(inbox_teaching, "add_classes", refusing(error, tries))
    folder = arrive(inbox, "Bag", "Bag")
    before = state_of(folder)
    for _ in range(10):
        (left,) = teach(home, inbox, taught).waiting
    assert left.state == "waiting" and left.reason == reason_of(inbox, "Bag")["reason"]
    assert left.reason == error.message or isinstance(error, GateError)  # which is worded for the owner
    assert len(tries) == (1 if final else 3) and state_of(folder) == before
    for _ in range(10):  # each time a day later
        long_ago = time.time() - 86_400
        os.utime(inbox / "Bag.waits.json", (long_ago, long_ago))
        teach(home, inbox, taught)
    assert len(tries) == (1 if final else 5) and reason_of(inbox, "Bag")["final"]
    tries.clear()
    (inbox / "Bag.waits.json").unlink()
    teach(home, inbox, taught)
    assert len(tries) == 1
    arrive(inbox, "Bag", "Bag", range(8, 9))
    teach(home, inbox, taught)
    assert len(tries) == 2


def test_photos_that_cannot_be_taken_are_learnt_once_their_folder_allows_it(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, move = arrive(inbox, "Bag", "Bag"), storage.move_file

    def move_as_an_ordinary_user(source: Path, target: Path) -> None:
        if not source.parent.stat().st_mode & 0o200:
            raise HomeError(f"cannot move {source}: Permission denied")
        move(source, target)

    monkeypatch.setattr(storage, "move_file", move_as_an_ordinary_user)
    folder.chmod(0o555)
    for _ in range(2):
        (left,) = teach(home, inbox, taught).waiting
        assert left.photos == 8 and "cannot be taken out of their folder" in left.reason
    folder.chmod(0o755)
    (done,) = teach(home, inbox, taught).taught
    assert done.photos == 8


def test_one_bad_class_does_not_hold_up_the_others(home: Home, inbox: Path, taught: Path) -> None:
    arrive(inbox, "Bag", "Bag")
    (inbox / "A\u202ename").mkdir()
    for number in range(6):
        (inbox / "A\u202ename" / f"{number}.png").write_bytes(b"no picture")
    report = teach(home, inbox, taught)
    assert [done.class_name for done in report.taught] == ["Bag"]
    assert [left.state for left in report.waiting] == ["waiting"]


def test_photos_that_end_the_process_are_tried_again_a_few_times(
    home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    report = teach(home, inbox, taught)
    assert "was interrupted" in report.notes[0] and report.taught[0].photos == 8

    arrive(inbox, "Shirt", "Shirt")
    note = take(home, inbox, taught, "Shirt").model_copy(update={"tried": 4})
    (inbox / ".lwm-edge" / "note.json").write_text(note.model_dump_json())
    report = teach(home, inbox, taught)
    assert [left.state for left in report.waiting] == ["waiting"] and not report.taught
    assert reason_of(inbox, "Shirt")["tried"] == 5 and len(photos_in(inbox / "Shirt")) == 8


def test_photos_that_were_learnt_before_an_interruption_are_only_put_away(
    home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    add_classes(home, inbox / ".lwm-edge" / "photos", IncrementConfig(recipe="lda"), isolate=False)
    report = teach(home, inbox, taught)
    assert "had been learnt" in report.notes[0] and not report.taught and not report.waiting
    assert counts(home)["Bag"] == 8 and len(photos_in(taught / "Bag")) == 8 and photos_in(inbox) == []


def test_photos_are_still_learnt_if_another_process_has_taught_others_of_their_class(
    home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    others = arrive(inbox.with_name("others"), "Bag", "Bag", range(8, 16)).parent
    add_classes(home, others, isolate=False)  # a class of the same name, and as many photos
    (done,) = teach(home, inbox, taught).taught
    assert (done.change, done.photos, counts(home)["Bag"]) == ("add-photos", 8, 16)


def test_photos_are_left_to_the_owner_if_the_record_does_not_say_enough(
    home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    add_classes(home, inbox / ".lwm-edge" / "photos", isolate=False)
    rename_class(home, "Coat", "Mantel")  # so that the receipt of the change is gone
    report = teach(home, inbox, taught)
    assert [left.state for left in report.waiting] == ["waiting"] and "not clear" in report.waiting[0].reason
    assert "remove Bag.waits.json" in report.waiting[0].reason
    assert reason_of(inbox, "Bag")["problems"] == [f"{number:03d}.png" for number in range(8)]
    arrive(inbox, "Bag", "Bag", range(8, 16))
    assert [left.photos for left in teach(home, inbox, taught).waiting] == [16] and counts(home)["Bag"] == 8
    for number in range(8):  # they were learnt, as the owner finds out
        (inbox / "Bag" / f"{number:03d}.png").unlink()
    (inbox / "Bag.waits.json").unlink()
    assert teach(home, inbox, taught).taught[0].photos == 8 and counts(home)["Bag"] == 16


def test_the_owner_is_asked_at_once_if_an_error_leaves_it_open_whether_photos_were_learnt(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox_teaching, "add_classes", refusing(ResourceError("killed"), []))
    monkeypatch.setattr(inbox_teaching, "was_learnt", lambda home, note: None)
    arrive(inbox, "Bag", "Bag")
    (left,) = teach(home, inbox, taught).waiting
    assert "not clear" in left.reason and teach(home, inbox, taught).waiting == (left,)


def test_the_owner_is_asked_before_photos_that_may_be_learnt_are_put_back(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, content: bytes) -> None:
        raise ResourceError("the disk is full")

    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    add_classes(home, inbox / ".lwm-edge" / "photos", isolate=False)
    rename_class(home, "Coat", "Mantel")
    with monkeypatch.context() as patch, pytest.raises(ResourceError):
        patch.setattr(storage, "write_file", fail)
        teach(home, inbox, taught)
    assert photos_in(inbox / "Bag") == [] and len(photos_in(inbox)) == 8
    assert "not clear" in teach(home, inbox, taught).waiting[0].reason and counts(home)["Bag"] == 8


def test_a_change_by_another_process_meanwhile_hides_no_learnt_photos(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrive(inbox, "Bag", "Bag")
    note = take(home, inbox, taught, "Bag")
    add_classes(home, inbox / ".lwm-edge" / "photos", isolate=False)
    others = arrive(inbox.with_name("others"), "Shirt", "Shirt").parent

    def read_while_another_commits(path: Path) -> Bundle:
        monkeypatch.setattr(inbox_record, "open_bundle", open_bundle)
        bundle = open_bundle(path)
        add_classes(home, others, isolate=False)
        return bundle

    monkeypatch.setattr(inbox_record, "open_bundle", read_while_another_commits)
    assert inbox_record.was_learnt(home, note) is None  # and not False: they would be learnt again


def test_photos_taken_before_a_home_was_started_over_are_learnt(
    home: Home, inbox: Path, taught: Path
) -> None:
    remove_class(home, "Coat", shipped=True)
    arrive(inbox, "Bag", "Bag")
    note = take(home, inbox, taught, "Bag").model_copy(update={"increment": 0, "model_digest": 64 * "0"})
    (inbox / ".lwm-edge" / "note.json").write_text(note.model_dump_json())
    assert teach(home, inbox, taught).taught[0].photos == 8


def test_photos_taken_for_another_home_or_with_a_damaged_note_are_not_touched(
    home: Home, permitting_home: Home, inbox: Path, taught: Path
) -> None:
    arrive(inbox, "Bag", "Bag")
    take(home, inbox, taught, "Bag")
    with pytest.raises(ConfigError, match="another home"):
        teach(permitting_home, inbox, taught)
    (inbox / ".lwm-edge" / "note.json").write_text("{")
    with pytest.raises(HomeError, match="cannot be read"):
        teach(home, inbox, taught)
    assert len(photos_in(inbox / ".lwm-edge" / "photos" / "Bag")) == 8


def test_either_all_photos_that_were_taken_are_learnt_or_none(
    home: Home, inbox: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn_damaged(home: Home, folder: Path, *given: Any, **named: Any) -> Any:
        (folder / "Bag" / "007.png").write_bytes(b"damaged on the way")
        return add_classes(home, folder, *given, **named)

    monkeypatch.setattr(inbox_teaching, "add_classes", learn_damaged)
    arrive(inbox, "Bag", "Bag")
    for _ in range(2):
        (left,) = teach(home, inbox, taught).waiting
    assert "007.png" in left.reason and "Bag" not in counts(home) and len(photos_in(inbox / "Bag")) == 8
    (inbox / "Bag.waits.json").unlink()
    assert teach(home, inbox, taught).taught[0].photos == 7


def test_a_photo_that_was_learnt_before_is_not_learnt_again(home: Home, inbox: Path, taught: Path) -> None:
    arrive(inbox, "Bag", "Bag")
    teach(home, inbox, taught)
    arrive(inbox, "Bag", "Bag")  # like a tool that delivers files again once they are gone
    (left,) = teach(home, inbox, taught).waiting
    assert "has been used for teaching" in left.reason and counts(home)["Bag"] == 8
    arrive(inbox, "Bag", "Bag", range(20, 26))
    assert teach(home, inbox, taught).taught[0].photos == 6 and counts(home)["Bag"] == 14


def test_a_taught_photo_replaces_no_other_of_the_same_name(home: Home, inbox: Path, taught: Path) -> None:
    arrive(inbox, "Bag", "Bag")
    photo_folder(taught, {"Bag": "Shirt"}, count=2)
    others = state_of(taught)
    teach(home, inbox, taught)
    assert len(photos_in(taught)) == 10 and others.items() <= state_of(taught).items()


def test_links_and_files_that_are_no_photos_stay(home: Home, inbox: Path, taught: Path) -> None:
    folder = arrive(inbox, "Bag", "Bag")
    (folder / "link.png").symlink_to("000.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "more").mkdir()
    shutil.copy(DEMO_DATA / "train" / "2" / "Bag" / "030.png", folder / "more")
    (done,) = teach(home, inbox, taught).taught
    left = {path.name for path in folder.rglob("*")}
    assert done.photos == 8 and left == {"link.png", "pipe.png", "more", "030.png"}
    assert len(reason_of(inbox, "Bag")["problems"]) == 3


def test_the_arguments_are_checked(home: Home, inbox: Path, taught: Path) -> None:
    for settings, message in (
        ({}, "say what to do with photos that the model has learnt from"),
        ({"taught": taught, "delete": True}, "say what to do with photos that the model has learnt from"),
        ({"taught": inbox / "taught"}, "is inside the inbox"),
        ({"taught": home.path / "taught"}, "is inside the home"),
        ({"delete": True, "config": IncrementConfig(recipe="lwm")}, "without training"),
        ({"delete": True, "config": IncrementConfig(class_name="Hat")}, "class_name cannot be used"),
        ({"delete": True, "quiet_seconds": -1.0}, "number of seconds"),
    ):
        with pytest.raises(ConfigError, match=message):
            teach_inbox(home, inbox, **settings)  # type: ignore[arg-type]
    with pytest.raises(HomeError, match="is not a folder"):
        teach(home, inbox / "missing", taught)


def test_only_one_process_can_work_on_an_inbox(home: Home, inbox: Path, taught: Path) -> None:
    with InboxFolder(inbox, taught).locked(), pytest.raises(BusyError, match="teaching from the photos in"):
        teach(home, inbox, taught)


def test_two_inboxes_can_put_away_photos_of_the_same_name_at_the_same_time(
    home: Home, tmp_path: Path, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = []
    for name, numbers in (("first", range(4)), ("second", range(4, 8))):
        folder = arrive(tmp_path / name, "Bag", "Bag", numbers)
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / f"photo {number}.png")
        waiting.append((InboxFolder(tmp_path / name, taught), take(home, tmp_path / name, taught, "Bag")))
    (first, its_note), (second, other_note) = waiting
    at_the_same_time, rename = Thread(target=second.put_away, args=(other_note,)), _disk.rename

    def rename_late(source: Path, target: Path) -> None:
        if not at_the_same_time.ident:
            at_the_same_time.start()
            at_the_same_time.join(timeout=0.5)
        rename(source, target)

    monkeypatch.setattr(_disk, "rename", rename_late)
    first.put_away(its_note)
    at_the_same_time.join()
    assert len(photos_in(taught / "Bag")) == 8 and photos_in(tmp_path / "first") == []


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 10**400])
def test_a_quiet_time_that_never_ends_is_refused(
    home: Home, inbox: Path, taught: Path, seconds: float
) -> None:
    with pytest.raises(ConfigError, match="cannot stay unchanged"):
        teach_inbox(home, inbox, taught=taught, quiet_seconds=seconds)


@pytest.mark.extended
def test_two_inboxes_on_one_home_take_turns(home: Home, tmp_path: Path) -> None:
    """Both have a class of the same name: one teaches the class, and the other adds photos to it."""
    commands = []
    for name, numbers in (("first", range(8)), ("second", range(8, 16))):
        (tmp_path / name).mkdir()
        arrive(tmp_path / name, "Bag", "Bag", numbers)
        commands.append(
            ["inbox", str(tmp_path / name), "--taught", str(tmp_path / "taught"), "--quiet-for", "0"]
        )
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "lwm_edge", *command, "--once", "--json", "--home", str(home.path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for command in commands
    ]
    reports = [json.loads(process.communicate()[0]) for process in running]
    changes = sorted(report["taught"][0]["change"] for report in reports)
    assert changes == ["add-classes", "add-photos"] and counts(home)["Bag"] == 16
    assert len(photos_in(tmp_path / "taught")) == 16


def test_watching_goes_on_until_it_is_told_to_stop(home: Home, inbox: Path, taught: Path) -> None:
    reports: list[InboxReport] = []

    class EnoughError(Exception):
        pass

    def on_report(report: InboxReport) -> None:
        reports.append(report)
        if len(reports) == 1:
            arrive(inbox, "Bag", "Bag")
        if report.taught:
            raise EnoughError

    with pytest.raises(EnoughError):
        watch_inbox(home, inbox, on_report=on_report, taught=taught, quiet_seconds=0.2, isolate=False)
    assert not reports[0].taught and reports[-1].taught[0].class_name == "Bag"
    assert [left.state for report in reports[1:-1] for left in report.waiting] == ["arriving"]


@pytest.mark.parametrize("teaches_once", [True, False])
def test_a_callback_can_end_the_call_while_it_waits(
    home: Home, inbox: Path, taught: Path, teaches_once: bool
) -> None:
    class EnoughError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.phase == "wait":
            raise EnoughError

    arrive(inbox, "Bag", "Bag")
    with pytest.raises(EnoughError):
        if teaches_once:
            teach_inbox(home, inbox, taught=taught, on_progress=stop)
        else:
            watch_inbox(home, inbox, on_report=lambda report: None, taught=taught, on_progress=stop)
    report = teach_inbox(
        home, inbox, taught=taught, quiet_seconds=0.1, isolate=False
    )  # nobody holds the lock
    assert report.taught[0].class_name == "Bag"
