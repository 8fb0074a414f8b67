#!/usr/bin/env python3
"""Measures scores that tell unknown objects from known ones, and how many photos their thresholds keep.

    python benchmarks/unknown.py BASE.lwm DATA RESULTS.json [--name lite0] [--features FILE.npz]

DATA has train/<class>/* and test/<class>/*, the shipped classes of BASE.lwm among them. The base's network
is run once on the photos; --features names the file that keeps the values that its head reads. In each of
three splits, half of the classes are known: the shipped ones and others drawn at random (or, if more than
half are shipped, one other class and shipped ones drawn at random). A device learns the known classes that
were not shipped, ten at a time, without any old photo, and solves the head again each time. The script
measures

- the scores: how well each score tells known test photos from unknown ones (AUROC), and how many unknown
  photos lie below a threshold that keeps 95% of the known ones;
- how long a threshold stays valid: it is set once for each score, on held-back photos of the first classes.
  How many other photos of these classes does it keep after the other classes have been added?
- the thresholds that the package sets on a device, from histograms of the scores. How many photos of the
  first and of the added classes do they keep, and how many unknown ones do they flag? The added classes'
  photos are divided into training and test photos first as the set divides them, then at random, ten times.
  Finally the threshold is calibrated on half of the test photos, as by `lwm-edge calibrate`, and measured on
  the other half;
- the base alone: shipped classes against all others;
- strange objects: photos of another set (--others DATA2), and noise.

Each run adds the setting --name to RESULTS.json, or replaces it, and prints the tables; --draw draws the
curves of all settings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from provenance import provenance

from lwm_edge.learning.class_statistics import ClassStatistics
from lwm_edge.learning.discriminant import Features, Head, Labels, shrink
from lwm_edge.learning.running import observe
from lwm_edge.learning.unknown import score_tensors
from lwm_edge.learning.unseen import judge_unseen
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.model.terms import KEPT
from lwm_edge.model.unknown import count_scores, known_scores, lowest_kept
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache
from lwm_edge.photos.reading import read_photo

STEP, SPLITS, DRAWS, STRANGE = 10, 3, 10, 300
PACKAGE_SCORE = "relative distance"


class Data(NamedTuple):
    """Holds the values that a base's head reads from each class's photos.

    Attributes:
        train: Values from each class's training photos, by name [M, d].
        test: Values from each class's test photos, by name [M, d].
        levels: Ranges of values: those from earlier blocks, if there are any, and those from the last maps.
        head: Trained head of the base: weight and bias.
        shipped: Names of the base's classes in class_index order.
        strange: Values from pictures that are nothing like the set, by kind [M, d].
    """

    train: dict[str, Features]
    test: dict[str, Features]
    levels: list[slice]
    head: Head
    shipped: list[str]
    strange: dict[str, Features]


def read(base: Path, data: Path, others: Path | None, cache: Path | None, most: int) -> Data:
    """Reads the values of a set and of strange objects, from at most `most` photos of each class."""
    bundle = open_bundle(base)
    network = load_network(bundle)
    arrays: dict[str, NDArray[Any]] = {}
    if cache and cache.exists():
        arrays = dict(np.load(cache))
    else:
        for split in ("train", "test"):
            found = read_photo_folder(data / split, network.preprocessing, PixelCache(2**31), min_photos=1)
            photos = PhotoSet(
                [p for group in found.photos for p in group[:most]], network.preprocessing, PixelCache(0)
            )
            arrays[f"{split}_x"] = observe(network, photos, 64).head_inputs.astype(np.float32)
            arrays[f"{split}_y"] = np.array([found.class_names[label] for label in photos.labels])
        if others:
            arrays["others_x"], arrays["noise_x"] = read_strange(network, others)
        if cache:
            np.savez(cache, **arrays)  # type: ignore[arg-type]
    by_class = {
        split: {
            str(name): arrays[f"{split}_x"][arrays[f"{split}_y"] == name][:most].astype(np.float64)
            for name in np.unique(arrays[f"{split}_y"])
        }
        for split in ("train", "test")
    }
    weight, bias = (tensor.double().numpy() for tensor in network.head_tensors())
    inputs, values = weight.shape[1], network.level_values
    levels = [slice(0, values), slice(values, inputs)] if values else [slice(0, inputs)]
    names = list(bundle.manifest.class_names)
    strange = {k: arrays[f"{k}_x"].astype(np.float64) for k in ("others", "noise") if f"{k}_x" in arrays}
    return Data(by_class["train"], by_class["test"], levels, Head(weight, bias), names, strange)


def read_strange(network: Network, others: Path) -> list[NDArray[np.float32]]:
    """Runs a network on photos of another set and on noise."""
    chance = np.random.RandomState(0)
    paths = sorted((others / "test").glob("*/*"))
    paths = [paths[i] for i in chance.permutation(len(paths))[:STRANGE]]
    size = network.preprocessing.image_size
    images = np.stack([read_photo(path, network.preprocessing) for path in paths])
    noise = chance.randint(0, 256, (STRANGE // 5, size, size, 3)).astype(np.uint8)
    found = []
    for pixels in (images, noise):
        with torch.no_grad():
            parts = [
                network.activations(torch.from_numpy(part)).pooled() for part in np.array_split(pixels, 10)
            ]
        found.append(torch.cat(parts).numpy())
    return found


def auroc(known: Features, unknown: Features) -> float:
    """Computes the probability that a known photo scores above an unknown one; ties count half."""
    _, inverse, counts = np.unique(np.concatenate([known, unknown]), return_inverse=True, return_counts=True)
    ranks = (counts.cumsum() - (counts - 1) / 2)[inverse[: len(known)]]
    above = ranks.sum() - len(known) * (len(known) + 1) / 2
    return float(above / (len(known) * len(unknown)))


def flagged(known: Features, unknown: Features) -> float:
    """Computes the share of unknown photos that score below 95% of the known ones."""
    return float((unknown < np.quantile(known, 1 - KEPT)).mean())


class Scores:
    """Computes photos' scores from the known classes' statistics; the larger, the more like these classes."""

    def __init__(self, statistics: ClassStatistics, classes: int, levels: list[slice]) -> None:
        self._head = statistics.solve_head(classes)
        self._means = statistics.means[:classes]
        covariance = shrink(statistics.covariance, statistics.photos, statistics.level_values)
        self._by_level = [
            (part, np.linalg.inv(shrink(statistics.covariance[part, part].copy(), statistics.photos)))
            for part in levels
        ]
        self._precision = np.linalg.inv(covariance)
        self._tensors = score_tensors(statistics, classes)

    def of(self, photos: Features) -> dict[str, Features]:
        """Computes each score of each photo [M]."""
        logits = self._head.logits(photos)
        largest = logits.max(1)
        energy = largest + np.log(np.exp(logits - largest[:, None]).sum(1))
        nearest = _distances(photos, self._means, self._precision).min(1)
        by_level = [
            _distances(photos[:, part], self._means[:, part], precision).min(1) / precision.shape[0]
            for part, precision in self._by_level
        ]
        return {
            "largest logit": largest,
            "energy": energy,
            "largest probability": largest - energy,
            "distance": -nearest,
            PACKAGE_SCORE: known_scores(photos, self._tensors, len(self._means)),
            "nearest level": -np.min(by_level, 0),
        }


def _distances(photos: Features, means: Features, precision: Features) -> Features:
    """Computes squared distances from class means, by the inverse of a covariance [M, classes]."""
    moved, of_means = photos @ precision, means @ precision
    squares = (moved * photos).sum(1)[:, None] + (of_means * means).sum(1)[None]
    distances: Features = squares - 2 * moved @ means.T
    return distances


class Split(NamedTuple):
    """Holds one split's known classes, in the order in which they are learnt, and its unknown ones."""

    first: list[str]
    added: list[str]
    unknown: list[str]


def split_classes(data: Data, seed: int) -> Split:
    """Chooses half of the classes at random as the known ones."""
    chance = np.random.RandomState(seed)
    shipped = [name for name in data.shipped if name in data.test]
    others = [name for name in sorted(data.test) if name not in shipped]
    half = (len(shipped) + len(others)) // 2
    if len(shipped) > half:
        shipped = [shipped[i] for i in chance.permutation(len(shipped))[: half - 1]]
    drawn = [others[i] for i in chance.permutation(len(others))]
    added = drawn[: half - len(shipped)]
    return Split(shipped, added, drawn[len(added) :])


def together(by_class: dict[str, Features], names: list[str]) -> tuple[Features, Labels]:
    """Joins the photos of some classes, labelled by the classes' places in the list."""
    labels = np.concatenate([np.full(len(by_class[name]), label) for label, name in enumerate(names)])
    return np.concatenate([by_class[name] for name in names]), labels


def halves(photos: dict[str, Features], names: list[str], seed: int) -> tuple[dict[str, Features], ...]:
    """Halves the photos of some classes at random."""
    chance = np.random.RandomState(seed)
    orders = {name: chance.permutation(len(photos[name])) for name in names}
    return tuple(
        {name: photos[name][np.array_split(order, 2)[half]] for name, order in orders.items()}
        for half in (0, 1)
    )


def simulate_device(
    data: Data, split: Split, train: dict[str, Features], test: dict[str, Features], seed: int
) -> dict[str, Any]:
    """Learns the added classes step by step, and measures the thresholds that the package would set."""
    names, capacity = [*split.first, *split.added], len(split.first) + len(split.added)
    given, kept_back = halves(test, split.first, seed)
    statistics = ClassStatistics.empty(capacity, data.head.weight.shape[1], data.levels[-1].start)
    statistics.learn(*together(train, split.first))
    x, y = together(given, split.first)
    statistics.learn_more(x, y)
    unseen = judge_unseen(statistics.discriminant(len(split.first), x, y), capacity).scores
    histogram = count_scores(unseen, y, capacity)
    stages: list[dict[str, float]] = []
    known, tensors = len(split.first), score_tensors(statistics, len(split.first))
    unknown = np.concatenate([test[name] for name in split.unknown])
    first = together(kept_back, split.first)[0]
    while True:
        score = lowest_kept(histogram, KEPT)
        added = [test[name] for name in names[len(split.first) : known]]
        keeps = {"first": first, "unknown": unknown, **({"added": np.concatenate(added)} if added else {})}
        stages.append(
            {"classes": known}
            | {k: share_kept(known_scores(v, tensors, known), score) for k, v in keeps.items()}
        )
        if known == len(names):
            break
        new = names[known : known + STEP]
        x, y = together(train, new)
        y += known
        known += len(new)
        statistics.learn(x, y)
        unseen = judge_unseen(statistics.discriminant(known, x, y), capacity).scores
        histogram += count_scores(unseen, y, capacity)
        tensors = score_tensors(statistics, known)
    own, others = halves({**test, **kept_back}, names, seed)
    x, y = together(own, names)
    score = lowest_kept(count_scores(known_scores(x, tensors, known), y, capacity), KEPT)
    measured = {"known": together(others, names)[0], "unknown": unknown}
    calibrated = {k: share_kept(known_scores(v, tensors, known), score) for k, v in measured.items()}
    return {"stages": stages, "calibrated": calibrated}


def share_kept(scores: Features, lowest: float | None) -> float:
    """Computes the share of photos that a threshold keeps; without a threshold, all are kept."""
    return 1.0 if lowest is None else float((scores >= lowest).mean())


def largest(photos: Features, head: Head) -> Features:
    """Computes the largest logit of each photo."""
    found: Features = head.logits(photos).max(1)
    return found


def scores_of_split(data: Data, split: Split, seed: int) -> dict[str, dict[str, Any]]:
    """Measures each score once all known classes are learnt, and how many photos an old threshold keeps."""
    names = [*split.first, *split.added]
    given, kept_back = halves(data.test, split.first, seed)
    x, y = together(data.train, names)
    sizes = sorted({len(split.first), *range(len(split.first), len(names), STEP), len(names)})
    found: dict[str, dict[str, Any]] = {}
    thresholds: dict[str, float] = {}
    for size in sizes:
        statistics = ClassStatistics.empty(len(names), x.shape[1], data.levels[-1].start)
        statistics.learn(x[y < size], y[y < size])
        scores = Scores(statistics, size, data.levels)
        first = scores.of(together(kept_back, split.first)[0])
        if not thresholds:
            at_first = scores.of(together(given, split.first)[0])
            thresholds = {name: float(np.quantile(s, 1 - KEPT)) for name, s in at_first.items()}
        for name, values in first.items():
            found.setdefault(name, {"kept_of_first": []})
            found[name]["kept_of_first"].append((size, float((values >= thresholds[name]).mean())))
    known, unknown = (scores.of(together(data.test, part)[0]) for part in (names, split.unknown))
    strange = {kind: scores.of(values) for kind, values in data.strange.items()}
    shares = np.linspace(0.5, 1, 51)
    for name, of_known in known.items():
        found[name]["auroc"] = auroc(of_known, unknown[name])
        found[name]["flagged"] = flagged(of_known, unknown[name])
        found[name]["strange"] = {kind: auroc(of_known, s[name]) for kind, s in strange.items()}
        below = np.quantile(of_known, 1 - shares)
        found[name]["curve"] = [round(float((unknown[name] < b).mean()), 4) for b in below]
    return found


def random_folders(data: Data, split: Split, seed: int) -> tuple[dict[str, Features], dict[str, Features]]:
    """Splits each added class's photos at random, with as many training photos as in the set's own split."""
    chance, train, test = np.random.RandomState(seed), dict(data.train), dict(data.test)
    for name in split.added:
        both = np.concatenate([data.train[name], data.test[name]])
        both = both[chance.permutation(len(both))]
        train[name], test[name] = np.split(both, [len(data.train[name])])
    return train, test


def base_alone(data: Data) -> dict[str, float]:
    """Measures how well largest logits and the package's score tell shipped classes from others (AUROC)."""
    known = np.concatenate([data.test[name] for name in data.shipped if name in data.test])
    unknown = np.concatenate([photos for name, photos in data.test.items() if name not in data.shipped])
    names = [name for name in data.shipped if name in data.train]
    statistics = ClassStatistics.empty(len(names), known.shape[1], data.levels[-1].start)
    statistics.learn(*together(data.train, names))
    heads = {"trained": data.head, "solved": statistics.solve_head(len(names))}
    found = {name: auroc(largest(known, head), largest(unknown, head)) for name, head in heads.items()}
    tensors = score_tensors(statistics, len(names))
    ours = (known_scores(photos, tensors, len(names)) for photos in (known, unknown))
    return {**found, PACKAGE_SCORE: auroc(*ours)}


def measure(data: Data) -> dict[str, Any]:
    """Makes all measurements of one setting, except those of the base alone."""
    scores, own = [], []
    for seed in range(SPLITS):
        split = split_classes(data, seed)
        scores.append(scores_of_split(data, split, seed))
        own.append(simulate_device(data, split, data.train, data.test, seed))
        print(json.dumps({name: (s["auroc"], s["flagged"]) for name, s in scores[-1].items()}), flush=True)
    random = []
    for seed in range(DRAWS):
        split = split_classes(data, 0)
        random.append(simulate_device(data, split, *random_folders(data, split, seed), seed))
        print(json.dumps(random[-1]["stages"][-1]), flush=True)
    split = split_classes(data, 0)
    classes = {"known": len(split.first) + len(split.added), "unknown": len(split.unknown)}
    return {"classes": classes, "scores": scores, "own_split": own, "random_split": random}


def _mean(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f}"


def print_tables(runs: list[dict[str, Any]]) -> None:
    """Prints the tables of all settings, in %."""
    print("AUROC / unknown photos flagged if 95% of known ones are kept / first classes' photos still kept\n")
    print("| score | " + " | ".join(run["name"] for run in runs) + " |\n|---" + "|---" * len(runs) + "|")
    for score in runs[0]["scores"][0]:
        cells = []
        for run in runs:
            found = [s[score] for s in run["scores"]]
            kept = [f["kept_of_first"][-1][1] for f in found]
            parts = ([f["auroc"] for f in found], [f["flagged"] for f in found], kept)
            cells.append(" / ".join(map(_mean, parts)))
        print(f"| {score} | " + " | ".join(cells) + " |")
    print("\nAUROC of photos of another set / of noise\n")
    with_strange = [run for run in runs if run["scores"][0][PACKAGE_SCORE]["strange"]]
    print("| score | " + " | ".join(run["name"] for run in with_strange) + " |")
    print("|---" * (len(with_strange) + 1) + "|")
    for score in runs[0]["scores"][0]:
        cells = []
        for run in with_strange:
            found = [s[score]["strange"] for s in run["scores"]]
            cells.append(" / ".join(_mean([f[kind] for f in found]) for kind in found[0]))
        print(f"| {score} | " + " | ".join(cells) + " |")
    print(
        "\nOn a device: photos kept of the first classes / of the added ones / unknown photos flagged; once "
        "calibrated: photos kept of all known classes / unknown photos flagged\n"
    )
    ends = ("in the end, own split", "in the end, random split", "calibrated, own", "calibrated, random")
    print(f"| base | at first | {' | '.join(ends)} |\n|---|---|---|---|---|---|")
    for run in runs:
        own, random = run["own_split"], run["random_split"]
        first = [(r["stages"][0]["first"], 1 - r["stages"][0]["unknown"]) for r in own]
        ends = [[r["stages"][-1] for r in rows] for rows in (own, random)]
        cells = [" / ".join(map(_mean, zip(*first, strict=True)))]
        for rows in ends:
            parts = [[s["first"] for s in rows], [s["added"] for s in rows], [1 - s["unknown"] for s in rows]]
            cells.append(" / ".join(map(_mean, parts)))
        for rows in (own, random):
            again = [r["calibrated"] for r in rows]
            cells.append(f"{_mean([c['known'] for c in again])} / {_mean([1 - c['unknown'] for c in again])}")
        print(f"| {run['name']} | " + " | ".join(cells) + " |")
    print("\nAUROC of shipped classes against all others\n")
    print(f"| base | largest logit, trained head | largest logit, solved head | {PACKAGE_SCORE} |")
    print("|---|---|---|---|")
    for run in runs:
        cells = [_mean([run["alone"][name]]) for name in ("trained", "solved", PACKAGE_SCORE)]
        print(f"| {run['name']} | {' | '.join(cells)} |")


def draw(runs: list[dict[str, Any]], output: Path) -> None:
    """Plots the share of unknown photos that each score flags against the share of known ones it keeps."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(runs), figsize=(3.4 * len(runs), 3.4), layout="constrained", sharey=True, squeeze=False
    )
    for run, axes in zip(runs, panels[0], strict=True):
        for score in run["scores"][0]:
            curve = 100 * np.mean([s[score]["curve"] for s in run["scores"]], axis=0)
            axes.plot(100 * np.linspace(0.5, 1, 51), curve, label=score)
        axes.axvline(100 * KEPT, color="grey", linewidth=0.8, linestyle="--")
        axes.set(title=run["name"], xlabel="known photos kept (%)")
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("unknown photos flagged (%)")
    panels[0][-1].legend(fontsize=7)
    figure.savefig(output, dpi=110)


def main(
    base: Annotated[Path, typer.Argument(help="The base bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file that gets the setting.")],
    name: Annotated[str, typer.Option(help="Name of the setting in the tables.")] = "base",
    others: Annotated[Path | None, typer.Option(help="Another set, all of it unknown.")] = None,
    features: Annotated[Path | None, typer.Option(help="File that keeps the values for the head.")] = None,
    most_photos: Annotated[int, typer.Option(min=2, help="Largest number of photos per class.")] = 1000,
    output: Annotated[Path | None, typer.Option("--draw", help="PNG file with the curves.")] = None,
) -> None:
    """Measures one setting, and prints the tables of all settings."""
    read_data = read(base, data, others, features, most_photos)
    done = json.loads(results.read_text()) if results.exists() else {"runs": []}
    done["runs"] = [run for run in done["runs"] if run["name"] != name]
    setting = {"name": name, "data": data.name, "most_photos": most_photos}
    run = {**setting, **provenance(), **measure(read_data), "alone": base_alone(read_data)}
    done["runs"].append(run)
    results.write_text(json.dumps(done) + "\n")
    print_tables(done["runs"])
    if output:
        draw(done["runs"], output)


if __name__ == "__main__":
    typer.run(main)
