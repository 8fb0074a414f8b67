"""Defines the commands that tell known photos from unknown objects: `predict` and `calibrate`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..model.terms import KEPT
from . import display
from .answer import open_chosen_home, show, with_progress
from .options import HomeOption, JsonOption, PhotosArgument, SignWithOption, WaitOption
from .settings import increment_config, read_file_config
from .terminal import counted, listed, note, percent, print_rows

if TYPE_CHECKING:
    from .. import CalibrationReport


def predict_command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos to classify.")],
    home: HomeOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many classes to print.")] = 3,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Say so if a photo seems to show none of the classes.")
    ] = False,
    keep: Annotated[
        float,
        typer.Option(
            help="Share of photos of known classes that --unknown leaves alone: 0.8, 0.9, 0.95, 0.98 or 0.99."
        ),
    ] = KEPT,
    as_json: JsonOption = False,
) -> None:
    """Say what the photos show, using the exported ONNX file."""
    from .. import predict

    opened = open_chosen_home(home)
    report = with_progress(
        lambda on: predict(opened, images, top_k=top_k, keep=keep, on_progress=on), on_terminal_only=True
    )
    show(report, as_json, partial(display.predictions, unknown=unknown))


def calibrate_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    sign_with: SignWithOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set the threshold of `predict --unknown` by photos of known classes, as this device takes them.

    Nothing is learnt. Give photos that the model has not learnt: it is surer of those than of new ones.
    """
    from .. import calibrate

    chosen, opened = increment_config(read_file_config(), sign_with=sign_with), open_chosen_home(home)
    report = with_progress(
        lambda on: calibrate(opened, photos, sign_with=chosen.sign_with, on_progress=on, wait=wait)
    )
    show(report, as_json, calibration, is_done=True)


def calibration(report: CalibrationReport) -> None:
    """Prints what `calibrate` found and changed."""
    classes = counted(len(report.calibrated_classes), "class", "classes")
    before = f"{percent(report.kept_before)} of these photos" if report.kept_before is not None else None
    left_out = display.left_out(report.skipped)
    rows = {
        "Photos": f"{report.photos} of {classes}: {listed(report.calibrated_classes)}{left_out}",
        "Kept before": before or "all: there was no threshold",
        "Kept now": display.threshold(report.calibration),
        "Load it from": str(report.change.onnx),
        "Model digest": report.change.model_digest,
    }
    print_rows("Calibrated the score for unknown objects", rows)
    for line in report.warnings:
        note(f"Note: {line}")
