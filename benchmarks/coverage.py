#!/usr/bin/env python3
"""Measures whether new classes' photos show how training would move the features of known classes.

    python benchmarks/coverage.py BASE.lwm DATA RESULTS.json --name NAME --seed 1993 [--classes 10]

DATA has train/<class>/*, and BASE.lwm knows the first classes in the order of the seed, as in `protocol.py`.
For the next classes, the script measures the leverage of the known classes' means (see
`learning.feature_map`). Each run adds a row to RESULTS.json and prints the table of all rows.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from few_photos import linked
from provenance import provenance
from splits import class_order

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.feature_map import MAX_LEVERAGE, leverage
from lwm_edge.learning.running import observe
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a Markdown table."""
    print("| data | seed | new classes | photos | values | leverage: median | largest | may train |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["name"], row["seed"], row["classes"], row["photos"], row["values"]]
        cells += [f"{np.median(row['leverage']):.2f}", f"{max(row['leverage']):.2f}"]
        cells.append("yes" if max(row["leverage"]) <= MAX_LEVERAGE else "no")
        print(f"| {' | '.join(map(str, cells))} |")


def main(
    base: Annotated[Path, typer.Argument(help="Base bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file that gets one more row.")],
    seed: Annotated[int, typer.Option(help="Seed of the class order.")],
    name: Annotated[str, typer.Option(help="Name of the data in the table.")],
    classes: Annotated[int, typer.Option(min=1, help="Number of new classes.")] = 10,
) -> None:
    """Measures one base."""
    bundle = open_bundle(base)
    order, known = class_order(data, seed, bundle.manifest.class_names), len(bundle.manifest.class_names)
    network, preprocessing = load_network(bundle), bundle.manifest.preprocessing
    with tempfile.TemporaryDirectory() as folder:
        new = linked(Path(folder) / "new", data, "train", order[known : known + classes])
        found = read_photo_folder(new, preprocessing, PixelCache(2**30), min_photos=1)
        photos = PhotoSet([p for group in found.photos for p in group], preprocessing, PixelCache(2**30))
        features = observe(network, photos, 64).head_inputs
    means = ClassStatistics.from_bundle(bundle).means[:known]
    row = {"name": name, "seed": seed, "classes": classes, "photos": len(features)}
    row |= {
        "values": features.shape[1],
        "leverage": [round(v, 4) for v in leverage(features, means).tolist()],
    }
    done = json.loads(results.read_text()) if results.exists() else {"runs": []}
    done["runs"].append({**row, **provenance()})
    results.write_text(json.dumps(done, indent=1) + "\n")
    print_table(done["runs"])


if __name__ == "__main__":
    typer.run(main)
