"""A reader finds the old content or the new; a refusal says what to do and leaves nothing behind."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from lwm_edge import _disk, inspection, locks, outputs, storage
from lwm_edge.errors import BusyError, ConfigError, HomeError, ResourceError

LOCK_HOLDER = """
import sys, time
from pathlib import Path
from lwm_edge.locks import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail_fsync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


# umask and fork


def test_no_umask_lets_everybody_write_an_output(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        outputs.write_output(tmp_path / "out", b"")
        storage.write_file(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert not any(path.stat().st_mode & stat.S_IWOTH for path in tmp_path.iterdir())


def test_a_forked_process_that_leaves_the_block_unlocks_nothing(tmp_path: Path) -> None:
    with locks.exclusive_lock(tmp_path / "lock"):
        child = None
        try:
            with locks.exclusive_lock(tmp_path / "other"):
                child = os.fork()
                if child == 0:
                    raise KeyboardInterrupt
                os.waitpid(child, 0)
                with pytest.raises(BusyError), locks.exclusive_lock(tmp_path / "other"):
                    pass
        except KeyboardInterrupt:
            os._exit(0)


# write_file


def test_a_file_is_written_and_replaced_with_nothing_left_beside_it(tmp_path):
    storage.write_file(tmp_path / "model.lwm", b"old")
    assert content_of(tmp_path) == {"model.lwm": b"old"}
    storage.write_file(tmp_path / "model.lwm", b"new, and longer")
    assert content_of(tmp_path) == {"model.lwm": b"new, and longer"}
    storage.write_file(tmp_path / "model.lwm", b"")
    assert content_of(tmp_path) == {"model.lwm": b""}


def test_a_reader_that_has_the_old_file_open_keeps_it(tmp_path):
    storage.write_file(tmp_path / "model.lwm", b"old")
    with (tmp_path / "model.lwm").open("rb") as reader:
        storage.write_file(tmp_path / "model.lwm", b"new")
        assert reader.read() == b"old"


def test_a_reader_never_finds_a_mixture_of_old_and_new_content(tmp_path):
    versions = [bytes([value]) * 200_000 for value in range(4)]
    storage.write_file(tmp_path / "model.lwm", versions[0])
    seen: list[bytes] = []
    done = threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            seen.append((tmp_path / "model.lwm").read_bytes())
            del seen[:-2000]

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for round_ in range(100):
        storage.write_file(tmp_path / "model.lwm", versions[round_ % 4])
    done.set()
    reader.join()
    assert seen
    assert set(seen) <= set(versions)


def test_the_content_is_synced_before_the_rename_and_the_folder_after(tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(descriptor: int) -> None:
        steps.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def noting_replace(self: Path, target: Path) -> Path:
        steps.append(f"rename {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    storage.write_file(tmp_path / "a", b"x")
    assert steps == ["sync .a.lwm-edge", "rename .a.lwm-edge", f"sync {tmp_path.name}"]


def test_a_staged_file_left_by_a_kill_is_written_over(tmp_path):
    storage.staged_path(tmp_path / "a").write_bytes(b"half of something much longer")
    storage.write_file(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {"a": b"new"}


def test_a_link_in_the_staged_files_place_is_neither_written_through_nor_removed(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    storage.staged_path(tmp_path / "a").symlink_to("precious")
    with pytest.raises(HomeError, match="is a link, which is left alone"):
        storage.write_file(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {"precious": b"kept", ".a.lwm-edge": b"kept"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_the_old_file_and_says_so(tmp_path, monkeypatch, number):
    storage.write_file(tmp_path / "a", b"old")
    fail_fsync(monkeypatch, number)
    with pytest.raises(ResourceError) as caught:
        storage.write_file(tmp_path / "a", b"new")
    assert caught.value.message == (
        f"cannot write {tmp_path / 'a'}: the disk is full; free some space and try again"
    )
    assert caught.value.exit_code == 5
    assert content_of(tmp_path) == {"a": b"old"}


def test_a_full_disk_leaves_no_part_of_a_new_file(tmp_path, monkeypatch):
    fail_fsync(monkeypatch, errno.ENOSPC)
    with pytest.raises(ResourceError):
        storage.write_file(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {}


def test_a_disk_error_keeps_the_old_file_and_is_not_called_a_lack_of_space(tmp_path, monkeypatch):
    storage.write_file(tmp_path / "a", b"old")
    fail_fsync(monkeypatch, errno.EIO)
    with pytest.raises(HomeError, match="Input/output error; check the path"):
        storage.write_file(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {"a": b"old"}


def test_an_interruption_leaves_no_staged_file(tmp_path, monkeypatch):
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write_file(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {}


def test_a_rename_that_the_disk_did_not_confirm_is_not_called_a_full_disk(tmp_path, monkeypatch):
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    storage.write_file(tmp_path / "a", b"old")
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(HomeError, match="is written, but the disk did not confirm it"):
        storage.write_file(tmp_path / "a", b"new")
    (warning,) = storage.swap_link(tmp_path / "link", "a")  # the switch is made, so this is no error
    assert "is written, but the disk did not confirm it" in warning
    assert (tmp_path / "a").read_bytes() == (tmp_path / "link").read_bytes() == b"new"


def test_a_missing_folder_is_a_home_error(tmp_path):
    with pytest.raises(HomeError) as caught:
        storage.write_file(tmp_path / "none" / "a", b"new")
    assert caught.value.message == (
        f"cannot write {tmp_path / 'none' / 'a'}: No such file or directory; "
        "check the path and its permissions"
    )
    assert caught.value.exit_code == 4


def test_a_file_where_a_folder_should_be_is_a_home_error(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(HomeError, match="Not a directory"):
        storage.write_file(tmp_path / "file" / "a", b"new")
    assert content_of(tmp_path) == {"file": b"x"}


def test_a_folder_where_the_file_should_be_is_a_home_error_and_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(HomeError, match="it is a folder"):
        storage.write_file(tmp_path / "a", b"new")
    with pytest.raises(ConfigError, match="it is a folder"):
        outputs.write_output(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_a_home_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(HomeError, match="Permission denied; check the path and its permissions"):
        storage.write_file(tmp_path / "a", b"new")


# Folders, links, removal


def test_a_folder_is_made_with_its_parents_and_may_exist(tmp_path):
    storage.make_folder(tmp_path / "a" / "b")
    storage.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_new_folder_is_synced_with_every_new_parent(tmp_path, monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(storage, "sync_folder", synced.append)
    storage.make_folder(tmp_path / "a" / "b" / "c")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(synced)


def test_a_folder_below_a_file_is_a_home_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="cannot create"):
        storage.make_folder(tmp_path / "file" / "a")


def test_a_link_is_made_and_switched_with_nothing_left_beside_it(tmp_path):
    for target in ("generations/1", "generations/2", "generations/2"):
        storage.swap_link(tmp_path / "current", target)
        assert (tmp_path / "current").readlink() == Path(target)
        assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_the_link_names_something_at_every_instant(tmp_path):
    storage.swap_link(tmp_path / "current", "a")
    seen: set[str] = set()
    done = threading.Event()

    def keep_reading() -> None:
        while not done.is_set():
            try:
                seen.add(str((tmp_path / "current").readlink()))
            except OSError as error:
                seen.add(str(error))

    reader = threading.Thread(target=keep_reading)
    reader.start()
    for _ in range(100):
        storage.swap_link(tmp_path / "current", "b")
        storage.swap_link(tmp_path / "current", "a")
    done.set()
    reader.join()
    assert seen
    assert seen <= {"a", "b"}


def test_a_link_in_the_staged_links_place_is_left_alone(tmp_path):
    storage.staged_path(tmp_path / "current").symlink_to("precious")
    with pytest.raises(HomeError, match="File exists"):
        storage.swap_link(tmp_path / "current", "a")
    assert storage.staged_path(tmp_path / "current").readlink() == Path("precious")


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_anything_but_a_link_is_left_alone_by_a_switch(tmp_path, kind):
    (tmp_path / "current").mkdir() if kind == "folder" else (tmp_path / "current").touch()
    with pytest.raises(HomeError, match=f"it is a {kind}, which is left alone"):
        storage.swap_link(tmp_path / "current", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_a_link_in_a_missing_folder_is_a_home_error(tmp_path):
    with pytest.raises(HomeError, match="cannot switch"):
        storage.swap_link(tmp_path / "none" / "current", "a")


def test_a_removal_removes_its_target_and_nothing_else(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to("kept")
    (tmp_path / "file").touch()
    storage.remove_file(tmp_path / "file")
    storage.remove_file(tmp_path / "never there")
    storage.remove_link(tmp_path / "link")
    storage.remove_folder(tmp_path / "folder", {"a", "b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "kept"]


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_anything_but_a_file_is_not_removed_as_a_file(tmp_path, kind):
    path = tmp_path / "a"
    make = {"folder": path.mkdir, "link": lambda: path.symlink_to("b"), "fifo": lambda: os.mkfifo(path)}
    make[kind]()
    with pytest.raises(HomeError, match="left alone"):
        storage.remove_file(path)
    assert os.path.lexists(path)


def test_anything_but_a_file_is_not_moved(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(HomeError, match="it is a named pipe"):
        storage.move_file(tmp_path / "pipe", tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


@pytest.mark.parametrize("inside", ["other name", "a/deep", "link", "fifo"])
def test_a_folder_with_anything_else_in_it_stays_whole(tmp_path, inside):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").touch()
    if inside == "link":
        (folder / "b").symlink_to(tmp_path)
    elif inside == "fifo":
        os.mkfifo(folder / "b")
    elif inside == "a/deep":
        (folder / "b").mkdir()
    else:
        (folder / inside).touch()
    storage.remove_folder(folder, {"a", "b"})
    assert len(list(folder.iterdir())) == 2


def test_a_file_that_turns_up_in_a_folder_during_its_removal_stays(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").touch()
    entries = inspection.entries

    def too_late(path):
        (folder / "thesis.txt").touch()
        return entries(path)

    monkeypatch.setattr(storage, "holds_only", lambda *_: True)
    monkeypatch.setattr(storage, "entries", too_late)
    with pytest.raises(HomeError, match="cannot remove"):
        storage.remove_folder(folder, {"a"})
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_file_that_another_process_is_writing_is_refused(tmp_path):
    with storage.staged_path(tmp_path / "a").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="is being written by another process"):
            outputs.write_output(tmp_path / "a", b"new")
    outputs.write_output(tmp_path / "a", b"new")
    assert content_of(tmp_path) == {"a": b"new"}


def test_a_link_to_a_folder_is_not_removed_as_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    (tmp_path / "link").symlink_to("folder")
    storage.remove_folder(tmp_path / "link", {"a"})
    assert (tmp_path / "link" / "a").exists()


# The lock


def start_holder(lock: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LOCK_HOLDER, str(lock)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_lock_keeps_others_out_until_its_holder_dies(tmp_path):
    with start_holder(tmp_path / "lock") as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(BusyError) as caught, locks.exclusive_lock(tmp_path / "lock"):
                pass
        finally:
            holder.kill()  # so it cannot clean up
    assert (
        caught.value.message
        == f"{tmp_path} is being changed already; try again when that is done, or pass --wait"
    )
    assert caught.value.exit_code == 75
    with locks.exclusive_lock(tmp_path / "lock"):
        pass


def test_a_second_process_is_refused_while_this_one_holds_the_lock(tmp_path):
    with locks.exclusive_lock(tmp_path / "lock"), start_holder(tmp_path / "lock") as second:
        out, err = second.communicate(timeout=30)
    assert (second.returncode, out) == (1, "")
    assert "BusyError" in err


def test_a_second_process_may_wait(tmp_path):
    code = LOCK_HOLDER.replace("Path(sys.argv[1])", "Path(sys.argv[1]), on_wait=int").replace("60", "0")
    with locks.exclusive_lock(tmp_path / "lock"):
        command = [sys.executable, "-c", code, str(tmp_path / "lock")]
        second = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(3)
    assert second.communicate(timeout=30) == ("held\n", None)


def test_a_lock_is_free_again_after_the_block_and_after_an_error_in_it(tmp_path):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locks.exclusive_lock(tmp_path / "lock"):
            raise ZeroDivisionError


def test_an_error_inside_the_block_is_not_taken_for_an_error_of_the_lock(tmp_path):
    with pytest.raises(FileNotFoundError), locks.exclusive_lock(tmp_path / "lock"):
        (tmp_path / "none").read_bytes()


def test_a_lock_in_a_missing_folder_is_a_home_error(tmp_path):
    with pytest.raises(HomeError, match="cannot lock"), locks.exclusive_lock(tmp_path / "none" / "lock"):
        pass


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_process_that_was_forked_under_a_lock_does_not_keep_it(tmp_path):
    reading, writing = os.pipe()
    with locks.exclusive_lock(tmp_path / "lock"):
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    with locks.exclusive_lock(tmp_path / "lock"):
        pass
    os.close(writing)
    os.close(reading)
    os.waitpid(pid, 0)


@pytest.mark.parametrize(("folder_mode", "lock_mode"), [(0o755, 0o600), (0o777, 0o660), (0o775, 0o660)])
def test_only_those_who_may_change_the_folder_can_open_its_lock(tmp_path, folder_mode, lock_mode):
    """Whoever can read a lock file can hold a shared lock on it, and so keep its owner out."""
    tmp_path.chmod(folder_mode)
    with locks.exclusive_lock(tmp_path / "lock"):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == lock_mode


@pytest.mark.parametrize("kind", ["dangling link", "link", "pipe", "folder"])
def test_anything_but_a_file_in_the_place_of_a_lock_is_refused_and_left_alone(tmp_path, kind):
    lock = tmp_path / "lock"
    {
        "dangling link": lambda: lock.symlink_to("elsewhere"),
        "link": lambda: ((tmp_path / "elsewhere").touch(), lock.symlink_to("elsewhere")),
        "pipe": lambda: os.mkfifo(lock),
        "folder": lock.mkdir,
    }[kind]()
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(HomeError, match="cannot lock"), locks.exclusive_lock(lock):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_only_regular_files_are_read_and_others_are_refused_without_waiting(tmp_path, kind):
    path = tmp_path / "key"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    with pytest.raises(OSError):
        inspection.read_regular(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can give files away")
def test_files_that_the_superuser_makes_in_a_users_folder_belong_to_the_user(tmp_path):
    """Files written with `of_user`, such as keys, belong to whoever runs the program, here the superuser."""
    os.chown(tmp_path, 1234, 2345)
    (tmp_path / "of root").touch()
    with locks.exclusive_lock(tmp_path / "lock"):
        storage.make_folder(tmp_path / "a" / "b")
        storage.write_file(tmp_path / "a" / "b" / "file", b"content")
        storage.write_file(tmp_path / "key", b"secret", mode=0o600, of_user=True)
        (tmp_path / "hardlink").hardlink_to(tmp_path / "key")
        storage.swap_link(tmp_path / "current", "a/b")
    with locks.exclusive_lock(tmp_path / "hardlink"):  # a file that is already there keeps its owner
        pass
    owners = {str(p.relative_to(tmp_path)): p.lstat().st_uid for p in tmp_path.rglob("*")}
    assert owners == {
        "of root": 0,
        "lock": 1234,
        "a": 1234,
        "a/b": 1234,
        "a/b/file": 1234,
        "key": 0,
        "hardlink": 0,
        "current": 1234,
    }


def test_no_umask_makes_anything_writable_by_everybody(tmp_path):
    before = os.umask(0)
    try:
        storage.make_folder(tmp_path / "a")
        storage.write_file(tmp_path / "a" / "file", b"content")
        with locks.exclusive_lock(tmp_path / "a" / "lock"):
            pass
    finally:
        os.umask(before)
    assert not any(
        path.stat().st_mode & stat.S_IWOTH for path in (tmp_path / "a", *(tmp_path / "a").iterdir())
    )


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links_a_file_is_still_never_overwritten(tmp_path, monkeypatch, number):
    def link(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_disk, "link", link)
    storage.write_file(tmp_path / "a.key", b"first", mode=0o600, replace=False)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600
    with pytest.raises(HomeError, match="File exists"):
        storage.write_file(tmp_path / "a.key", b"second", mode=0o600, replace=False)
    assert content_of(tmp_path) == {"a.key": b"first"}


def test_a_temporary_folder_that_cannot_be_made_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "none"
    monkeypatch.setattr(tempfile, "tempdir", str(missing))
    with (
        pytest.raises(ResourceError, match=rf"cannot use {missing}/.*; set TMPDIR"),
        storage.temporary_folder(),
    ):
        pass
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(missing)])
    with (
        pytest.raises(ResourceError, match=rf"No usable .*{missing}.*; set TMPDIR"),
        storage.temporary_folder(),
    ):
        pass


def test_a_full_disk_of_temporary_files_is_told_apart_from_others(tmp_path: Path) -> None:
    with pytest.raises(ResourceError) as here, storage.temporary_folder(inside=tmp_path) as folder:
        raise ResourceError(f"cannot write {folder / 'copy'}: the disk is full; free some space")
    assert here.value.message.endswith("free some space, or set TMPDIR to a folder on another disk")
    with pytest.raises(ResourceError) as elsewhere, storage.temporary_folder():
        raise ResourceError("cannot write /home/model.lwm: the disk is full; free some space")
    assert elsewhere.value.message.endswith("free some space")
