"""`predict` takes photos, folders, standard input and videos; a partly failed call has its own exit code."""

from __future__ import annotations

import errno
import io
import json
import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lwm_edge import Home, predict, rename_class, watch
from lwm_edge.cli import commands
from lwm_edge.errors import SOME_PHOTOS_FAILED, ConfigError, PhotosError
from tests.support.folders import DEMO_DATA

COATS = DEMO_DATA / "test" / "base" / "Coat"
PHOTO = COATS / "000.png"


class _Stdin(io.TextIOWrapper):
    pass


class _Buffer(io.BytesIO):
    name = "<stdin>"  # as Python names it


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Home) -> Any:
    def call(*arguments: object, stdin: bytes | None = b"") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", None if stdin is None else _Stdin(_Buffer(stdin)))
        words = ["lwm-edge", *map(str, arguments), "--home", str(home.path)]
        monkeypatch.setattr(sys, "argv", words)
        code: Any = 0
        try:
            commands.main()
        except SystemExit as end:
            code = end.code or 0
        return (code, *capfd.readouterr())

    return call


def test_photos_folders_and_standard_input_are_classified(run: Any, tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "inner"
    folder.mkdir(parents=True)
    for name in ("a.png", "b.png", ".hidden.png"):
        shutil.copy(PHOTO, folder / name)
    code, out, _ = run("predict", folder.parent, "-", PHOTO, "--top", 1, stdin=PHOTO.read_bytes())
    lines = out.splitlines()
    assert code == 0 and [line.partition(": ")[0] for line in lines] == [
        *(str(folder / name) for name in ("a.png", "b.png")),
        "-",
        str(PHOTO),
    ]
    assert len({line.partition(": ")[2] for line in lines}) == 1 and "," not in lines[0]
    code, out, _ = run("predict", "-", "--json", stdin=PHOTO.read_bytes())
    assert code == 0 and json.loads(out)["predictions"][0]["photo"] == "-"


def test_a_partly_failed_call_has_its_own_exit_code(run: Any, tmp_path: Path) -> None:
    code, out, err = run("predict", PHOTO, tmp_path / "none.png")
    assert code == SOME_PHOTOS_FAILED == 9 and "Coat" in out and "none.png: cannot be read" in err
    code, out, _ = run("predict", PHOTO, tmp_path / "none.png", "--json")
    assert code == 9 and len(json.loads(out)["predictions"]) == 2
    assert run("predict", tmp_path / "none.png")[0] == 3
    (tmp_path / "empty").mkdir()
    assert run("predict", tmp_path / "empty")[0] == 3


def test_a_sub_folder_that_is_left_out_is_named(run: Any, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(PHOTO, tmp_path / "photos" / "a.png")
    (tmp_path / "photos" / "linked").symlink_to(COATS)
    code, out, _ = run("predict", tmp_path / "photos", "--json")
    first, second = json.loads(out)["predictions"]
    assert code == SOME_PHOTOS_FAILED and first["error"] is None
    assert second["photo"] == str(tmp_path / "photos") and second["error"].startswith("linked is a link")
    (tmp_path / "photos" / "a.png").unlink()
    code, _, err = run("predict", tmp_path / "photos")
    assert code == PhotosError.exit_code and "photos: linked is a" in err


def test_a_folder_that_is_empty_or_cannot_be_read_does_not_keep_others_from_being_read(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_for_locked(path: Path) -> Iterator[Path]:
        if path.name == "locked":
            raise OSError(errno.EIO, "Input/output error")
        return iterdir(path)

    iterdir = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", fail_for_locked)
    for name in ("empty", "locked"):
        (tmp_path / name).mkdir()
    code, out, err = run("predict", tmp_path / "locked", tmp_path / "empty", PHOTO)
    assert code == SOME_PHOTOS_FAILED and out.startswith(f"{PHOTO}: ")
    assert f"{tmp_path / 'locked'}: the folder cannot be read (Input/output error)\n" in err
    assert f"{tmp_path / 'empty'}: has no photos in it" in err
    assert run("predict", tmp_path / "locked", tmp_path / "empty")[0] == PhotosError.exit_code


def test_a_path_that_the_system_refuses_does_not_keep_others_from_being_read(run: Any) -> None:
    code, out, _ = run("predict", PHOTO, "x" * 300, "--json")
    assert code == SOME_PHOTOS_FAILED
    assert [bool(p["error"]) for p in json.loads(out)["predictions"]] == [False, True]


@pytest.mark.parametrize(
    ("stdin", "words"),
    [(None, "standard input, which is closed"), (b"", "standard input is empty")],
)
def test_standard_input_without_a_photo_is_named(run: Any, stdin: bytes | None, words: str) -> None:
    code, _, err = run("predict", "-", stdin=stdin)
    assert code in (2, 3) and words in err


def test_the_name_of_a_photo_cannot_forge_a_line(run: Any, tmp_path: Path) -> None:
    forged = tmp_path / "a: Bag 99.9%\nb.png"
    shutil.copy(PHOTO, forged)
    out = run("predict", forged)[1]
    assert len(out.splitlines()) == 1 and "99.9%\\nb.png: " in out
    assert "99.9%\\nc.png" in run("predict", f"{forged.parent}/99.9%\nc.png")[2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either photos (files, folders or -) or a camera"),
        (["x.png", "--camera", "0"], "not both"),
        (["-", "-"], "give it once"),
        (["--camera", "0", "--json"], "pass --frames N"),
    ],
)
def test_missing_or_contradictory_arguments_are_refused(run: Any, arguments: list[str], words: str) -> None:
    code, out, err = run("predict", *arguments)
    assert code == 2 and words in " ".join((out if "--json" in arguments else err).split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["predict", PHOTO, "--every", 3], "--every and --frames are for a camera"),
        (["predict", PHOTO, "--keep", 0.9], "pass --unknown too"),
        (["add-classes", COATS.parent, "--dry-run", "--report", "x.html"], "--dry-run makes none"),
        (["add-classes", COATS.parent, "--dry-run", "--details"], "--dry-run makes none"),
        (["add-photos", COATS.parent, "--dry-run", "--details"], "--dry-run makes none"),
        (["rename-class", "Coat", "Jacke", "--shipped"], "--shipped is for --merge"),
        (["export", "x.onnx", "--force"], "--force is for a file that is checked on photos"),
        (["report", "h"], "HOME and --home were both given"),
        (["audit", "--classes", 5], "apply only to a simulation"),
        (["audit", "--recipe", "lda"], "apply only to a simulation"),
        (["info", "b.lwm"], "a bundle and --home were both given"),
        (["verify", "b.lwm"], "a bundle and --home were both given"),
        (["export", "x.onnx", "--bundle", "b.lwm"], "a bundle and --home were both given"),
    ],
)
def test_options_without_effect_are_refused(run: Any, arguments: list[object], words: str) -> None:
    code, _, err = run(*arguments)
    assert code == ConfigError.exit_code and words in " ".join(err.split())


def test_a_missing_photo_and_an_empty_folder_are_refused(home: Home, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="none of the photos") as refused:
        predict(home, "a.png")
    assert len(refused.value.problems) == 1  # the text is one path, not a list of letters
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotosError, match="has no photos in it"):
        predict(home, tmp_path / "empty")


@pytest.fixture
def video(tmp_path: Path) -> Path:
    cv2 = pytest.importorskip("cv2", reason="the extra `camera` is not installed")
    path = tmp_path / "coats.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (280, 280))
    for photo in sorted(COATS.iterdir())[:4]:
        frame = cv2.resize(cv2.imread(str(photo)), (280, 280))
        for _ in range(10):
            writer.write(frame)
    writer.release()
    return path


def test_a_video_is_classified_second_by_second(run: Any, video: Path) -> None:
    code, out, _ = run("predict", "--camera", video, "--top", 1)
    assert code == 0 and [line.partition(": ")[0] for line in out.splitlines()] == [
        f"{video}@{second}.0s" for second in range(4)
    ]
    code, out, _ = run("predict", "--camera", video, "--every", 0.1, "--frames", 7, "--json")
    assert code == 0 and len(json.loads(out)["predictions"]) == 7


def test_watching_goes_on_with_a_newer_model(home: Home, video: Path) -> None:
    seen = watch(home, video, top_k=6)
    assert "Coat" in next(seen).class_names
    rename_class(home, "Coat", "Mantel")
    assert "Mantel" in next(seen).class_names


def test_a_camera_that_is_not_there_is_refused(home: Home, video: Path, tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="neither the number of a camera nor a video"):
        next(watch(home, tmp_path / "none.avi"))
    (tmp_path / "text.avi").write_text("no video")
    with pytest.raises(PhotosError, match="cannot be opened"):
        next(watch(home, tmp_path / "text.avi"))


class _Capture:
    """Stands in for a camera, or a video, that gives some pictures and then none."""

    def __init__(self, pictures: int, grabbed: int = 0) -> None:
        self.left, self.grabbed = pictures, max(pictures, grabbed)

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def grab(self) -> bool:
        self.left -= 1
        self.grabbed -= 1
        return self.grabbed >= 0

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        return self.left >= 0, np.zeros((32, 32, 3), np.uint8)

    def get(self, number: int) -> float:
        return 25.0

    def release(self) -> None:
        pass


@pytest.mark.parametrize(
    ("source", "pictures", "words"),
    [
        (0, 2, "camera 0 gives no pictures any more"),
        ("0", 0, "camera 0 gives no pictures any more"),
        ("film.avi", 0, "film.avi has no frame that OpenCV can read"),
    ],
)
def test_a_camera_that_is_unplugged_and_a_video_without_frames_are_named(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, pictures: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "film.avi").write_bytes(b"any")
    opencv = SimpleNamespace(VideoCapture=lambda number: _Capture(pictures), CAP_PROP_FPS=5)
    monkeypatch.setitem(sys.modules, "cv2", opencv)  # OpenCV need not be installed
    seen = []
    with pytest.raises(PhotosError, match=words):
        seen += list(watch(home, source, every_seconds=0))
    seen = list(islice(watch(home, "0", every_seconds=0), pictures))
    assert len(seen) == pictures


def test_a_camera_whose_pictures_cannot_be_retrieved_ends(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = _Capture(2, grabbed=100)
    opencv = SimpleNamespace(VideoCapture=lambda number: capture)
    monkeypatch.setitem(sys.modules, "cv2", opencv)  # OpenCV need not be installed
    with pytest.raises(PhotosError, match="camera 0 gives no pictures any more"):
        list(watch(home, 0, every_seconds=0))
    assert capture.grabbed == 48  # it ends after 50 failures in a row


@pytest.mark.parametrize(
    ("number", "seconds"), [("9" * 10, 1.0), ("9" * 5000, 1.0), (0, -1.0), (0, float("nan"))]
)
def test_a_number_that_no_camera_has_and_a_time_that_is_none_are_refused(
    home: Home, monkeypatch: pytest.MonkeyPatch, number: Any, seconds: float
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace())
    with pytest.raises((PhotosError, ConfigError), match=r"no camera has so large a number|give a number of"):
        next(watch(home, number, every_seconds=seconds))


def test_a_wrong_command_line_gives_json_too(run: Any) -> None:
    for arguments in (["--top", 0], ["--nope"]):
        code, out, err = run("predict", PHOTO, *arguments, "--json")
        assert code == ConfigError.exit_code and json.loads(out)["error"]["kind"] == "ConfigError"
        assert "Usage:" in err


def test_without_opencv_the_error_says_what_to_install(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match="pip install opencv-python-headless"):
        next(watch(home, 0))


def test_frames_are_turned_from_bgr_to_rgb(home: Home, video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    from lwm_edge.home import camera

    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 2] = 255  # in OpenCV's order, BGR
    monkeypatch.setattr(cv2.VideoCapture, "retrieve", lambda self: (True, red), raising=False)
    _, frame = next(camera._frames(video, 1.0))
    assert frame[0, 0].tolist() == [255, 0, 0]
