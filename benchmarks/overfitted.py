#!/usr/bin/env python3
"""Teaches classes to a base that knows its photos by heart, and compares the receipts with measurements.

    python benchmarks/overfitted.py DATA RESULTS.json [--epochs 120] [--checkpoint FILE.pth]

DATA has train/<class>/* and test/<class>/*. A ResNet-18 is trained from scratch at 64 px in the usual way
(cross entropy, SGD, one cycle, mirrored at random) on the first twelve classes in the order of seed 1993, for
long enough to recognise all photos that it learns from. It is packed twice: once with those photos alone, and
once with half of the classes' test photos as `--unseen-photos` too. Then each base is taught one class from
14 photos and, starting afresh, four classes from all of their photos. Each model is measured on the other
half of the shipped classes' test photos, and on all test photos of the new classes. For comparison, the
nearest class mean is measured too. It reads the same values as the head, and its means of the shipped classes
come from the photos from which the base's statistics are made.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from provenance import provenance
from splits import Split
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
    """Reads class folders, and labels them from 0 in their sorted order."""
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


def half_folders(folder: Path, work: Path) -> tuple[Path, Path]:
    """Splits the photos of class folders at random into two folders."""
    chance = np.random.RandomState(0)
    halves = work / "unseen", work / "measured"
    for path in sorted(folder.iterdir()):
        photos = sorted(path.iterdir())
        order = chance.permutation(len(photos))
        for half, indices in zip(halves, (order[: len(order) // 2], order[len(order) // 2 :]), strict=True):
            (half / path.name).mkdir(parents=True)
            for index in indices:
                shutil.copy(photos[index], half / path.name)
    return halves


def joined(folder: Path, sources: list[Path]) -> Path:
    """Copies the photos in several sets of class folders into one set."""
    shutil.rmtree(folder, ignore_errors=True)
    for number, source in enumerate(sources):
        for photo in source.glob("*/*"):
            copy = folder / photo.parent.name / f"{number}-{photo.name}"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, copy)
    return folder


def increment(base: Path, photos: Path, tests: dict[str, Path], work: Path) -> dict[str, Any]:
    """Adds the photos' classes with --force, and measures the figures that the receipt estimates."""
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
        "nearest_mean": nearest_mean(base, photos, tests),
        "warnings": receipt.warnings,
    }


def nearest_mean(base: Path, photos: Path, tests: dict[str, Path]) -> tuple[float, float]:
    """Measures the nearest class mean on the head's inputs, for shipped and for new classes."""
    bundle = open_bundle(base)
    network, preprocessing = load_network(bundle), bundle.manifest.preprocessing
    baseline = NearestClassMean()
    for offset, folder in ((0, tests["known"]), (SHIPPED, photos)):
        found = read(folder, preprocessing)
        baseline.learn(observe(network, found, 64).head_inputs, np.array(found.labels) + offset)
    accuracy = []
    for offset, folder in ((0, tests["shipped"]), (SHIPPED, tests["new"])):
        found = read(folder, preprocessing)
        labels = np.array(found.labels) + offset
        best = baseline.predict(observe(network, found, 64).head_inputs)
        accuracy.append(float(np.mean([(best[labels == c] == c).mean() for c in np.unique(labels)])))
    return accuracy[0], accuracy[1]


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the measured figures and those in the receipts, in %."""
    print("| unseen photos | new | shipped classes | estimated | new classes | nearest mean: shipped / new |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        before, now = (100 * value for value in row["measured_shipped"])
        said = row["estimated_shipped"]
        low, high = said["interval"] if said else (0, 0)
        estimate = f"{100 * said['now']:.1f} [{100 * low:.1f}, {100 * high:.1f}]" if said else "no figure"
        old, new = (100 * value for value in row["nearest_mean"])
        print(
            f"| {row['unseen'] or 'none'} | {row['what']} | {before:.1f} -> {now:.1f} | {estimate} | "
            f"{100 * row['measured_new']:.1f} | {old:.1f} / {new:.1f} |"
        )


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the photos of the base.")] = 120,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    checkpoint: Annotated[Path | None, typer.Option(help="State dict to use instead of training.")] = None,
) -> None:
    """Runs everything, and writes the results."""
    default = find_architecture("resnet18").preprocessing
    preprocessing = default.model_copy(update={"image_size": SIZE, "resize_size": SIZE * 8 // 7})
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        splits = {
            "one class, 14 photos": Split(data, work / "1", 1993, SHIPPED, 1, SHIPPED + 1, FEW),
            "four classes, all photos": Split(data, work / "4", 1993, SHIPPED, 4, SHIPPED + 4, None),
        }
        first = next(iter(splits.values()))
        learnt = first.train(0)
        if checkpoint is None:
            checkpoint = work / "trained.pth"
            torch.save(
                train(read(learnt, preprocessing), preprocessing, epochs, seed).state_dict(), checkpoint
            )
        unseen, measured = half_folders(first.test(0), work)
        for given in (None, unseen):
            config = lwm_edge.PackConfig(architecture="resnet18", image_size=SIZE, unseen_photos=given)
            base = lwm_edge.pack_checkpoint(checkpoint, learnt, work / "base.lwm", config)
            for what, split in splits.items():
                new = split.test_new(1)
                both = work / "both"
                shutil.rmtree(both, ignore_errors=True)
                both.mkdir()
                for path in (*measured.iterdir(), *new.iterdir()):
                    (both / path.name).symlink_to(path.resolve())
                sources = {"given": [learnt], "varied": [learnt], "unseen": [unseen], "all": [learnt, unseen]}
                known = joined(work / "known", sources[base.statistics.photos])
                tests = {"known": known, "shipped": measured, "all": both, "new": new}
                row = increment(base.bundle, split.train(1), tests, work)
                photos = base.unseen.photos if base.unseen else 0
                rows.append(
                    {"what": what, "unseen": photos, "statistics": base.statistics.model_dump(), **row}
                )
                print(json.dumps(rows[-1], indent=1), flush=True)
    described = {"data": data.name, "epochs": epochs, "seed": seed}
    results.write_text(json.dumps({**provenance(), "settings": described, "rows": rows}, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
