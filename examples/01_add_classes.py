#!/usr/bin/env python3
"""Adds classes on a device through the Python API, and shows progress as an app could.

    python examples/01_add_classes.py [FOLDER_FOR_THE_HOME]

It uses the small base and the photos that ship with lwm-edge; replace them with your own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import lwm_edge
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA


def show(progress: lwm_edge.Progress) -> None:
    """Prints progress at 0 and at the total; a real app would move its progress bar at every call."""
    if progress.done in (0, progress.total):
        loss = f", loss {progress.loss:.2f}" if progress.loss is not None else ""
        print(f"  {progress.phase} {progress.done}/{progress.total}{loss}")


def main(folder: Path) -> None:
    """Makes a home from the shipped base, adds two classes, and classifies a photo of a new one."""
    lwm_edge.init_home(BASE_BUNDLE, folder)  # refuses to overwrite an existing home
    home = lwm_edge.open_home(folder)
    print("Knows:", ", ".join(lwm_edge.info(home).class_names))

    try:
        receipt = lwm_edge.add_classes(
            home,
            DEMO_DATA / "train" / "2",  # one sub-folder per class: "Ankle boot" and "Bag"
            lwm_edge.IncrementConfig(held_back=0.2),
            on_progress=show,
        )
    except lwm_edge.LwmEdgeError as error:  # says what was wrong, where, and what to do
        sys.exit(f"Nothing was changed. {error}")
    print("Learnt:", ", ".join(receipt.new_classes))
    print(f"Accuracy on held-back new photos: {receipt.held_back.new_accuracy:.0%}")

    photo = DEMO_DATA / "test" / "2" / "Bag" / "000.png"
    classifier = lwm_edge.Classifier(home.onnx)  # an app would load it once; needs no torch
    (prediction,) = classifier.classify([photo], top_k=1)
    print(f"{photo.parent.name}/{photo.name} is a {prediction.class_names[0]}")
    print("The app loads", home.onnx)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(Path(scratch) / "home")
