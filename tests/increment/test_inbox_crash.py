"""Whichever disk operation of an inbox fails or is interrupted, no photo is lost or learnt twice.

Instead of learning, a stand-in commits a model that was really learnt once, so that hundreds of interruptions
can be tried. Random kills of real processes are in benchmarks/inbox_crash.py.
"""

from __future__ import annotations

import errno
import itertools
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import InboxReport, IncrementConfig, add_classes, audit, init_home, teach_inbox
from lwm_edge.errors import HomeError, LwmEdgeError
from lwm_edge.home.ownership import GENERATION_FILES
from lwm_edge.increment import inbox_teaching
from lwm_edge.increment.reports import IncrementReport
from tests.support.crash import Files, commit_files, files_of, take_lock
from tests.support.disk_model import Disk, Operation
from tests.support.fault_layer import Exploration, Recorder, disk_recorded_by, record
from tests.support.file_store import Content, Store, Tree
from tests.support.folders import photo_folder
from tests.support.hostile import published
from tests.support.pages import ROOT
from tests.support.samples import WITHOUT_LEVELS

ERRORS = (OSError(errno.ENOSPC, "disk full"), KeyboardInterrupt())
LDA = IncrementConfig(recipe="lda", min_photos=3)


class OnTwoDisks(Recorder):
    """Records the operations of an inbox whose used photos go to another file system."""

    def rename(self, source: Path, target: Path) -> None:
        if "taught" in target.parts and "taught" not in source.parts:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        super().rename(source, target)


@dataclass
class World:
    """Holds a home, its inbox and the folder for used photos, and knows which files can be in them.

    Attributes:
        root: Folder with all three.
        store: Store of file contents.
        before: Files before anything was taught.
        photos: Contents of the photos.
        old: Files of the home before the photos were learnt.
        new: Files of the home after that.
        delete: Whether used photos are deleted.
        copies: Whether used photos are copied, so that a photo can exist twice for a moment.
        commits: Number of times that photos were learnt since the latest recovery began.
        started_new: Whether the home had learnt from the photos when the latest recovery began.
        checked: States after recoveries that were audited already.
    """

    root: Path
    store: Store
    before: Tree
    photos: tuple[Content, ...]
    old: Files
    new: Files
    delete: bool = False
    copies: bool = False
    commits: int = 0
    started_new: bool = False
    checked: set[Tree] = field(default_factory=set)

    def learn(self, home: Any, folder: Path, *ignored: object, **settings: object) -> IncrementReport:
        """Stands in for `add_classes`: commits the model that was learnt once from these photos."""
        found = sorted(self.store.read(path) for path in folder.rglob("*.png"))
        assert found == sorted(self.photos), "not the whole batch"
        files = {n: self.store.get(c) for n, c in zip(GENERATION_FILES, self.new, strict=True)}
        commit_files(home, files)
        self.commits += 1
        return IncrementReport.model_validate_json(home.current().receipt.read_bytes())

    def teach(self, isolate: bool = True) -> InboxReport:
        """Recovers and teaches, as the next start of `inbox` does."""
        self.commits, self.started_new = 0, self.home_files() == self.new
        return teach_inbox(
            self.root / "home",
            self.root / "inbox",
            LDA,
            taught=None if self.delete else self.root / "taught",
            delete=self.delete,
            quiet_seconds=0,
            isolate=isolate,
        )

    def home_files(self) -> Files:
        return files_of(self.root / "home", self.store)

    def explore(
        self,
        operations: list[Operation],
        make_recorder: Callable[[Path, Store], Recorder],
        forget: Callable[[Operation], bool] = lambda operation: False,
    ) -> Exploration:
        """Interrupts the teaching at each of its operations, and recovers."""
        exploration = Exploration(
            self.store, self.root, self.check, self.teach, self.check_recovered, 1, forget, make_recorder
        )
        exploration.run(Disk.holding(self.store, self.before), operations)
        return exploration

    def count_photos(self, folder: str = "") -> Counter[Content]:
        paths = [p for p in (self.root / folder).rglob("*.png") if not p.is_symlink()]
        return Counter(self.store.read(path) for path in paths)

    def check(self) -> None:
        """Checks that the home is old or new, and that no photo is gone unless it was learnt and deleted."""
        files, photos = self.home_files(), self.count_photos()
        assert files in (self.old, self.new)
        times = {photos[photo] for photo in self.photos}
        may_be_gone = self.delete and files == self.new
        assert times <= ({0, 1} if may_be_gone else {1, 2} if self.copies else {1}), times

    def check_recovered(self) -> None:
        """Checks that the photos were learnt once, and are where their owner wants them."""
        assert self.commits == (0 if self.started_new else 1), "learnt twice, or not at all"
        assert self.home_files() == self.new
        expected = Counter() if self.delete else Counter(self.photos)
        assert self.count_photos("inbox") == Counter() and self.count_photos() == expected
        left = self.store.scan(self.root)
        if left not in self.checked:
            self.checked.add(left)
            names = {name for name, kind, _ in left if kind == "file" and "/home/" not in name}
            assert {n for n in names if not n.endswith(".png")} == {f"{self.root.name}/inbox/.lwm-edge/lock"}
            take_lock(self.root / "home")
            assert not audit(self.root / "home").problems


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Makes a home and photos, and keeps the files of the home before and after it learns from the photos."""
    folder = tmp_path_factory.mktemp("inbox")
    root, store = folder / "world", Store(folder / "store")
    root.mkdir()
    init_home(WITHOUT_LEVELS, root / "home")
    photos = photo_folder(root / "inbox", {"Bag": "Bag"}, count=3)
    before, old = store.scan(root), files_of(root / "home", store)
    contents = tuple(store.read(path) for path in sorted(photos.rglob("*.png")))
    add_classes(root / "home", photos, LDA, isolate=False)
    return World(root, store, before, contents, old, files_of(root / "home", store))


@pytest.fixture
def world(made_once: World, monkeypatch: pytest.MonkeyPatch) -> World:
    world = made_once
    world.delete = world.copies = False
    world.checked.clear()
    world.store.materialise(world.before, world.root)
    monkeypatch.setattr(inbox_teaching, "add_classes", world.learn)
    return world


WAYS: dict[str, tuple[dict[str, bool], Callable[[Path, Store], Recorder]]] = {
    "moved": ({}, partial(Recorder, moves=True)),
    "copied to another file system": ({"copies": True}, partial(OnTwoDisks, moves=True)),
    "deleted": ({"delete": True}, partial(Recorder, moves=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way == "moved" else pytest.mark.extended) for way in WAYS]
)
def test_no_interruption_loses_a_photo_or_learns_it_twice(world: World, way: str) -> None:
    settings, make_recorder = WAYS[way]
    for name, value in settings.items():
        setattr(world, name, value)
    operations = record(world.store, world.root, world.teach, make_recorder(world.root, world.store))
    world.check_recovered()
    exploration = world.explore(operations, make_recorder)
    kills, cuts = (exploration.counts[f"{kind} in the change"] for kind in ("kills", "power cuts"))
    assert published(
        f"`inbox`, used photos {way}: at each of its {len(operations)} operations on disk "
        f"| {kills:,} kills, {cuts:,} power cuts: {exploration.different:,} different disks | 0 |"
    )


@pytest.mark.extended
def test_no_refused_operation_loses_a_photo_or_learns_it_twice(world: World) -> None:
    operations = record(world.store, world.root, world.teach, Recorder(world.root, world.store, moves=True))
    of_inbox = [i for i, operation in enumerate(operations) if "/home" not in operation[1]]
    tried = list(itertools.product(of_inbox, ERRORS, (False, True)))  # home/test_crash.py tries the others
    for position, error, all_later in tried:
        world.store.materialise(world.before, world.root)
        recorder = Recorder(world.root, world.store, position, error, all_later, moves=True)
        with disk_recorded_by(recorder), suppress(LwmEdgeError, KeyboardInterrupt):
            world.teach()
        world.check()
        for reason in (world.root / "inbox").glob("*.waits.json"):
            reason.unlink()  # as owners do once they have freed some space
        world.teach()
        world.check_recovered()
    assert published(f"the same in `inbox`, used photos moved | {len(tried)} | 0 |")


def test_a_forgotten_note_would_be_noticed(world: World) -> None:
    operations = record(world.store, world.root, world.teach, Recorder(world.root, world.store, moves=True))
    with pytest.raises((AssertionError, HomeError)):
        world.explore(operations, WAYS["moved"][1], lambda operation: "note.json" in operation[1])


def test_a_real_increment_does_the_same_as_the_stand_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stood_in = record(world.store, world.root, world.teach, Recorder(world.root, world.store, moves=True))
    world.store.materialise(world.before, world.root)
    monkeypatch.setattr(inbox_teaching, "add_classes", add_classes)
    recorder = Recorder(world.root, world.store, moves=True)
    with disk_recorded_by(recorder):
        world.teach(isolate=False)
    assert _outside_the_home(recorder.operations) == _outside_the_home(stood_in)


def _outside_the_home(operations: list[Operation]) -> list[Operation]:
    return [operation[:2] for operation in operations if "/home" not in operation[1]]


def test_the_random_kills_are_as_published() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "inbox-crash.json").read_text())
    assert result["bad"] == [] and sum(result["landed_by_phase"].values()) == result["landed"]
    both, half_copied, slowly_copied = result["landed_while"].values()
    assert published(
        f"known classes | {result['landed']} kills ([results](../benchmarks/results/inbox-crash.json)): "
        f"{both} while another process taught the other inbox, {half_copied} with half-copied photos, "
        f"{slowly_copied} while a photo was being copied | 0 |"
    )
    assert published(", ".join(f"{count} in `{phase}`" for phase, count in result["landed_by_phase"].items()))
