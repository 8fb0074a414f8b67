"""Defines `calibrate`, which sets the threshold that tells known classes from unknown objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..records import printable
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

    The model learns nothing. Give photos that it has not learnt from; it is too sure of its training photos.
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
    if report.kept_before is None:
        before = "no threshold, so all photos were accepted"
    else:
        before = f"a threshold that accepts {percent(report.kept_before)} of these photos"
    left_out = display.left_out(report.skipped)
    rows = {
        "Photos": f"{report.photos} of {classes}: {listed(report.calibrated_classes)}{left_out}",
        "Before": before,
        "Now": display.threshold(report.calibration),
        "File to load": printable(report.change.onnx),
        **(change_details(report.change) if details else {}),
    }
    print_rows("Calibrated the score for unknown objects", rows)
    for line in report.warnings:
        note(f"Note: {line}")
