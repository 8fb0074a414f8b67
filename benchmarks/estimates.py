#!/usr/bin/env python3
"""Compares receipts' estimates of the accuracy on the shipped classes with the accuracy on real photos.

    python benchmarks/estimates.py BASE.lwm DATA RESULTS.json [--recipe lda] [--increments 1] [--classes 4]

DATA has train/<class>/* and test/<class>/*, the shipped classes of BASE.lwm among them. The test photos of
the shipped classes are halved at random. A copy of the base is made with one half in place of the photos that
`build-base` holds back: this half decides which statistics and which head ship, and gives the accuracy that
the base states. If BASE is a checkpoint instead (.pth, of the first --shipped classes in the order of seed
1993), it is packed with this half as `--unseen-photos`. Then a device learns other classes, in the order of
seed 1993, and the accuracy on the shipped classes is measured on the other half. Each run of the script adds
a setting to RESULTS.json and prints the table of all settings.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from few_photos import linked
from overfitted import half_folders
from provenance import provenance

import lwm_edge
from lwm_edge.base.measure import measured_tensors, settle
from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.discriminant import Labels
from lwm_edge.learning.running import Observation, observe
from lwm_edge.learning.unknown import score_tensors
from lwm_edge.model.bundle import Bundle, open_bundle, save_bundle
from lwm_edge.model.loading import load_network, network_arrays
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache


def seen(base: Bundle, folder: Path) -> tuple[Observation, Labels]:
    """Runs a base's network on class folders of its own classes; returns the results and the labels."""
    network, preprocessing = load_network(base), base.manifest.preprocessing
    found = read_photo_folder(folder, preprocessing, PixelCache(2**30), min_photos=1)
    photos = PhotoSet([p for group in found.photos for p in group], preprocessing, PixelCache(2**30))
    labels = np.array([base.manifest.class_names.index(found.class_names[label]) for label in photos.labels])
    return observe(network, photos, 64), labels


def measured_copy(base: Bundle, learnt: Path, unseen: Path, path: Path) -> Path:
    """Writes a copy of a base as if `build-base` had held back the unseen photos."""
    network, names = load_network(base), base.manifest.class_names
    (of_learnt, labels), (of_unseen, unseen_labels) = seen(base, learnt), seen(base, unseen)
    inputs = network.head.in_features
    empty = ClassStatistics.empty(base.manifest.capacity, inputs, network.level_values)
    settled = settle(
        empty.with_photos(of_learnt.head_inputs, labels),
        of_unseen,
        unseen_labels,
        of_unseen.logits(network),
        float((of_learnt.logits(network).argmax(1) == labels).mean()),
        len(names),
    )
    if settled.report.head == "solved":
        network.set_head(*(torch.from_numpy(rows) for rows in settled.statistics.solve_head(len(names))))
    print(settled.report.model_dump_json(), flush=True)
    arrays = {
        **base.arrays(),
        **network_arrays(network),
        **settled.statistics.to_arrays(),
        **score_tensors(settled.statistics, len(names)),
        **measured_tensors(settled, unseen_labels, base.manifest.capacity),
    }
    return save_bundle(path, arrays, base.manifest).path


def run(
    base: Path, kept: Path, data: Path, config: lwm_edge.IncrementConfig, groups: list[list[str]], work: Path
) -> list[dict[str, Any]]:
    """Teaches groups of classes in turn; returns the estimated and the measured accuracy after each."""
    home = work / "home"
    lwm_edge.init_home(base, home)
    rows = []
    for names in groups:
        receipt = lwm_edge.add_classes(home, linked(work / "new", data, "train", names), config)
        estimate = receipt.drift.shipped and receipt.drift.shipped.model_dump()
        accuracy = lwm_edge.evaluate(home, kept).old_accuracy
        row = {"classes": len(receipt.class_names), "estimate": estimate, "accuracy": accuracy}
        if receipt.comparison:
            row |= {"comparison": receipt.comparison.model_dump(), "seconds": round(receipt.seconds)}
        rows.append(row)
        print(json.dumps(rows[-1]), flush=True)
    return rows


def print_table(settings: list[dict[str, Any]]) -> None:
    """Prints estimated and measured accuracy in %, and how many intervals contain the measured value."""
    print("| base | recipe | increments | estimated, and its interval | measured |\n|---|---|---|---|---|")
    held, widths, with_figure = [], [], 0
    for setting in settings:
        said, measured = [], []
        for row in setting["rows"]:
            measured.append(f"{100 * row['accuracy']:.1f}")
            if row["estimate"] is None:
                said.append("no figure")
                continue
            low, high = row["estimate"]["interval"]
            if row["estimate"]["now"] is None:
                said.append(f"no figure [{100 * low:.1f}, {100 * high:.1f}]")
                continue
            said.append(f"{100 * row['estimate']['now']:.1f} [{100 * low:.1f}, {100 * high:.1f}]")
            held.append(low <= row["accuracy"] <= high)
            widths.append(100 * (high - low))
        with_figure += any(row["estimate"] and row["estimate"]["now"] is not None for row in setting["rows"])
        cells = (
            setting["base"],
            setting["recipe"],
            f"{len(setting['rows'])} of {setting['classes']}",
            "; ".join(said),
            "; ".join(measured),
        )
        print(f"| {' | '.join(cells)} |")
    print(
        f"\nThere is a figure in {with_figure} of {len(settings)} settings; "
        f"{sum(held)} of {len(held)} intervals contain the measured value "
        f"({np.mean(held):.0%}); their mean width is {np.mean(widths):.1f} points."
    )


def main(
    base: Annotated[Path, typer.Argument(help="The base bundle, or a checkpoint (.pth).")],
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file that gets one more setting.")],
    name: Annotated[str, typer.Option(help="Name of the base in the table.")] = "base",
    recipe: Annotated[str, typer.Option(help="Recipe of the increments.")] = "lda",
    increments: Annotated[int, typer.Option(min=1, help="Number of increments.")] = 1,
    classes: Annotated[int, typer.Option(min=1, help="Classes in each increment.")] = 4,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs, if the recipe trains.")] = 10,
    arch: Annotated[str, typer.Option(help="Architecture of the checkpoint.")] = "resnet18",
    image_size: Annotated[int, typer.Option(help="Image size of the checkpoint.")] = 64,
    shipped: Annotated[int, typer.Option(help="Number of classes of the checkpoint.")] = 12,
) -> None:
    """Runs one setting."""
    names = sorted(path.name for path in (data / "train").iterdir())
    order = [names[i] for i in np.random.RandomState(1993).permutation(len(names))]
    packs = base.suffix == ".pth"
    known = sorted(order[:shipped]) if packs else list(open_bundle(base).manifest.class_names)
    new = [n for n in order if n not in known][: increments * classes]
    groups = [new[i : i + classes] for i in range(0, len(new), classes)]
    config = lwm_edge.IncrementConfig(recipe=recipe, epochs=epochs, force=True, min_photos=2)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        given, kept = half_folders(linked(work / "shipped", data, "test", known), work)
        ready = work / "ready.lwm"
        if packs:
            settings = lwm_edge.PackConfig(architecture=arch, image_size=image_size, unseen_photos=given)
            lwm_edge.pack_checkpoint(base, linked(work / "learnt", data, "train", known), ready, settings)
        else:
            learnt = linked(work / "learnt", data, "train", known)
            measured_copy(open_bundle(base), learnt, given, ready)
        rows = run(ready, kept, data, config, groups, work)
    done = json.loads(results.read_text()) if results.exists() else {"runs": []}
    setting = {"base": name, "data": data.name, "recipe": recipe, "classes": classes, "epochs": epochs}
    done["runs"].append({**setting, **provenance(), "rows": rows})
    results.write_text(json.dumps(done, indent=1) + "\n")
    print_table(done["runs"])


if __name__ == "__main__":
    typer.run(main)
