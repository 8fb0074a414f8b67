#!/usr/bin/env python3
"""Draws where each model looks on a test photo of a base class, in the form of the paper's Figure 4.

    python benchmarks/attention_maps.py DATA RESULTS.json SEED OUT.png --method lwm --method lwf-mc [...]

It reads the bundles that `protocol.py` left in the folder beside RESULTS.json. In the figure, each row is a
method. The row shows one photo, then its Grad-CAM maps for its class: first that of the shipped model M_0,
then those of the models after each increment. The script also prints a Markdown table of the L1 distance
between the maps and M_0's, averaged over the test photos of the base classes; each map is divided by its L2
norm, as in eq. 4. In brackets is the share of photos, in %, whose map is zero everywhere, because nothing in
the photo points to its class. OUT.json has the same numbers. The script needs matplotlib:
pip install 'lwm-edge[bench]'.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from matplotlib.axes import Axes
from methods import bundle_after
from provenance import provenance
from splits import Split
from torch import Tensor

from lwm_edge.learning.attention import attention_map
from lwm_edge.learning.losses import attention_distillation_loss
from lwm_edge.learning.running import observe
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache


def base_test_photos(split: Split, network: Network, class_names: tuple[str, ...]) -> PhotoSet:
    """Reads the test photos of the base classes, and labels each with the index of its class."""
    cache = PixelCache(2**28)
    found = read_photo_folder(split.test(0), network.preprocessing, cache, min_photos=1)
    index_of = [class_names.index(name) for name in found.class_names]
    photos = [replace(photo, label=index_of[photo.label]) for group in found.photos for photo in group]
    return PhotoSet(photos, network.preprocessing, cache)


def maps_of(bundle: Path, photos: PhotoSet) -> Tensor:
    """Computes a Grad-CAM map of each photo for its own class [M, h, w]."""
    network = load_network(open_bundle(bundle))
    features = torch.cat(observe(network, photos, 64, keep_maps=True).maps)
    return attention_map(features, network.attention_weight, torch.tensor(photos.labels))


def draw(axes: Axes, pixels: np.ndarray, attention: Tensor | None, title: str) -> None:
    """Draws a photo, with the map over it if there is one."""
    axes.imshow(pixels)
    if attention is not None:
        h, w = pixels.shape[:2]
        axes.imshow(attention, cmap="jet", alpha=0.5, extent=(0, w, h, 0), interpolation="bilinear")
    axes.set_title(title, fontsize=8)
    axes.set(xticks=[], yticks=[])


def main(
    data: Path,
    results: Path,
    seed: int,
    output: Path,
    method: Annotated[list[str], typer.Option()],
    photo: Annotated[int, typer.Option(help="Index of the test photo to draw.")] = 0,
) -> None:
    """Draws the figure and prints the distances."""
    if output.with_suffix(".json").resolve() == results.resolve():
        raise typer.BadParameter(f"the JSON file of {output} would overwrite {results}; choose another name")
    settings = json.loads(results.read_text())["settings"]
    work = results.with_suffix("") / str(seed)
    split = Split(
        data, work, seed, settings["base_classes"], settings["step_classes"], settings["until"], None
    )
    shipped = open_bundle(work / "base.lwm")
    photos = base_test_photos(split, load_network(shipped), shipped.manifest.class_names)
    pixels = photos.load([photo])[0]
    first = maps_of(work / "base.lwm", photos)
    steps = range(1, len(split.groups))
    figure, grid = plt.subplots(
        len(method),
        len(steps) + 2,
        figsize=(1.1 * (len(steps) + 2), 1.4 * len(method)),
        squeeze=False,
        layout="constrained",
    )
    zero_map_distance = float(attention_distillation_loss(torch.zeros_like(first), first))
    print(f"A map that is zero everywhere counts as {zero_map_distance:.2f}.\n")
    print("| method | " + " | ".join(f"M_{step}" for step in steps) + " |")
    print("|---" * (len(steps) + 1) + "|")
    moved: dict[str, list[float]] = {}
    lost: dict[str, list[float]] = {}
    for name, row in zip(method, grid, strict=True):
        draw(row[0], pixels, None, name)
        draw(row[1], pixels, first[photo], "M_0")
        moved[name], lost[name] = [], []
        for step, axes in zip(steps, row[2:], strict=True):
            maps = maps_of(bundle_after(work, name, step), photos)
            moved[name].append(float(attention_distillation_loss(maps, first)))
            lost[name].append(float((maps.flatten(1).amax(1) == 0).float().mean()))
            own = float(attention_distillation_loss(maps[photo : photo + 1], first[photo : photo + 1]))
            draw(axes, pixels, maps[photo], f"M_{step}: {own:.2f}")
        cells = (f"{far:.2f} ({share:.0%})" for far, share in zip(moved[name], lost[name], strict=True))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    figure.savefig(output, dpi=70)
    measured = {"data": data.name, "seed": seed, "photos": len(photos.photos)}
    measured |= {
        "distance_to_first": moved,
        "share_of_zero_maps": lost,
        "distance_of_a_zero_map": zero_map_distance,
    }
    output.with_suffix(".json").write_text(json.dumps(measured | provenance()))


if __name__ == "__main__":
    typer.run(main)
