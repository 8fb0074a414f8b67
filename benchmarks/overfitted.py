#!/usr/bin/env python3
"""Teaches classes to a base that knows its own photos by heart, and compares the receipts with measurements.

    python benchmarks/overfitted.py DATA RESULTS.json [--epochs 30] [--checkpoint FILE.pth]

DATA holds train/<class>/* and test/<class>/*. A ResNet-18 is trained from scratch at 64 px in the usual
way (cross entropy, SGD, one cycle, mirrored at random) on the first twelve classes in the order of seed
1993, until it is right on nearly all photos that it learns from, and adopted as it is. Then a device
teaches it, each time from the same base: one class from 14 photos, and four classes from all of theirs.
Every figure of a receipt stands beside the one that is measured on the test photos, and beside the
nearest class mean on the same features.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from protocol import Split
from provenance import provenance
from torch import nn
from torch.nn import functional as F

import lwm_edge
from lwm_edge.learning.baselines import NearestClassMean
from lwm_edge.learning.running import observe
from lwm_edge.model.architectures.registry import find_architecture
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.preprocessing import Preprocessing

SHIPPED, SIZE, FEW = 12, 64, 14


def read(folder: Path, preprocessing: Preprocessing) -> PhotoSet:
    """Reads class folders; labels count from 0 in the folders' sorted order."""
    cache = PixelCache(2**29)
    found = read_photo_folder(folder, preprocessing, cache, min_photos=1)
    return PhotoSet([photo for group in found.photos for photo in group], preprocessing, cache)


def train(photos: PhotoSet, preprocessing: Preprocessing, epochs: int, seed: int) -> nn.Module:
    """Trains a ResNet-18 in the usual way."""
    torch.manual_seed(seed)
    model = find_architecture("resnet18").build()
    model.fc = nn.Linear(512, SHIPPED)
    images = torch.from_numpy(photos.load(range(len(photos.photos))))
    labels = torch.tensor(photos.labels)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    steps = epochs * (len(images) // 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    for epoch in range(epochs):
        for part in torch.randperm(len(images))[: len(images) // 32 * 32].split(32):
            pixels = (images[part].permute(0, 3, 1, 2).float() / 255 - mean) / std
            mirrored = pixels.flip(3) if torch.rand(()) < 0.5 else pixels
            loss = F.cross_entropy(model(mirrored), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: {loss.item():.3f}", flush=True)
    return model.eval()


def increment(base: Path, photos: Path, tests: dict[str, Path], work: Path) -> dict[str, Any]:
    """Adds the photos' classes, forced, and measures what the receipt claims."""
    home = work / "home"
    lwm_edge.init_home(base, home, replace=True)
    before = lwm_edge.evaluate(home, tests["shipped"]).accuracy
    receipt = lwm_edge.add_classes(home, photos, lwm_edge.IncrementConfig(force=True, min_photos=2))
    measured = lwm_edge.evaluate(home, tests["all"])
    return {
        "recipe": receipt.recipe,
        "estimated_shipped": receipt.drift.shipped and receipt.drift.shipped.model_dump(),
        "measured_shipped": (before, measured.old_accuracy),
        "judged": [(c.class_name, c.right, c.photos) for c in receipt.judged],
        "measured_new": measured.new_accuracy,
        "nearest_mean_new": nearest_mean(base, photos, tests),
        "warnings": receipt.warnings,
    }


def nearest_mean(base: Path, photos: Path, tests: dict[str, Path]) -> float:
    """Measures the nearest class mean's accuracy on the head's inputs, averaged over the new classes."""
    bundle = open_bundle(base)
    network, preprocessing = load_network(bundle), bundle.manifest.preprocessing
    baseline = NearestClassMean()
    for offset, folder in ((0, tests["learnt"]), (SHIPPED, photos)):
        found = read(folder, preprocessing)
        baseline.learn(observe(network, found, 64).head_inputs, np.array(found.labels) + offset)
    new = read(tests["new"], preprocessing)
    best = baseline.predict(observe(network, new, 64).head_inputs)
    labels = np.array(new.labels) + SHIPPED
    return float(np.mean([(best[labels == label] == label).mean() for label in np.unique(labels)]))


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos of the base.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="State dict to take instead of training.")] = None,
) -> None:
    """Runs it all and writes the results."""
    default = find_architecture("resnet18").preprocessing
    preprocessing = default.model_copy(update={"image_size": SIZE, "resize_size": SIZE * 8 // 7})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        rows = []
        for what, count, photos in (("one class, 14 photos", 1, FEW), ("four classes, all photos", 4, None)):
            split = Split(data, work / str(count), 1993, SHIPPED, count, SHIPPED + count, photos)
            learnt, new = split.train(0), split.train(1)
            if checkpoint is None:
                checkpoint = work / "trained.pth"
                model = train(read(learnt, preprocessing), preprocessing, epochs, seed)
                torch.save(model.state_dict(), checkpoint)
            config = lwm_edge.BaseConfig(
                architecture="resnet18",
                checkpoint=checkpoint,
                epochs=0,
                image_size=SIZE,
                activation="softmax",
                held_back=0,
            )
            lwm_edge.build_base(learnt, work / "base.lwm", config)
            tests = {
                "learnt": learnt,
                "shipped": split.test(0),
                "all": split.test(1),
                "new": split._folder("test-new", "test", split.groups[1], None),
            }
            row = increment(work / "base.lwm", new, tests, work)
            rows.append({"what": what, **row})
            print(json.dumps(rows[-1], indent=1), flush=True)
    described = {"data": data.name, "epochs": epochs, "seed": seed}
    results.write_text(json.dumps({**provenance(), "settings": described, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
