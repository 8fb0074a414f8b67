"""Progress is reported for each photo, a stop does not wait for a slow one, and the home stays as it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from PIL import Image

from lwm_edge import (
    ExportConfig,
    IncrementReport,
    add_classes,
    evaluate,
    export_onnx,
    plan_increment,
    predict,
)
from lwm_edge.errors import ResourceError, StoppedError
from lwm_edge.home.home import Home
from lwm_edge.increment import process
from lwm_edge.increment.worker import Message, stoppable_progress
from lwm_edge.learning.config import IncrementConfig
from lwm_edge.records import Progress
from tests.support import odd_photos as odd
from tests.support.folders import DEMO_DATA, PhotoMaker, state_of
from tests.support.samples import QUICK


class EnoughError(Exception):
    """Signals that a callback wants the call to end."""


def _add(home: Home, photos: Path, config: IncrementConfig, seen: list[Progress]) -> IncrementReport:
    return add_classes(home, photos, config, on_progress=seen.append, isolate=False)


@pytest.mark.parametrize(
    ("recipe", "passes"),
    [
        ("lda", {"plan": 3, "features": 16, "evaluate": 8}),
        ("lwm", {"plan": 4, "features": 2 * 12 + 2 * 4, "evaluate": 3, "train": 1}),
    ],
)
def test_every_photo_is_reported_before_it_is_read_and_before_a_network_sees_it(
    home: Home, make_photos: PhotoMaker, recipe: str, passes: dict[str, int]
) -> None:
    seen: list[Progress] = []
    _add(home, make_photos("Bag", "Shirt"), QUICK.model_copy(update={"recipe": recipe}), seen)
    assert all(p.total > 1 or p.expected_seconds is not None or p.loss is not None for p in seen)
    expected = {"photos": 16, **passes, "stage": 1, "commit": 1}
    assert Counter(p.phase for p in seen) == expected
    photos = [p for p in seen if p.phase == "photos"]
    assert [(p.done, p.total) for p in photos] == [(done, 16) for done in range(16)]
    features = [(p.done, p.total) for p in seen if p.phase == "features"]
    assert features[:12] == [(done, 12) for done in range(12)]
    assert features[-4:] == [(done, 4) for done in range(4)]


@pytest.mark.parametrize("phase", ["photos", "features", "evaluate", "stage", "commit"])
def test_a_callback_that_raises_ends_the_increment_and_leaves_the_home_as_it_was(
    home: Home, make_photos: PhotoMaker, phase: str
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == phase:
            raise EnoughError

    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    with pytest.raises(EnoughError):
        add_classes(home, photos, QUICK, on_progress=stop, isolate=False)
    assert state_of(home.path) == before


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lda", "lwm"])  # one worker commits what it learnt, or a second one does
def test_a_callback_that_raises_just_before_the_commit_leaves_the_home_as_it_was(
    home: Home, make_photos: PhotoMaker, recipe: str
) -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "commit":
            time.sleep(1)  # in which the worker could commit
            raise EnoughError

    photos, before = make_photos("Bag", "Shirt"), state_of(home.path)
    with pytest.raises(EnoughError):
        add_classes(home, photos, QUICK.model_copy(update={"recipe": recipe}), on_progress=stop)
    assert home.current().path.name == "00000000" and home.open_bundle().manifest.increment_count == 0
    with home.lock():  # clears what the worker staged
        pass
    assert state_of(home.path) == before


@pytest.mark.slow
def test_a_worker_that_is_killed_just_before_the_commit_is_said_to_be_killed(
    home: Home, make_photos: PhotoMaker
) -> None:
    def kill(progress: Progress) -> None:
        if progress.phase == "commit":
            for child in psutil.Process().children():
                child.kill()
            time.sleep(0.3)  # until the pipe to it is broken

    with pytest.raises(ResourceError, match="the worker process was killed, most likely because memory ran"):
        add_classes(home, make_photos("Bag"), QUICK.model_copy(update={"recipe": "lda"}), on_progress=kill)


@pytest.fixture(scope="module")
def large_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes sixty photos that together take seconds to read."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "Large").mkdir()
    for number in range(60):
        picture = Image.new("RGB", (2500, 2000), (number, 0, 0))
        picture.save(folder / "Large" / f"{number}.png", compress_level=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, EnoughError])
def test_a_worker_that_reads_photos_stops_between_two_of_them(
    home: Home, large_photos: Path, interrupt: type[BaseException]
) -> None:
    before, seen = state_of(home.path), list[Progress]()
    asked: list[float] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.phase == "photos" and progress.done == 2:
            asked.append(time.monotonic())
            raise interrupt

    expected, message = interrupt, "^$"
    if interrupt is KeyboardInterrupt:  # the worker says where it stopped
        expected, message = StoppedError, "^stopped while reading the photos; the model is unchanged: run"
    with pytest.raises(expected, match=message):
        add_classes(home, large_photos, QUICK, on_progress=stop)
    assert [p.done for p in seen] == [0, 1, 2] and {p.total for p in seen} == {60}
    assert time.monotonic() - asked[0] < 30  # it does not hang
    assert state_of(home.path) == before
    with home.lock():  # nobody else holds the lock any more
        pass


@pytest.fixture(scope="module")
def slow_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Makes a photo that takes 16 seconds of processor time, after which it is skipped."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "Slow").mkdir()
    (folder / "Slow" / "photo.jpg").write_bytes(odd.sequential_jpeg(4_000, 12_800))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, EnoughError])
@pytest.mark.parametrize("isolate", [True, False])
def test_a_photo_that_takes_long_is_reported_again_and_does_not_delay_a_stop(
    home: Home, slow_photo: Path, interrupt: type[BaseException], isolate: bool
) -> None:
    before, seen = state_of(home.path), list[Progress]()
    seconds_before = sum(os.times()[:4])

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if len(seen) == 3:
            raise interrupt

    with pytest.raises(StoppedError if isolate and interrupt is KeyboardInterrupt else interrupt):
        add_classes(home, slow_photo, QUICK, on_progress=stop, isolate=isolate)
    assert seen == [Progress(phase="photos", done=0, total=1)] * 3
    assert sum(os.times()[:4]) - seconds_before < 12, "the photo was read to its end"
    assert state_of(home.path) == before
    with home.lock():
        pass


def test_the_message_says_what_was_going_on_when_the_stop_came() -> None:
    stopping: list[bool] = []
    report = stoppable_progress(lambda message: None, lambda: bool(stopping))
    steps = [Progress(phase=phase, done=0, total=1) for phase in ("photos", "plan", "features", "train")]
    for step in steps:
        report(step)
    stopping.append(True)
    report(steps[-1])  # training itself checks whether to stop
    for phase, words in {
        "features": "stopped while running the network on the photos, after the training; the model is",
        "evaluate": "stopped while evaluating, after the training",
        "stage": "stopped while writing the bundle, after the training",
        "commit": "stopped while exporting, after the training",
    }.items():
        with pytest.raises(StoppedError, match=words):
            report(Progress(phase=phase, done=0, total=1))
    report = stoppable_progress(lambda message: None, lambda: True)
    for phase, words in {
        "photos": "^stopped while reading the photos; the model",
        "plan": "^stopped while planning; the model",
        "features": "^stopped while running the network on the photos; the model",
    }.items():
        with pytest.raises(StoppedError, match=words):
            report(Progress(phase=phase, done=0, total=1))


def test_a_worker_that_nobody_listens_to_stops_as_well() -> None:
    def gone(message: Message) -> None:
        raise BrokenPipeError

    report = stoppable_progress(gone, lambda: True)
    with pytest.raises(StoppedError):
        report(Progress(phase="photos", done=0, total=1))


def test_the_error_says_why_a_worker_cannot_be_started(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_more_files(*given: object, **named: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process, "start_process", no_more_files)
    with pytest.raises(ResourceError, match=r"^cannot start a process that learns: .* \(ulimit -n\)$"):
        add_classes(home, tmp_path, QUICK)


@pytest.mark.slow
def test_planning_reads_photos_in_a_worker_that_can_be_stopped_too(home: Home, large_photos: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(StoppedError, match="while reading the photos"):
        plan_increment(home, large_photos, QUICK, on_progress=stop)


def test_evaluating_reports_each_photo_twice_and_can_be_ended(home: Home) -> None:
    folder, seen = DEMO_DATA / "test" / "base", list[Progress]()
    count = evaluate(home, folder, on_progress=seen.append).photos
    assert [(p.phase, p.done, p.total) for p in seen] == [
        (phase, done, count) for phase in ("photos", "evaluate") for done in range(count)
    ]

    def stop(progress: Progress) -> None:
        if progress == seen[count + 3]:
            raise EnoughError

    with pytest.raises(EnoughError):
        evaluate(home, folder, on_progress=stop)


@pytest.mark.slow
def test_exporting_in_eight_bits_reports_each_photo_of_each_pass_and_can_be_ended(
    home: Home, tmp_path: Path
) -> None:
    """ONNX Runtime's tool calls back for each photo; an error there is not mistaken for the tool's."""
    photos = DEMO_DATA / "test" / "base"
    count = len(list(photos.glob("*/*")))
    config = ExportConfig(precision="int8", photos=photos, force=True)
    seen: list[Progress] = []
    export_onnx(home, tmp_path / "all.onnx", config, on_progress=seen.append)
    passes = Counter((p.phase, p.total) for p in seen)
    calibration, others = -(-count // 2), count // 2
    assert passes[("photos", count)] == count and passes[("photos", calibration)] == calibration
    assert passes[("features", calibration)] in (
        calibration,
        2 * calibration,
        3 * calibration,
        4 * calibration,
    )
    assert passes[("evaluate", calibration)] >= 2 * calibration and passes[("evaluate", others)] >= 2 * others
    for phase in ("photos", "features", "evaluate"):

        def stop(progress: Progress, phase: str = phase) -> None:
            if progress.phase == phase and progress.done == 3:
                raise EnoughError

        with pytest.raises(EnoughError):
            export_onnx(home, tmp_path / "ended.onnx", config, on_progress=stop)
        assert not (tmp_path / "ended.onnx").exists()


def test_predict_shows_its_progress_only_on_a_terminal(home: Home) -> None:
    photo = DEMO_DATA / "test" / "base" / "Coat" / "000.png"
    command = [sys.executable, "-m", "lwm_edge", "predict", str(photo), "--home", str(home.path)]
    plain = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    for terminal, shown in (({"FORCE_COLOR": "1"}, True), ({}, False)):
        environment = {**plain, **terminal, "TERM": "xterm"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert ("Looking at photos" in done.stderr) == shown and "Coat" in done.stdout


def test_predicting_reports_each_photo(home: Home) -> None:
    photos = sorted((DEMO_DATA / "test" / "base").glob("*/*"))[:20]
    seen: list[Progress] = []
    found = predict(home, [*photos, "missing.png"], on_progress=seen.append).predictions
    assert [(p.phase, p.done, p.total) for p in seen] == [("features", done, 21) for done in range(21)]
    assert found[-1].error
