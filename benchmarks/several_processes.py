#!/usr/bin/env python3
"""Compares bases trained by several processes with bases trained by one, on the demo's photos.

    python benchmarks/several_processes.py OUTPUT.json [--epochs 12] [--processes 2] [--seeds 3]

`build-base`, started by torchrun, makes every base from 600 photos of six classes, with the same settings.
Accuracy is measured on 300 test photos, with the base's exported ONNX file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from provenance import provenance

from lwm_edge import evaluate, init_home, open_home
from lwm_edge.demo import DEMO_DATA


def make_base(processes: int, seed: int, epochs: int, output: Path) -> dict[str, Any]:
    """Makes a base with a number of processes, and measures it."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    build = [
        "-m",
        "lwm_edge",
        "build-base",
        DEMO_DATA / "train" / "base",
        "--arch",
        "small_resnet20",
        "-o",
        output,
    ]
    settings = ["--image-size", 28, "--capacity", 8, "--device", "cpu", "--held-back", 0, "--seed", seed]
    command = [*launch, *build, *settings, "--epochs", epochs, "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    made = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    report = json.loads(made.stdout)
    home = output.with_suffix("")
    init_home(output, home)
    accuracy = evaluate(open_home(home), DEMO_DATA / "test" / "base").accuracy
    row = {
        "processes": processes,
        "seed": seed,
        "accuracy": accuracy,
        "grid": (report["levels"]["levels"] or {"grid": 0})["grid"],
    }
    return {**provenance(), "epochs": epochs, **row}


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the accuracy of each base, in %."""
    print("| processes | seed | accuracy | grid |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['processes']} | {row['seed']} | {100 * row['accuracy']:.1f} | {row['grid']} |")


def main(
    output: Annotated[Path, typer.Argument(help="JSON file to write.")],
    epochs: Annotated[int, typer.Option(help="Epochs of each base.")] = 12,
    processes: Annotated[int, typer.Option(help="Number of processes to compare with one.")] = 2,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
) -> None:
    """Makes the bases that are missing from the file, and measures them."""
    runs = json.loads(output.read_text())["runs"] if output.exists() else []
    known = {(run["processes"], run["seed"]) for run in runs}
    for count, seed in product((1, processes), range(seeds)):
        if (count, seed) not in known:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(make_base(count, seed, epochs, Path(folder, "base.lwm")))
            output.write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    print_table(runs)


if __name__ == "__main__":
    typer.run(main)
