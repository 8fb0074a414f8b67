"""Provides `watch`, which classifies frames from a camera or a video with a home's current model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PhotosError
from ..extras import load_library
from ..model.classifier import Classifier, Prediction
from ..model.terms import KEPT, SECONDS_BETWEEN_FRAMES, TOP_K
from ..photos.pixels import Pixels
from ..records import AnyPath
from .home import Home, open_home

_MOST_FAILURES = 50  # after this many in a row, of either step of reading, a camera counts as disconnected
_MOST_DIGITS = 9  # of the number of a camera, so that it fits into an int of C


def watch(
    home: Home | AnyPath,
    source: int | AnyPath,
    *,
    every_seconds: float = SECONDS_BETWEEN_FRAMES,
    top_k: int = TOP_K,
    keep: float = KEPT,
) -> Iterator[Prediction]:
    """Classifies frames from a camera or a video file one at a time, and keeps none of them.

    If the home's model changes in the meantime, the new model classifies all later frames.

    Args:
        home: Model home, or the path of its folder.
        source: Number of a camera, as an integer or as text, or the path of a video file.
        every_seconds: Minimum number of seconds between classified frames; for a video, seconds
            of playing time.
        top_k: Number of classes to return for each frame, best first.
        keep: Share of photos of known classes that must not be called unknown; one of `model.terms.SHARES`.

    Yields:
        The prediction for each classified frame; its `photo` names the source and the time, as in
            `door.mp4@2.0s`.

    Raises:
        HomeError: There is no home.
        ExportError: The home's ONNX file is missing, or lwm-edge did not export it.
        ConfigError: OpenCV is not installed or cannot be loaded (the message says what to do), `keep` is not
            one of `model.terms.SHARES`, `top_k` is less than 1, or `every_seconds` is negative or not finite.
        PhotosError: There is no such camera or file, OpenCV cannot read it, a video has no frame that can be
            read, or a camera stops giving pictures.
        ResourceError: Memory ran out.
    """
    if not (math.isfinite(every_seconds) and every_seconds >= 0):
        raise ConfigError(f"every_seconds is {every_seconds}; give a number of seconds that is 0 or more")
    classifier = Classifier(open_home(home).onnx)
    for seconds, frame in _frames(source, every_seconds):
        if classifier.stale:
            classifier.reload()
        (prediction,) = classifier.classify(frame, top_k, keep=keep)
        yield prediction.model_copy(update={"photo": Path(f"{source}@{seconds:.1f}s")})


def _frames(source: int | AnyPath, every_seconds: float) -> Iterator[tuple[float, Pixels]]:
    """Yields the frames to classify, in RGB, each with its time in seconds since the start."""
    cv2 = _opencv()
    if str(source).isdecimal() and len(str(source)) > _MOST_DIGITS:
        raise PhotosError("no camera has so large a number; give a smaller one, or the path of a video file")
    number = int(str(source)) if str(source).isdecimal() else None
    if number is None and not Path(source).is_file():  # type: ignore[arg-type]
        raise PhotosError(f"{source} is neither the number of a camera nor a video file that exists")
    capture = cv2.VideoCapture(number if number is not None else str(source))
    try:
        if not capture.isOpened():
            what = f"camera {number}" if number is not None else str(source)
            raise PhotosError(f"{what} cannot be opened; check that it is there and that you may use it")
        times = _camera_times(capture) if number is not None else _video_times(cv2, capture)
        due, given, failed = 0.0, 0, 0
        for seconds in times:
            if seconds < due:
                continue
            succeeded, frame = capture.retrieve()
            if succeeded:
                due, given, failed = seconds + every_seconds, given + 1, 0
                yield seconds, frame[..., ::-1]
                continue
            failed += 1
            if number is not None and failed == _MOST_FAILURES:
                break
        if number is not None:
            raise PhotosError(
                f"camera {number} gives no pictures any more; check its cable, and that no other program "
                "uses it"
            )
        if not given:
            raise PhotosError(
                f"{source} has no frame that OpenCV can read; it is damaged, or in a format that this OpenCV "
                "cannot read"
            )
    finally:
        capture.release()


def _camera_times(capture: Any) -> Iterator[float]:
    """Yields the time in seconds of each frame; grabs every frame, so that no old ones are left to read."""
    started, failed = time.monotonic(), 0
    while failed < _MOST_FAILURES:
        failed = 0 if capture.grab() else failed + 1
        if not failed:
            yield time.monotonic() - started


def _video_times(cv2: Any, capture: Any) -> Iterator[float]:
    """Yields the time in seconds of each frame of a video, computed from the video's frame rate."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if math.isfinite(rate) and rate > 0 else 25.0
    number = 0
    while capture.grab():
        yield number / rate
        number += 1


def _opencv() -> Any:
    return load_library("cv2", "cameras and videos need", "opencv-python-headless")
