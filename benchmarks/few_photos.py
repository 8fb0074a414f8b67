#!/usr/bin/env python3
"""Compares lwm-edge with the baselines on classes with few photos, alone or with a class of many photos.

    python benchmarks/few_photos.py BASE.lwm DATA RESULTS.json [--draws 8]

DATA has train/<class>/* and test/<class>/*, the shipped classes of BASE.lwm among them. In each draw five
other classes and five photos of each are drawn at random. A device learns from these photos in one increment,
once alone and once together with all photos of the largest of the remaining classes. Accuracy is measured on
the test photos, as the mean over all classes and over the five small ones. The baselines learn from the last
feature maps, globally averaged, of the shipped classes' training photos and of the same new photos.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from methods import features_of
from provenance import provenance

import lwm_edge
from lwm_edge.learning.baselines import NearestClassMean, StreamingLda
from lwm_edge.model.bundle import Bundle, open_bundle
from lwm_edge.model.loading import load_network

CLASSES, PHOTOS = 5, 5


def draw(data: Path, shipped: tuple[str, ...], seed: int, work: Path) -> tuple[Path, list[str], str]:
    """Copies photos of classes, all drawn at random; returns folder, classes and the largest other class."""
    chance = np.random.RandomState(seed)
    others = sorted(path.name for path in (data / "train").iterdir() if path.name not in shipped)
    small = [others[i] for i in chance.permutation(len(others))[:CLASSES]]
    folder = work / "new"
    shutil.rmtree(folder, ignore_errors=True)
    for name in small:
        (folder / name).mkdir(parents=True)
        photos = sorted((data / "train" / name).iterdir())
        for index in chance.permutation(len(photos))[:PHOTOS]:
            shutil.copy(photos[index], folder / name)
    rest = [name for name in others if name not in small]
    largest = max(rest, key=lambda name: len(list((data / "train" / name).iterdir())))
    return folder, small, largest


def linked(folder: Path, data: Path, split: str, names: list[str]) -> Path:
    """Makes a folder of links to class folders."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).symlink_to((data / split / name).resolve())
    return folder


def measure(base: Bundle, photos: Path, data: Path, small: list[str], work: Path) -> dict[str, list[float]]:
    """Measures the default recipe's and the baselines' accuracy, on all classes and on the small ones."""
    shipped, new = list(base.manifest.class_names), sorted(path.name for path in photos.iterdir())
    test = linked(work / "test", data, "test", [*shipped, *new])
    home = work / "home"
    lwm_edge.init_home(base.path, home, replace=True)
    config = lwm_edge.IncrementConfig(force=True, min_photos=2, held_back=0.001)
    lwm_edge.add_classes(home, photos, config)
    report = lwm_edge.evaluate(home, test)
    found = {"auto": [report.accuracy, float(np.mean([report.per_class[name] for name in small]))]}
    network = load_network(base)
    names = [*shipped, *new]
    d = network.head.in_features - network.level_values
    for method, learner in {
        "nearest-mean": NearestClassMean(),
        "streaming-lda": StreamingLda(len(names), d),
    }.items():
        for folder in (linked(work / "shipped", data, "train", shipped), photos):
            features, labels = features_of(network, folder)
            learner.learn(features, np.array([names.index(label) for label in labels]))
        features, actual = features_of(network, test)
        right = learner.predict(features) == np.array([names.index(label) for label in actual])
        per_class = {name: float(right[np.array(actual) == name].mean()) for name in names}
        found[method] = [
            float(np.mean(list(per_class.values()))),
            float(np.mean([per_class[name] for name in small])),
        ]
    return found


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints means over the draws, and how far `auto` is from the better baseline at worst, in %."""
    print("| new classes | method | all classes | worst draw | the five small ones |\n|---|---|---|---|---|")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        of_kind = [row["accuracy"] for row in rows if row["kind"] == kind]
        for method in of_kind[0]:
            every, small = 100 * np.array([row[method] for row in of_kind]).T
            better = 100 * np.array([max(row[m][0] for m in row if m != "auto") for row in of_kind])
            worst = f"{(every - better).min():+.1f} against the better baseline" if method == "auto" else ""
            mean = f"{every.mean():.1f} ± {every.std(ddof=1):.1f}"
            print(f"| {kind} | {method} | {mean} | {worst} | {small.mean():.1f} |")


def main(
    base: Annotated[Path, typer.Argument(help="The base bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    draws: Annotated[int, typer.Option(min=2, help="Random draws of classes and photos.")] = 8,
) -> None:
    """Runs all draws and writes the results."""
    opened, rows = open_bundle(base), []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for seed in range(draws):
            photos, small, largest = draw(data, opened.manifest.class_names, seed, work)
            many = len(list((data / "train" / largest).iterdir()))
            for kind in ("five of 5 photos", "and the largest class"):
                if kind.startswith("and"):
                    (photos / largest).symlink_to((data / "train" / largest).resolve())
                accuracy = measure(opened, photos, data, small, work)
                largest_has = many if kind.startswith("and") else PHOTOS
                row = {"kind": kind, "draw": seed, "small": small, "largest": largest_has}
                rows.append({**row, "accuracy": accuracy})
                print(json.dumps(rows[-1]), flush=True)
    settings = {"data": data.name, "draws": draws, "base": opened.manifest.model_digest}
    results.write_text(json.dumps({**provenance(), "settings": settings, "rows": rows}, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
