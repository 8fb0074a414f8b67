#!/usr/bin/env python3
"""Estimates how long a base of very many photos would take, from the time for a few on this machine.

    python benchmarks/large_base.py OUTPUT.json [--arch resnet50] [--photos 1281167] [--epochs 90]

It measures how long it takes to check a photo once, to read it for an epoch, to train on it, and to run the
network on it for levels and statistics. All this is processor time of one core, which other programs change
little; with `--device cuda`, training is wall-clock time of one GPU. The photos are JPEG files of 500x375
pixels that show textures.

Then it extrapolates. Every photo is checked once. All photos except those held back are read and trained on
in every epoch. The network runs on an even selection of up to 65,536 photos three times, to choose what the
head reads (these networks have no more choices), and on all photos once more for the statistics. The estimate
leaves out solving the heads, exporting, and the time that processes lose by waiting for each other, so
dividing the hours by the number of cores gives the best case.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from provenance import provenance
from speed_photos import write_photos

from lwm_edge import BaseConfig
from lwm_edge.base.observing import PHOTOS_AT_ONCE, learn_all
from lwm_edge.base.ranks import Ranks
from lwm_edge.base.saved_training import SavedTraining
from lwm_edge.base.start import start_network
from lwm_edge.base.train import train_base
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.precision import computing_in
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.records import Progress, ignore_progress

SIDE = (500, 375)
CLASSES, PER_CLASS, BATCH_SIZE = 4, 16, 16
GRIDS = 3
WORK = (
    ("check a photo, once", "check_ms", "check_hours"),
    ("read it, in every epoch", "read_ms", "read_hours"),
    ("run the network on it, for levels and statistics", "look_ms", "levels_and_statistics_hours"),
    ("train on it, in every epoch", "train_ms", "train_hours"),
)


def measure(arch: str, device: torch.device, folder: Path) -> dict[str, float]:
    """Measures how many milliseconds each kind of work takes for a photo."""
    torch.set_num_threads(1)
    write_photos(folder, CLASSES, PER_CLASS, SIDE)
    architecture, alone = find_architecture(arch), Ranks()
    config = BaseConfig(
        architecture=arch, capacity=CLASSES, epochs=2, batch_size=BATCH_SIZE, device=device.type, grid=0
    )
    preprocessing, cache = architecture.preprocessing, PixelCache(2**30)
    photos = CLASSES * PER_CLASS
    cost = {}

    def checked() -> PhotoSet:
        found = read_photo_folder(folder, preprocessing, PixelCache(0), min_photos=1)
        return PhotoSet([photo for group in found.photos for photo in group], preprocessing, cache, 0)

    cost["check_ms"], listed = timed(checked, time.process_time)
    uncached = PhotoSet(listed.photos, preprocessing, PixelCache(0), 0)
    cost["read_ms"], _ = timed(lambda: uncached.load(range(photos), 0), time.process_time)
    listed.load(range(photos))  # into the cache, so that the next steps do not count the reading again
    network = start_network(architecture, config, CLASSES, preprocessing)
    cost["look_ms"], _ = timed(
        lambda: learn_all(network, listed, CLASSES, alone, ignore_progress), time.process_time
    )
    clock, steps = time.perf_counter if device.type == "cuda" else time.process_time, list[float]()

    def note(progress: Progress) -> None:
        steps.append(clock())

    network.to(device)
    saved = SavedTraining(folder / "none.lwm", listed, config, alone)
    with computing_in("bfloat16" if device.type == "cuda" else "float32", network):
        train_base(network, listed, config, saved, alone, note)
    cost["train_ms"] = 1000 * float(np.median(np.diff(steps))) * photos / BATCH_SIZE
    return {name: value / photos for name, value in cost.items()}


def timed(action: Callable[[], Any], clock: Callable[[], float]) -> tuple[float, Any]:
    """Runs an action twice; returns the milliseconds of the second run, and its result."""
    action()
    started = clock()
    result = action()
    return 1000 * (clock() - started), result


def extrapolated(cost: dict[str, float], photos: int, epochs: int, held_back: float) -> dict[str, float]:
    """Extrapolates from the cost of a photo; returns hours of one core, or of one GPU if it trains."""
    learnt, hour = photos * (1 - held_back), 3_600_000
    looks = photos + GRIDS * min(PHOTOS_AT_ONCE, learnt)
    return {
        "check_hours": photos * cost["check_ms"] / hour,
        "read_hours": epochs * learnt * cost["read_ms"] / hour,
        "train_hours": epochs * learnt * cost["train_ms"] / hour,
        "levels_and_statistics_hours": looks * (cost["look_ms"] + cost["read_ms"]) / hour,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints how long each kind of work takes, for one photo and for all of them, by network."""
    archs = [row["arch"] for row in rows]
    columns = [f"{arch}, {unit}" for unit in ("ms a photo", "hours") for arch in archs]
    print("| work |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for work, photo, whole in WORK:
        cells = [f"{row['photo'][photo]:.1f}" for row in rows]
        print("|", work, "|", " | ".join([*cells, *(f"{row['whole'][whole]:,.0f}" for row in rows)]), "|")


def main(
    output: Annotated[Path, typer.Argument(help="JSON file to write.")],
    arch: Annotated[list[str] | None, typer.Option(help="Networks; by default ResNet-18 and 50.")] = None,
    photos: Annotated[int, typer.Option(help="Number of photos of the whole base.")] = 1_281_167,
    epochs: Annotated[int, typer.Option(help="Epochs of the whole base.")] = 90,
    held_back: Annotated[float, typer.Option(help="Share of the photos that are not trained on.")] = 0.04,
    device: Annotated[str, typer.Option(help="Device that trains: cpu or cuda.")] = "cpu",
) -> None:
    """Measures how long a few photos take, and extrapolates."""
    rows = []
    for name in arch or ["resnet18", "resnet50"]:
        with tempfile.TemporaryDirectory() as folder:
            cost = measure(name, torch.device(device), Path(folder))
        rows.append({"arch": name, "photo": cost, "whole": extrapolated(cost, photos, epochs, held_back)})
    print_table(rows)
    settings = {"photos": photos, "epochs": epochs, "held_back": held_back, "device": device}
    output.write_text(json.dumps({**provenance(), **settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
