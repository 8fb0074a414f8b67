#!/usr/bin/env python3
"""Measures how long an owner waits for new classes that are added without training, and the memory used.

    python benchmarks/speed_instant.py PHOTOS RESULTS.json [--rounds 9] [--classes 5] [--photos 40]
    python benchmarks/speed_instant.py PHOTOS RESULTS.json --recipe lwm     measures the same with training
    python benchmarks/speed_instant.py PHOTOS RESULTS.json --large png      ... with photos of 12 megapixels

PHOTOS has one folder for each class. A base of ten classes is made from a pretrained EfficientNet-Lite0 at
128 px. Then each round measures, in turn:

    command   `lwm-edge add-classes`, from its start to its end, in a fresh copy of the home
    least     a process that decodes the same photos and runs the backbone over them once; nothing else that
              it does counts
    imports   the memory of a process with the command's imports alone

The times of single parts come from the receipt. Memory is the largest proportional set size (PSS) of the
command and its child processes, sampled every 10 ms; in a PSS, shared pages count once.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import psutil
import typer
from PIL import Image
from provenance import provenance

MIB = 2**20
BASE_CLASSES, BASE_PHOTOS = 10, 30
SAMPLING_SECONDS = 0.01
IMPORTED = """
import lwm_edge.__main__, lwm_edge.cli.commands, lwm_edge.increment.add, lwm_edge.increment.learn
import lwm_edge.increment.instant, lwm_edge.increment.commit, onnxruntime
print(flush=True)
input()
"""
LEAST = """
import sys, time
import numpy as np
from pathlib import Path
from lwm_edge.model.backbone import Backbone
from lwm_edge.model.bundle import open_bundle
from lwm_edge.photos.reading import read_photo
bundle, folder = open_bundle(Path(sys.argv[1])), Path(sys.argv[2])
paths, backbone = sorted(folder.glob("*/*")), Backbone(bundle)
started = time.perf_counter()
pixels = np.stack([read_photo(path, bundle.manifest.preprocessing) for path in paths])
read = time.perf_counter()
for start in range(0, len(pixels), 4):
    backbone.run(pixels[start : start + 4])
print(read - started, time.perf_counter() - read)
"""


def copy_classes(photos: Path, target: Path, first: int, classes: int, count: int) -> None:
    """Copies photos of some classes, starting at number `first` of those that have enough photos."""
    enough = [folder for folder in sorted(photos.iterdir()) if len(list(folder.iterdir())) >= count]
    for folder in enough[first : first + classes]:
        (target / folder.name).mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:count]:
            shutil.copy(photo, target / folder.name)


def enlarge(folder: Path, kind: str) -> None:
    """Replaces photos by ones of 12 megapixels: `jpeg`, `progressive` (another form of JPEG) or `png`."""
    for path in folder.glob("*/*"):
        with Image.open(path) as photo:
            large = photo.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        path.unlink()
        if kind == "png":
            large.save(path.with_suffix(".png"), compress_level=1)
        else:
            large.save(path.with_suffix(".jpg"), quality=90, progressive=kind == "progressive")


def make_home(photos: Path, work: Path) -> None:
    """Makes a home of ten classes."""
    from lwm_edge import BaseConfig, build_base, init_home

    copy_classes(photos, work / "base", 0, BASE_CLASSES, BASE_PHOTOS)
    config = BaseConfig(
        architecture="efficientnet_lite0", weights="imagenet", image_size=128, epochs=1, frozen_blocks=22
    )
    build_base(work / "base", work / "base.lwm", config)
    init_home(work / "base.lwm", work / "home")


def run_measured(command: list[str]) -> tuple[float, float]:
    """Runs a command; returns its seconds, and its largest PSS, child processes included, in MiB."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    largest = 0
    while process.poll() is None:
        largest = max(largest, pss(process.pid))
        time.sleep(SAMPLING_SECONDS)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return seconds, largest / MIB


def pss(pid: int) -> int:
    """Returns the proportional set size of a process and its children, in bytes."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
            total += 1024 * int(text.partition("\nPss:")[2].split()[0])
    except (OSError, psutil.Error, IndexError):  # one of them has just ended
        return 0
    return total


def time_command(work: Path, recipe: str) -> dict[str, Any]:
    """Runs the command twice, in fresh copies of the home, because sampling its memory slows it down."""
    results: dict[str, Any] = {}
    for measure in ("pss", "seconds"):
        home = work / "copy"
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(work / "home", home, symlinks=True)
        command = [sys.executable, "-m", "lwm_edge", "add-classes", str(work / "new")]
        command += ["--home", str(home), "--recipe", recipe, "--force"]  # the gate plays no part here
        if measure == "pss":
            _, results["pss_mib"] = run_measured(command)
        else:
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            results["seconds"] = time.perf_counter() - started
    receipt = json.loads((work / "copy" / "current" / "receipt.json").read_text())
    footprint = receipt["footprint"]
    peak = max(footprint["peak_rss_bytes"], footprint["export_peak_rss_bytes"])
    results |= {
        "receipt_seconds": receipt["seconds"],
        "parts": receipt["seconds_by_part"],
        "predicted_seconds": receipt["plan"]["predicted_seconds"],
        "predicted_peak_mib": receipt["plan"]["predicted_peak_rss_bytes"] / MIB,
        "peak_mib": peak / MIB,
    }
    return results


def time_least(work: Path) -> dict[str, float]:
    """Measures the seconds that decoding the photos and running the backbone over them once take."""
    command = [sys.executable, "-c", LEAST, str(work / "base.lwm"), str(work / "new")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    read, run = map(float, printed.split())
    return {"read_seconds": read, "run_seconds": run}


def imports_alone() -> dict[str, float]:
    """Returns the PSS of a process with the command's imports alone, in MiB."""
    process = subprocess.Popen([sys.executable, "-c", IMPORTED], stdin=-1, stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    taken = pss(process.pid) / MIB
    process.communicate(b"\n")
    return {"imports_mib": taken}


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the median, the smallest and the largest value of each figure."""

    def of(values: list[float]) -> dict[str, float]:
        kinds = (("median", median), ("smallest", min), ("largest", max))
        return {name: round(kind(values), 3) for name, kind in kinds}

    flat = [{**{k: v for k, v in r.items() if k != "parts"}, **r["parts"]} for r in rounds]
    figures = {name: of([r[name] for r in flat]) for name in flat[0]}
    figures["above_least_seconds"] = of([r["seconds"] - r["read_seconds"] - r["run_seconds"] for r in flat])
    figures["pss_above_imports_mib"] = of([r["pss_mib"] - r["imports_mib"] for r in flat])
    return figures


def main(
    photos: Annotated[Path, typer.Argument(help="Folder with one sub-folder of photos for each class.")],
    results: Path,
    rounds: Annotated[int, typer.Option(min=1)] = 9,
    classes: Annotated[int, typer.Option(min=1)] = 5,
    count: Annotated[int, typer.Option("--photos", min=5, help="Photos of each class.")] = 40,
    recipe: str = "auto",
    large: Annotated[
        Literal["jpeg", "progressive", "png"] | None,
        typer.Option(help="Scales the photos up, as files of this kind."),
    ] = None,
) -> None:
    """Measures increments, and writes the figures."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        make_home(photos, work)
        copy_classes(photos, work / "new", BASE_CLASSES, classes, count)
        if large:
            enlarge(work / "new", large)
        measured = []
        for number in range(rounds + 1):
            found = {**time_command(work, recipe), **time_least(work), **imports_alone()}
            measured += [found] if number else []  # the first round warms the disk cache
    figures = summary(measured)
    settings = {"classes": classes, "photos": count, "recipe": recipe} | ({"large": large} if large else {})
    results.write_text(json.dumps({**provenance(), **settings, "figures": figures}, indent=1) + "\n")
    for name, value in figures.items():
        print(f"| {name} | {value['median']:.2f} | {value['smallest']:.2f} to {value['largest']:.2f} |")


if __name__ == "__main__":
    typer.run(main)
