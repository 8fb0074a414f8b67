#!/usr/bin/env python3
"""Runs the class-incremental protocol through the public API: some base classes, then some more per step.

    python benchmarks/protocol.py DATA RESULTS.json --arch small_resnet20 --image-size 32 [options]

DATA has train/<class>/* and test/<class>/*. After every step all classes seen so far compete with each
other (single-headed evaluation), and accuracy is the mean over classes. Runs that are already in RESULTS.json
are not repeated, and all runs of a seed except `joint` share one base. If the run of a recipe was killed, the
same command continues it after its last finished step; RESULTS/SEED/ keeps these steps until the run is
finished. It also keeps the home, and the bundle after each step, for `attention_maps.py`. At the end the
script prints the table that `table.py` prints. `figures.py` draws a figure, and `methods.py` explains the
methods.

The class order is that of the sorted names, permuted with numpy.random.RandomState(seed); 1993 gives the
order of the field's published CIFAR-100 tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from kept_steps import KeptSteps
from methods import BASELINES, METHODS, run_baseline, run_joint, run_recipe
from splits import Split
from table import main as print_table

import lwm_edge
from lwm_edge.cli.settings import base_config
from lwm_edge.outputs import write_output


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/<class> and test/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file; runs in it are not repeated.")],
    arch: Annotated[str, typer.Option()],
    image_size: Annotated[int, typer.Option()],
    method: Annotated[
        list[str], typer.Option(help=f"One of {', '.join(METHODS)}, or a recipe with settings.")
    ] = list(METHODS),  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="Seed of the class order.")] = [1993],  # noqa: B006
    base_classes: int = 10,
    step_classes: int = 10,
    until: Annotated[int | None, typer.Option(help="Number of classes to stop at.")] = None,
    new_photos: Annotated[int | None, typer.Option(help="Photos per new class, if not all.")] = None,
    base_photos: Annotated[int | None, typer.Option(help="Photos per base class, if not all.")] = None,
    held_out: Annotated[
        int | None, typer.Option(help="Training photos of each class to test on, instead of the test photos.")
    ] = None,
    epochs: int = 10,
    base_epochs: int = 30,
    weights: str | None = None,
    frozen_blocks: int = 0,
    base_learning_rate: float | None = None,
    base_batch_size: int = 64,
    grid: Annotated[int | None, typer.Option(help="As in build-base; by default, photos decide.")] = None,
    rotations: Annotated[bool, typer.Option("--rotations", help="As in build-base.")] = False,
    pretrained_share: Annotated[float, typer.Option(help="As in build-base, but 0 by default.")] = 0.0,
    base_precision: Annotated[str, typer.Option(help="Precision in which the base trains.")] = "auto",
) -> None:
    """Makes the runs that are missing from RESULTS.json."""
    options = {k: v for k, v in locals().items() if k not in ("data", "results", "method", "seed")}
    later_options = {
        "grid": None,
        "rotations": False,
        "base_precision": "auto",
        "held_out": None,
        "base_photos": None,
        "pretrained_share": 0.0,
    }
    for later, default in later_options.items():
        if options[later] == default:
            del options[later]  # results that are older than an option do not have it
    options["data"] = data.name
    done = json.loads(results.read_text()) if results.exists() else {"settings": options, "runs": []}
    if done["settings"] != options:
        raise typer.BadParameter(f"{results} has runs with other settings: {done['settings']}")
    base_settings = {
        "architecture": arch,
        "image_size": image_size,
        "weights": weights,
        "frozen_blocks": frozen_blocks,
        "grid": grid,
        "rotations": rotations,
        "pretrained_share": pretrained_share,
        "epochs": base_epochs,
        "learning_rate": base_learning_rate,
        "batch_size": base_batch_size,
        "precision": base_precision,
        "held_back": 0.0,
        "capacity": len(list((data / "train").iterdir())),
    }
    for order in seed:
        work = results.with_suffix("") / str(order)
        steps = order, base_classes, step_classes, until
        split = Split(data, work, *steps, new_photos, held_out or 0, base_photos)
        base = work / "base.lwm"
        if not base.exists():
            lwm_edge.build_base(split.train(0), base, base_config(**base_settings, seed=order))
        for name in method:
            if any((run["method"], run["seed"]) == (name, order) for run in done["runs"]):
                continue
            print(f"{name}, seed {order}", flush=True)
            kept = KeptSteps(work / f"{name}-steps.json", options)
            if name in BASELINES:
                run_baseline(split, base, name, kept)
            elif name.startswith("joint"):
                run_joint(split, name, base_settings | {"seed": order}, kept)
            else:
                settings = {"epochs": epochs, "seed": order, "held_back": 0.001, "force": True}
                run_recipe(split, base, name, settings, kept)
            run = {"method": name, "seed": order, "seconds": round(kept.seconds), **kept.provenance()}
            done["runs"].append(run | {"steps": kept.steps})
            write_output(results, json.dumps(done).encode())
            kept.forget()
    print_table([results])


if __name__ == "__main__":
    typer.run(main)
