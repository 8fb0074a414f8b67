"""Classifies what a camera sees, or the frames of a video, with a home's current model: `watch`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PhotosError
from ..model.classifier import Classifier, Prediction
from ..model.terms import KEPT
from ..photos.pixels import Pixels
from ..records import AnyPath
from .home import Home, open_home

_FAILED_GRABS = 50  # one after the other; a camera that gives nothing for so long is gone


def watch(
    home: Home | AnyPath,
    source: int | AnyPath,
    *,
    every_seconds: float = 1.0,
    top_k: int = 3,
    keep: float = KEPT,
) -> Iterator[Prediction]:
    """Classifies frames of a camera or of a video file, one after the other; nothing is kept.

    Where the home gets a newer model meanwhile, that one classifies from then on.

    Args:
        home: Model home, or the path of its folder.
        source: Number of the camera, also as text, or path of a video file.
        every_seconds: Time between two frames that are classified; of a video, by its own clock.
        top_k: Number of classes for each frame, best first.
        keep: Share of known photos that are not to be called unknown, one of `model.terms.SHARES`.

    Yields:
        The prediction for each frame; `photo` is the source and the time, such as `door.mp4@2.0s`.

    Raises:
        ConfigError: OpenCV is not installed; the message says how to install it.
        PhotosError: There is no such camera or file, or OpenCV cannot read it.
    """
    classifier = Classifier(open_home(home).onnx)
    for seconds, frame in _frames(source, every_seconds):
        if classifier.stale:
            classifier.reload()
        (prediction,) = classifier.classify(frame, top_k, keep=keep)
        yield prediction.model_copy(update={"photo": Path(f"{source}@{seconds:.1f}s")})


def _frames(source: int | AnyPath, every_seconds: float) -> Iterator[tuple[float, Pixels]]:
    """Yields frames in RGB, each with its time in seconds since the start."""
    cv2 = _opencv()
    number = int(str(source)) if str(source).isdecimal() else None
    if number is None and not Path(source).is_file():  # type: ignore[arg-type]
        raise PhotosError(f"{source} is neither the number of a camera nor a video file that exists")
    capture = cv2.VideoCapture(number if number is not None else str(source))
    try:
        if not capture.isOpened():
            what = f"camera {number}" if number is not None else str(source)
            raise PhotosError(f"{what} cannot be opened; check that it is there, and that you may use it")
        times = _camera_times(capture) if number is not None else _video_times(cv2, capture)
        due = 0.0
        for seconds in times:
            if seconds < due:
                continue
            is_there, frame = capture.retrieve()
            if is_there:
                due = seconds + every_seconds
                yield seconds, frame[..., ::-1]
    finally:
        capture.release()


def _camera_times(capture: Any) -> Iterator[float]:
    """Yields the time of each frame that the camera has; all are taken, so that none waits and grows old."""
    started, failed = time.monotonic(), 0
    while failed < _FAILED_GRABS:
        failed = 0 if capture.grab() else failed + 1
        if not failed:
            yield time.monotonic() - started


def _video_times(cv2: Any, capture: Any) -> Iterator[float]:
    """Yields the time of each frame of a video, by its number of frames in a second."""
    rate = capture.get(cv2.CAP_PROP_FPS)
    rate = rate if math.isfinite(rate) and rate > 0 else 25.0
    number = 0
    while capture.grab():
        yield number / rate
        number += 1


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise ConfigError(
            "cameras and videos take OpenCV; install it with: pip install 'lwm-edge[camera]'"
        ) from None
    return cv2
