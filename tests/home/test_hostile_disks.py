"""A home survives a wrong clock, and disks that are full, failing, read-only, or without links or locks."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lwm_edge import _disk, add_classes, audit, durability, init_home, remove_class, repair_home, storage
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import HomeError, LwmEdgeError, ResourceError
from lwm_edge.home.home import Generation, Home, open_home
from lwm_edge.home.ownership import GENERATION_FILES
from tests.support.folders import Keys, PhotoMaker, state_of
from tests.support.hostile import ordinary_user, published
from tests.support.samples import QUICK, WITHOUT_LEVELS

Mount = Callable[..., Path]
ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system in memory: `mount(size="3m", nr_inodes=20)`."""
    point = tmp_path / "disk"
    point.mkdir()

    def mounted(**options: object) -> Path:
        text = ",".join(f"{name}={value}" for name, value in options.items())
        command = ["mount", "-t", "tmpfs", "-o", text, "tmpfs", str(point)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this process may not mount a file system")
        return point

    yield mounted
    subprocess.run(["umount", str(point)], capture_output=True, check=False)


def _home_on(disk: Path, home: Home) -> Home:
    shutil.copytree(home.path, disk / "home", symlinks=True)
    return open_home(disk / "home")


def _fill(disk: Path, free: int) -> Path:
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    status = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_bsize - free)))
    return filler


def test_a_disk_with_too_little_space_keeps_the_model(home: Home, mount: Mount) -> None:
    disk = mount(size="8m")
    home = _home_on(disk, home)
    need = sum((home.current().path / name).stat().st_size for name in GENERATION_FILES)
    before, failed = state_of(home.path), 0
    for twentieth in range(20):
        filler = _fill(disk, need * twentieth // 20)
        with pytest.raises(ResourceError, match="the disk is full; free some space"):
            _commit_again(home)
        failed += 1
        filler.unlink()
        assert state_of(home.path) == before
    _commit_again(home)
    assert audit(home).passed
    too_little = "a disk with 0 to 19 twentieths of the space that a change needs (mounted)"
    assert published(f"| {too_little} | {failed} | nothing |")


def _commit_again(home: Home) -> tuple[str, ...]:
    """Commits the same files once more, in the same way as every change."""
    old = home.current()

    def write(generation: Generation) -> None:
        for name in GENERATION_FILES:
            storage.write_file(generation.path / name, (old.path / name).read_bytes())

    with home.lock():
        return home.commit(write)


@pytest.mark.slow
def test_changes_on_a_full_disk_are_refused(home: Home, mount: Mount, make_photos: PhotoMaker) -> None:
    disk = mount(size="8m")
    home, photos = _home_on(disk, home), make_photos("Bag")
    (home.current().onnx).unlink()
    before = state_of(home.path)
    _fill(disk, 1_400_000)
    changes: tuple[Callable[[], object], ...] = (
        lambda: add_classes(home, photos, QUICK, isolate=False),
        lambda: add_classes(home, photos, QUICK),
        lambda: remove_class(home, "Coat", shipped=True),
        lambda: repair_home(home),
        lambda: init_home(BASE_BUNDLE, home.path, replace=True),
        lambda: init_home(BASE_BUNDLE, disk / "another"),
    )
    for change in changes:
        with pytest.raises(ResourceError, match=r"the disk is full|is on a disk with .* bytes free"):
            change()
        assert state_of(home.path) == before
    (disk / "filler").unlink()
    repair_home(home)
    init_home(BASE_BUNDLE, disk / "another")
    assert audit(home).passed and audit(disk / "another").passed
    assert published(f"| commands that write, on a full disk (mounted) | {len(changes)} | nothing |")


def test_a_disk_without_inodes_keeps_the_model(home: Home, mount: Mount) -> None:
    disk = mount(size="8m", nr_inodes=30)
    home, tried = _home_on(disk, home), 0
    before = state_of(home.path)
    for free in range(5):
        _take_inodes(disk, free)
        with pytest.raises(ResourceError, match="the disk is full"):
            _commit_again(home)
        assert state_of(home.path) == before
        tried += 1
    shutil.rmtree(disk / "many")
    _commit_again(home)
    assert audit(home).passed
    assert published(f"| only zero to four inodes left (mounted) | {tried} | nothing |")


def _take_inodes(disk: Path, free: int) -> None:
    shutil.rmtree(disk / "many", ignore_errors=True)
    (disk / "many").mkdir()
    for number in range(os.statvfs(disk).f_ffree - free):
        (disk / "many" / str(number)).touch()


def test_a_read_only_disk_keeps_the_model(home: Home, mount: Mount, make_photos: PhotoMaker) -> None:
    disk, photos = mount(size="8m"), make_photos("Bag")
    home = _home_on(disk, home)
    before = state_of(home.path)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for change in (
        lambda: add_classes(home, photos, QUICK, isolate=False),
        lambda: remove_class(home, "Coat", shipped=True),
        lambda: repair_home(home),
        lambda: init_home(BASE_BUNDLE, disk / "another"),
    ):
        with pytest.raises(HomeError, match="Read-only file system"):
            change()
    assert state_of(home.path) == before
    assert audit(home).passed  # an audit writes nothing
    assert published("| read-only disk (mounted) | 4 | nothing |")


def test_a_home_that_may_not_be_written_stays_as_it_was(shipped_home: Path) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        home = Home(Path(name) / "home")
        shutil.copytree(shipped_home, home.path, symlinks=True)
        home.path.chmod(0o555)
        before = state_of(home.path)
        with ordinary_user():
            for change in (lambda: _commit_again(home), lambda: repair_home(home)):
                with pytest.raises(HomeError, match="Permission denied; check the path and its permissions"):
                    change()
        assert state_of(home.path) == before
        home.path.chmod(0o755)


def test_every_sync_that_fails_leaves_the_old_model_or_the_new(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = os.fsync, 0
    for number in ERRNOS:
        for fails_at in range(100):
            left = [fails_at]

            def fsync(descriptor: int, left: list[int] = left, number: int = number) -> None:
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(number, os.strerror(number))
                real(descriptor)

            before = state_of(home.path)
            monkeypatch.setattr(os, "fsync", fsync)
            failed = _fails(lambda: _commit_again(home))
            monkeypatch.undo()
            if left[0] >= 0:  # the commit made fewer syncs, so none failed
                break
            tried += 1
            if failed and state_of(home.path) != before:
                assert "so a power cut may still undo it" in str(failed)
            with home.lock():
                pass
            assert audit(home).passed
        assert fails_at > 10
    assert published(f"| each sync of a change fails: ENOSPC, EDQUOT, EIO, EROFS | {tried} | nothing |")


def _fails(change: Callable[[], object]) -> LwmEdgeError | None:
    try:
        change()
    except (HomeError, ResourceError) as error:
        return error
    return None


def test_a_clock_that_goes_back_does_no_harm(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: float(next(times)))
    monkeypatch.setattr(time, "time_ns", lambda: next(times) * 10**9)
    for path in home.path.rglob("*"):
        os.utime(path, (4 * 10**9, 4 * 10**9), follow_symlinks=False)  # in the year 2096
    for name in ("Coat", "Dress"):
        remove_class(home, name, shipped=True)
    monkeypatch.undo()
    assert audit(home).passed
    assert home.open_bundle().manifest.increment_count == 2
    assert published("| clock going back before each change | 2 | nothing |")


def _refusing(number: int) -> Callable[..., None]:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("where", "what", "number", "folder_is_there"),
    [
        (_disk, "symlink", errno.EPERM, False),
        (_disk, "symlink", errno.EOPNOTSUPP, True),
        (fcntl, "flock", errno.ENOLCK, True),
        (fcntl, "flock", errno.ENOSYS, False),
    ],
)
def test_init_refuses_a_file_system_without_links_or_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, what: str, number: int, folder_is_there: bool
) -> None:
    path = tmp_path / "home"
    if folder_is_there:
        path.mkdir()
    monkeypatch.setattr(where, what, _refusing(number))
    lacking = {"symlink": "no symbolic links", "flock": "no locks"}[what]
    with pytest.raises(HomeError, match=f"this file system has {lacking} .*on another file system"):
        init_home(WITHOUT_LEVELS, path)
    monkeypatch.undo()
    if not folder_is_there:
        assert not path.exists()
    elif what == "symlink":
        assert not list(path.iterdir())
    init_home(WITHOUT_LEVELS, path)
    assert audit(path).passed


def test_a_failed_init_removes_its_trusted_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Keys
) -> None:
    monkeypatch.setattr(_disk, "symlink", _refusing(errno.EPERM))
    with pytest.raises(HomeError):
        init_home(keys.base, tmp_path / "home", trust=keys.vendor_pub)
    assert not (tmp_path / "home").exists()


def test_a_file_system_that_cannot_sync_folders_is_used_and_warned_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "_without_folder_sync", set())
    monkeypatch.setattr(_disk, "sync_folder", _refusing(errno.EINVAL))
    made = init_home(WITHOUT_LEVELS, tmp_path / "home")
    assert [warning for warning in made.warnings if "cannot confirm" in warning]
    assert not remove_class(tmp_path / "home", "Coat", shipped=True).warnings
    assert audit(tmp_path / "home").passed


def test_a_change_that_the_disk_did_not_confirm_is_done_with_a_warning(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _disk.sync_folder

    def fails_after_the_switch(folder: Path) -> None:
        if folder == home.path and home.current().path.name == "00000001":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(folder)

    monkeypatch.setattr(_disk, "sync_folder", fails_after_the_switch)
    (warning,) = remove_class(home, "Coat", shipped=True).warnings
    assert "did not confirm it (Input/output error), so a power cut may still undo it" in warning
    assert "Coat" not in home.open_bundle().manifest.class_names
