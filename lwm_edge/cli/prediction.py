"""Defines `predict`, which classifies photos from files, folders, standard input, a camera or a video."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..advice import home_option
from ..errors import SOME_PHOTOS_FAILED, ConfigError
from ..model.terms import KEPT, SECONDS_BETWEEN_FRAMES, TOP_K
from ..records import printable
from .answer import open_chosen_home, show, with_progress
from .options import HomeOption, JsonOption, path_from
from .terminal import note, out, percent, safe

if TYPE_CHECKING:
    from .. import Home, PredictionReport
    from ..model.classifier import Prediction

STDIN = "-"


def _photo(text: str) -> Path | str:
    """Tells `-` (standard input) from `./-` (a file); as paths, they would be equal."""
    return text if text == STDIN else path_from(text)


def predict_command(
    photos: Annotated[
        list[Any] | None,
        typer.Argument(
            metavar="PHOTO",
            parser=_photo,
            help="Photos, folders of them, or - for a photo on standard input.",
        ),
    ] = None,
    home: HomeOption = None,
    top: Annotated[
        int, typer.Option("--top", "--top-k", "-k", min=1, help="Number of classes to print for each photo.")
    ] = TOP_K,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Say so if a photo seems to show none of the classes.")
    ] = False,
    keep: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="With --unknown: share of photos of known classes to accept (0.8, 0.9, 0.95, 0.98 or 0.99); "
            f"by default, {KEPT:g}.",
        ),
    ] = None,
    camera: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Classify frames from a camera (a number, such as 0) or a video file."
        ),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help=f"With --camera: time between frames; by default, {SECONDS_BETWEEN_FRAMES:g}.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --camera: end after this many frames.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say which classes photos show, using the home's ONNX file.

    Most models judge each class by itself, so the percentages need not add up to 100.
    If some photos cannot be read, the others are still classified, and the exit code is 9.
    """
    if (camera is None) == (not photos):
        raise ConfigError("give either photos (files, folders or -) or a camera (--camera), not both")
    if camera is None and (every is not None or frames is not None):
        raise ConfigError("--every and --frames are for a camera; pass --camera too, or leave them out")
    if keep is not None and not (unknown or as_json):
        raise ConfigError("--keep is for --unknown; pass --unknown too, or leave --keep out")
    keep = KEPT if keep is None else keep
    opened = open_chosen_home(home)
    if camera is not None:
        every = SECONDS_BETWEEN_FRAMES if every is None else every
        _watch(opened, camera, every, frames, as_json, unknown=unknown, top_k=top, keep=keep)
        return
    from .. import predict

    given = _with_stdin(photos or [])
    report = with_progress(
        lambda on: predict(opened, given, top_k=top, keep=keep, on_progress=on), brief=True
    )
    named = (p if p.photo else p.model_copy(update={"photo": Path(STDIN)}) for p in report.predictions)
    report = report.model_copy(update={"predictions": tuple(named)})
    show(report, as_json, partial(predictions, home=opened.path, unknown=unknown))
    if any(prediction.error for prediction in report.predictions):
        raise typer.Exit(SOME_PHOTOS_FAILED)


def _with_stdin(photos: list[Any]) -> list[Any]:
    """Replaces `-` with standard input.

    Raises:
        ConfigError: Standard input was given twice, is closed, or is a terminal.
    """
    if photos.count(STDIN) > 1:
        raise ConfigError(f"{STDIN} means standard input, which can hold only one photo; give it once")
    if STDIN in photos and sys.stdin is None:
        raise ConfigError(
            f"{STDIN} means standard input, which is closed; send a photo to it, or give a file"
        )
    if STDIN in photos and sys.stdin.isatty():
        raise ConfigError(
            f"{STDIN} means standard input; send a photo to it, as in lwm-edge predict - < photo.jpg"
        )
    return [sys.stdin.buffer if photo == STDIN else photo for photo in photos]


def _watch(
    home: Home,
    camera: str,
    every: float,
    frames: int | None,
    as_json: bool,
    *,
    unknown: bool,
    top_k: int,
    keep: float,
) -> None:
    from .. import Classifier, PredictionReport, watch

    if as_json and frames is None and camera.isdecimal():
        raise ConfigError("--json prints one document at the end, but a camera never ends; pass --frames N")
    seen = islice(watch(home, camera, every_seconds=every, top_k=top_k, keep=keep), frames)
    if as_json:
        report = PredictionReport(
            onnx=home.onnx, model_digest=Classifier(home.onnx).model_digest, predictions=tuple(seen)
        )
        show(report, True, partial(predictions, home=home.path, unknown=unknown))
        return
    for number, prediction in enumerate(seen):
        if not number:
            _note_lack_of_threshold([prediction], home.path, unknown)
        _print(prediction, unknown)


def predictions(report: PredictionReport, home: Path, unknown: bool = False) -> None:
    """Prints one line per photo; with `unknown`, the line says if the photo seems to show no known class."""
    _note_lack_of_threshold(report.predictions, home, unknown)
    for prediction in report.predictions:
        _print(prediction, unknown)


def _note_lack_of_threshold(seen: Sequence[Prediction], home: Path, unknown: bool) -> None:
    if unknown and any(p.unknown is None and not p.error for p in seen):
        note(
            "Note: this model has no threshold for unknown objects; set one with photos of classes "
            "that it knows, but not photos that it has learnt from: "
            f"lwm-edge calibrate PHOTOS {home_option(home)}"
        )


def _print(prediction: Prediction, unknown: bool) -> None:
    name = printable(prediction.photo) if prediction.photo else STDIN
    if prediction.error:
        note(f"{name}: {prediction.error}")
        return
    pairs = zip(prediction.class_names, prediction.probabilities, strict=True)
    classes = ", ".join(f"{name} {percent(p)}" for name, p in pairs)
    text = f"unknown (at best {classes})" if unknown and prediction.unknown else classes
    out().print(safe(f"{name}: {text}"))
