"""Embeds lwm-edge in an app with a progress bar and a cancel button, and loads the new model afterwards.

    python examples/04_app_with_progress.py FOLDER_FOR_THE_HOME

A real app would have threads and windows; here, the script itself presses "cancel" once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import lwm_edge
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA

PHOTOS = DEMO_DATA / "train" / "2"


class CancelledError(Exception):
    """Signals that the user pressed "cancel"; lwm-edge passes this error on to the app unchanged."""


class Screen:
    """Stands for the app's screen: shows progress, and cancels as if the user had asked for it."""

    def __init__(self, cancel_in_phase: str | None = None) -> None:
        self.cancel_in_phase = cancel_in_phase
        self.phases: list[str] = []

    def show(self, progress: lwm_edge.Progress) -> None:
        """Shows progress; an exception raised here ends the increment, and the model stays as it was."""
        if progress.phase not in self.phases:
            self.phases.append(progress.phase)
        if progress.phase == self.cancel_in_phase:
            raise CancelledError


def main(folder: Path) -> None:
    """Cancels a first attempt to teach two classes, repeats it, and loads the new model."""
    lwm_edge.init_home(BASE_BUNDLE, folder)
    home = lwm_edge.open_home(folder)
    classifier = lwm_edge.Classifier(home.onnx)

    try:
        lwm_edge.add_classes(home, PHOTOS, on_progress=Screen(cancel_in_phase="features").show)
    except CancelledError:
        print("Cancelled; the model still knows", len(lwm_edge.info(home).class_names), "classes")

    screen = Screen()
    try:
        lwm_edge.add_classes(home, PHOTOS, on_progress=screen.show)
    except lwm_edge.LwmEdgeError as error:  # says what was wrong, where, and what to do
        sys.exit(str(error))
    print("Progress:", ", ".join(screen.phases))

    if classifier.model_digest != lwm_edge.info(home).model_digest:  # the old model is still in memory
        classifier = lwm_edge.Classifier(home.onnx)
    (prediction,) = classifier.classify(DEMO_DATA / "test" / "2" / "Bag" / "000.png", top_k=1)
    print("Loaded again; the photo shows a", prediction.class_names[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
