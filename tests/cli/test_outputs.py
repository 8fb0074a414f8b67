"""An output replaces a regular file, even behind a link, with the same mode and owner; all else is refused.

tests/README.md publishes the count.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from lwm_edge import (
    BaseConfig,
    IncrementConfig,
    build_base,
    export_onnx,
    generate_key,
    init_home,
    outputs,
    sign_bundle,
    simulate,
)
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.errors import ConfigError, LwmEdgeError
from lwm_edge.home.home import Home
from tests.support.folders import Keys, photo_folder, state_of
from tests.support.hostile import published


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "a named pipe (FIFO)": os.mkfifo,
    "a socket": lambda path: _make_socket(path),
    "a device": lambda path: os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3)),
}
SMALL = BaseConfig(architecture="small_resnet20", image_size=28, capacity=4, epochs=1, grid=0)


@pytest.fixture(scope="module")
def few_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("photos"), {"Bag": "Bag", "Ankle boot": "Ankle boot"})


@pytest.fixture
def writers(home: Home, keys: Keys, few_photos: Path) -> dict[str, Callable[[Path], object]]:
    """Collects functions that write a file where a user says."""
    return {
        "export": lambda path: export_onnx(home, path),
        "build-base": lambda path: build_base(few_photos, path, SMALL),
        "audit --plot": lambda path: simulate(home, 3, config=IncrementConfig(recipe="lda"), plot=path),
        "sign": lambda path: sign_bundle(path, keys.vendor_key),
        "keygen": lambda path: generate_key(path.with_suffix("")),
    }


def test_anything_but_a_file_is_refused_and_stays_as_it_is(
    writers: dict[str, Callable[[Path], object]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    tried = 0
    for kind, make in IN_THE_WAY.items():
        for number, (name, write) in enumerate(writers.items()):
            suffix = {"keygen": ".key", "audit --plot": ".png"}.get(name, ".out")
            place = Path(f"{number}{suffix}")
            try:
                make(place)
            except PermissionError:
                pytest.skip("only root makes devices")
            link = Path(f"link{number}{suffix}")
            link.symlink_to(place)
            for path in (place, link):
                before = place.lstat().st_mode, place.lstat().st_ino
                with pytest.raises(LwmEdgeError) as caught:
                    write(path)
                assert (place.lstat().st_mode, place.lstat().st_ino) == before
                assert link.is_symlink()
                assert name in ("keygen", "sign") or kind in caught.value.message
                tried += 1
            link.unlink()
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert published(f"| a folder, FIFO, socket or device where a file should go | {tried} | nothing |")


@pytest.mark.slow
def test_a_link_stays_a_link_and_its_target_is_written(
    writers: dict[str, Callable[[Path], object]], tmp_path: Path
) -> None:
    for name, write in writers.items():
        folder, elsewhere = tmp_path / name.replace(" ", ""), tmp_path / f"{name} elsewhere"
        folder.mkdir()
        elsewhere.mkdir()
        target, link = elsewhere / "target.png", folder / "link.png"
        shutil.copy(BASE_BUNDLE, target)
        link.symlink_to(Path("..") / elsewhere.name / "target.png")
        before = target.read_bytes()
        write(link)
        assert link.is_symlink()
        if name != "keygen":  # keygen gives its files other names
            assert target.read_bytes() != before and [p.name for p in elsewhere.iterdir()] == ["target.png"]
            assert [p.name for p in folder.iterdir()] == ["link.png"]


@pytest.mark.parametrize("mode", [0o664, 0o600, 0o640, 0o755])
def test_mode_and_owner_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    path.chmod(mode)
    before = path.stat()
    umask = os.umask(0o077)
    try:
        outputs.write_output(path, b"new")
    finally:
        os.umask(umask)
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_another_users_file_that_would_become_ours_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(0o664)
    before, status = state_of(tmp_path), os.fstat

    def another(descriptor: int) -> os.stat_result:
        fields = list(status(descriptor))
        fields[4] += 1
        return os.stat_result(fields)

    def refuse(descriptor: int, user: int, group: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fstat", another)
    monkeypatch.setattr(os, "fchown", refuse)
    with pytest.raises(ConfigError, match="it belongs to user"):
        outputs.write_output(path, b"new")
    assert state_of(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_write_protected_file_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")
    (tmp_path / "out").chmod(0o444)
    with pytest.raises(ConfigError, match="write-protected"):
        outputs.write_output(tmp_path / "out", b"new")


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ConfigError, match="leads in a circle"):
        outputs.write_output(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()


def test_a_file_that_is_open_already_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "open").open("wb") as file:
        for path in (Path(f"/dev/fd/{file.fileno()}"), Path(f"/proc/self/fd/{file.fileno()}")):
            with pytest.raises(ConfigError, match="open already"):
                outputs.write_output(path, b"new")
    if Path("/dev/stdout").is_symlink():
        with pytest.raises(ConfigError):
            outputs.check_output(Path("/dev/stdout"))


def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / ".taken.lwm-edge").mkdir()
    for name, why in (("taken", "is a folder"), ("n" * 250, "too long"), ("none/a", "folder that exists")):
        with pytest.raises(ConfigError, match=why):
            outputs.check_output(tmp_path / name)


def test_nothing_is_written_into_a_home(home: Home, tmp_path: Path) -> None:
    before = state_of(home.path)
    (tmp_path / "link").symlink_to(home.path)
    for folder in (home.path, home.current().path, tmp_path / "link"):
        for call in (
            lambda path: outputs.check_output(path),
            lambda path: outputs.write_output(path, b""),
            lambda path: generate_key(path),
            lambda path: init_home(BASE_BUNDLE, path),
        ):
            with pytest.raises(LwmEdgeError, match="is in the model home"):
                call(folder / "new")
    assert state_of(home.path) == before


def test_a_link_to_a_missing_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    outputs.write_output(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink() and (tmp_path / "b").read_bytes() == b"new"


def test_only_an_export_goes_to_standard_output(
    writers: dict[str, Callable[[Path], object]], capfdbinary: pytest.CaptureFixture[bytes], home: Home
) -> None:
    writers["export"]("-")  # type: ignore[arg-type]
    assert capfdbinary.readouterr().out == home.onnx.read_bytes()
    for name in ("build-base", "audit --plot", "sign", "keygen"):
        with pytest.raises(LwmEdgeError):
            writers[name](Path("-"))
    assert not Path("-").exists() and capfdbinary.readouterr().out == b""


def test_a_dash_that_is_given_as_a_path_is_a_file(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export_onnx(home, Path("-"))
    assert (tmp_path / "-").read_bytes() == home.onnx.read_bytes()
