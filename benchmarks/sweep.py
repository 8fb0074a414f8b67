#!/usr/bin/env python3
"""Tries settings of the paper's loop, `lwm`, and of `lwf-mc`, without reading any test photos.

    python benchmarks/sweep.py DATA SWEEP.json --arch small_resnet20 --image-size 32 [--trial CHANGES ...]

The class orders come from other seeds than those of README.md's tables of test photos. The trials are tested
on training photos that are held out. Every trial starts from the settings in LEAD and changes those that it
names, which can be settings of the package or of `variants.py`. Both methods get the same number of trials. A
trial runs without a home and without an ONNX file, on photos that stay in memory. Trials that are already in
SWEEP.json are not repeated, and all trials of a seed share one base. At the end the script prints a table.

The rule is: of two trials, the one with the higher average accuracy is better (the mean over the steps, the
base included, and over the class orders). With --combine N, each method gets N more trials: the next best
change of another setting is added to the best one, and so on; a change is kept if it makes the trial better.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from methods import recipe_of, step_of
from provenance import provenance
from splits import Split
from trials import COMPARED, LEAD, cells_of, method_of, print_table, ranked, trials
from variants import applied

import lwm_edge
from lwm_edge.cli.settings import base_config
from lwm_edge.errors import GateError
from lwm_edge.learning.batches import Pace
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.running import choose_device, observe
from lwm_edge.learning.training import train_increment
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.evaluation import TOP, evaluate_ranks
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.model.terms import Precision
from lwm_edge.outputs import write_output
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.records import ignore_progress


@dataclass(frozen=True)
class Material:
    """Holds the photos of one class order, for learning and for testing, by step."""

    split: Split
    base: Path
    to_learn: list[PhotoSet]  # for each step after the base
    held_out: list[PhotoSet]
    names: list[str]


def read_material(split: Split, base: Path, seed: int) -> Material:
    """Reads all photos, and numbers their classes as increments do."""
    preprocessing, cache = open_bundle(base).manifest.preprocessing, PixelCache(2**31)
    names: list[str] = []

    def read(folder: Path, augmentation_seed: int | None = None) -> PhotoSet:
        found = read_photo_folder(folder, preprocessing, cache, min_photos=1, first_label=len(names))
        photos = [photo for of_class in found.photos for photo in of_class]
        return PhotoSet(photos, preprocessing, cache, augmentation_seed)

    to_learn, held_out = [], []
    for group, classes in enumerate(split.groups):
        to_learn += [read(split.train(group), seed)] if group else []
        held_out.append(read(split.test_new(group)))
        names += sorted(classes)
    return Material(split, base, to_learn, held_out, names)


def run_trial(material: Material, method: str, seed: int, precision: Precision) -> Iterator[dict[str, Any]]:
    """Teaches the classes step by step, and yields the accuracy after each step."""
    config, variant = recipe_of(method, seed=seed)
    recipe = RECIPES[config.recipe].adjusted(config)
    pace = Pace(config.batch_size, prefetch=1, recompute=False, precision=precision)
    teacher = load_network(open_bundle(material.base)).to(choose_device("auto"))
    teacher.freeze(config.frozen_blocks)
    yield _measured(teacher, material, 0)
    for group, photos in enumerate(material.to_learn, start=1):
        student = teacher.student(trains=True)
        student.add_classes(len(material.split.groups[group]), torch.Generator().manual_seed(seed))
        with applied(variant):
            train_increment(student, teacher, photos, config, recipe, "sigmoid", pace, ignore_progress)
        yield _measured(student, material, group)
        teacher = student


def _measured(network: Network, material: Material, group: int) -> dict[str, Any]:
    seen = [photo for photos in material.held_out[: group + 1] for photo in photos.photos]
    photos = PhotoSet(seen, network.preprocessing, material.held_out[0].cache)
    logits = observe(network, photos, 250).logits(network)
    ranks = (-logits).argsort(1)[:, :TOP]
    names = material.names[: network.classes]
    report = evaluate_ranks(ranks, np.array(photos.labels), names, len(material.split.groups[0]))
    step = step_of(report, material.split, group)
    del step["per_class"]  # it would make the file long, with so many trials
    return step


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file; trials in it are not repeated.")],
    arch: Annotated[str, typer.Option()],
    image_size: Annotated[int, typer.Option()],
    trial: Annotated[
        list[str] | None, typer.Option(help="Changes to try instead of the grid, such as epochs=20,beta=2.")
    ] = None,
    combine: Annotated[int, typer.Option(help="Number of combinations of changes to try, per method.")] = 0,
    seed: Annotated[list[int], typer.Option(help="Seed of the class order.")] = [7, 8],  # noqa: B006
    base_classes: int = 10,
    step_classes: int = 10,
    until: int = 30,
    new_photos: Annotated[int, typer.Option(help="Photos per new class.")] = 100,
    held_out: Annotated[
        int, typer.Option(help="Number of training photos of each class to hold out for testing.")
    ] = 100,
    base_epochs: int = 30,
    base_learning_rate: float = 0.1,
    precision: Annotated[str, typer.Option(help="Precision of all training.")] = "float32",
    weights: Annotated[str | None, typer.Option(help="As in build-base.")] = None,
    frozen_blocks: Annotated[int, typer.Option(help="As in build-base; trials name their own.")] = 0,
) -> None:
    """Runs the trials that are missing from SWEEP.json."""
    options = {k: v for k, v in locals().items() if k not in ("data", "results", "trial", "combine", "seed")}
    if weights is None and not frozen_blocks:
        del options["weights"], options["frozen_blocks"]  # results that are older than these do not have them
    options |= {"data": data.name, "lead": LEAD}
    done = json.loads(results.read_text()) if results.exists() else {"settings": options, "runs": []}
    if done["settings"] != options:
        raise typer.BadParameter(f"{results} has trials with other settings: {done['settings']}")
    settings = {"architecture": arch, "image_size": image_size, "epochs": base_epochs, "grid": 0}
    settings |= {"learning_rate": base_learning_rate, "held_back": 0.0, "precision": precision}
    settings |= {"weights": weights, "frozen_blocks": frozen_blocks, "pretrained_share": 0.0}
    materials: dict[int, Material] = {}

    def material_of(order: int) -> Material:
        if order not in materials:
            work = results.with_suffix("") / str(order)
            split = Split(data, work, order, base_classes, step_classes, until, new_photos, held_out)
            base = work / "base.lwm"
            if not base.exists():
                lwm_edge.build_base(split.train(0), base, base_config(**settings, seed=order))
            materials[order] = read_material(split, base, order)
        return materials[order]

    for recipe, changes in trials(trial, combine, done["runs"]):
        for order in seed:
            run = {"recipe": recipe, "trial": changes, "seed": order}
            if any(run.items() <= known.items() for known in done["runs"]):
                continue
            material, started, steps, failed = material_of(order), time.process_time(), [], None
            try:
                steps.extend(run_trial(material, method_of(recipe, changes), order, precision))
            except GateError as error:  # a trial that diverges is a result too
                failed = error.message
            run |= {"steps": steps, "failed": failed, "seconds": round(time.process_time() - started, 1)}
            done["runs"].append(run | provenance())
            write_output(results, json.dumps(done).encode())
            print(f"{recipe}:{changes}, seed {order}: {cells_of([run])}", flush=True)
    print_table(done["runs"])
    for recipe in COMPARED:
        print(f"\nBest: {method_of(recipe, ranked(done['runs'], recipe)[0])}")


if __name__ == "__main__":
    typer.run(main)
