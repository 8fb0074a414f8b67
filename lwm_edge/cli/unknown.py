"""Defines `calibrate`, which sets the threshold that tells known photos from unknown objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..wording import counted
from . import display
from .answer import open_chosen_home, show, with_progress
from .options import DetailsOption, HomeOption, JsonOption, PhotosArgument, SignWithOption, WaitOption
from .receipt import change_details
from .settings import increment_config, read_file_config
from .terminal import listed, note, percent, print_rows

if TYPE_CHECKING:
    from .. import CalibrationReport


def calibrate_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    sign_with: SignWithOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Set the threshold of `predict --unknown`, from this device's own photos of known classes.

    The model learns nothing. Give photos that it has not learnt from; it is too sure of those that it has.
    """
    from .. import calibrate

    chosen, opened = increment_config(read_file_config(), sign_with=sign_with), open_chosen_home(home)
    report = with_progress(
        lambda on: calibrate(opened, photos, sign_with=chosen.sign_with, on_progress=on, wait=wait)
    )
    show(report, as_json, partial(calibration, details=details), is_done=True)


def calibration(report: CalibrationReport, details: bool = False) -> None:
    """Prints the report of `calibrate`."""
    classes = counted(len(report.calibrated_classes), "class", "classes")
    before = f"{percent(report.kept_before)} of these photos" if report.kept_before is not None else None
    left_out = display.left_out(report.skipped)
    rows = {
        "Photos": f"{report.photos} of {classes}: {listed(report.calibrated_classes)}{left_out}",
        "Kept before": before or "all, as there was no threshold",
        "Kept now": display.threshold(report.calibration),
        "Load it from": str(report.change.onnx),
        **(change_details(report.change) if details else {}),
    }
    print_rows("Calibrated the score for unknown objects", rows)
    for line in report.warnings:
        note(f"Note: {line}")
