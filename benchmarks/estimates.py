#!/usr/bin/env python3
"""Compares what receipts estimate for the shipped classes with what is measured on photos of them.

    python benchmarks/estimates.py BASE.lwm SHIPPED_TEST NEW_PHOTOS [NEW_PHOTOS ...]

The base's accuracy on SHIPPED_TEST, class folders of photos that its network never saw, is written into
a copy of it, as `build-base` does with the photos that it holds back. Then a device learns the classes
of each folder of new photos, one after the other. Each line has the estimate, its interval and the
accuracy on SHIPPED_TEST.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

import lwm_edge
from lwm_edge.model.bundle import RIGHT, TOTAL, Bundle, open_bundle, save_bundle


def measured_copy(base: Bundle, test: Path, work: Path) -> Path:
    """Writes a copy of a base that says how often it is right on test photos."""
    lwm_edge.init_home(base.path, work / "unmeasured")
    report, arrays = lwm_edge.evaluate(work / "unmeasured", test), base.arrays()
    for index, name in enumerate(base.manifest.class_names):
        photos = len(list((test / name).iterdir()))
        arrays[TOTAL][index], arrays[RIGHT][index] = photos, round(report.per_class[name] * photos)
    return save_bundle(work / "measured.lwm", arrays, base.manifest).path


def main(
    base: Annotated[Path, typer.Argument(help="The base bundle.")],
    shipped_test: Annotated[Path, typer.Argument(help="Class folders of photos of the shipped classes.")],
    new_photos: Annotated[list[Path], typer.Argument(help="Class folders of new classes.")],
    recipe: Annotated[str, typer.Option(help="Recipe of the increments.")] = "auto",
) -> None:
    """Teaches the classes and prints a line of JSON for each increment."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        lwm_edge.init_home(measured_copy(open_bundle(base), shipped_test, Path(folder)), home)
        config = lwm_edge.IncrementConfig(recipe=recipe, force=True, min_photos=2)  # type: ignore[arg-type]
        for photos in new_photos:
            shipped = lwm_edge.add_classes(home, photos, config).drift.shipped
            assert shipped is not None
            accuracy = lwm_edge.evaluate(home, shipped_test).old_accuracy
            print(
                json.dumps({"photos": str(photos), **shipped.model_dump(), "accuracy": accuracy}), flush=True
            )


if __name__ == "__main__":
    typer.run(main)
