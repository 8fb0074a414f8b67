#!/usr/bin/env python3
"""Runs the class-incremental protocol through the public API: some base classes, then some more per step.

    python benchmarks/protocol.py DATA RESULTS.json --arch small_resnet20 --image-size 32 [options]

DATA holds train/<class>/* and test/<class>/*. After every step all classes seen so far compete with each
other (single-headed evaluation), and accuracy is the mean over classes. Runs that RESULTS.json already holds
are not repeated, and all runs of a seed share one base. At the end it prints a table, as `table.py` does.
`figures.py` draws a figure. The bundle after each step stays in RESULTS/SEED/, for `attention_maps.py`.

A method is one of these:

- a recipe, with other settings after a colon if need be (`lwm:gamma=0.3`, `lwm:beta=0`);
- `lwm-l2`, which is `lwm` with a Euclidean distance between the maps in L_AD; the package does not have it;
- one of the baselines `nearest-mean` and `streaming-lda`, on the last feature maps;
- `joint`: all photos of all classes at once, trained as the base is, or with other settings
  (`joint:epochs=10`).

The class order is that of the sorted names, permuted with numpy.random.RandomState(seed); 1993 gives the
order of the field's published CIFAR-100 tables.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch.nn.functional as F
import typer
from provenance import provenance
from table import main as print_table
from torch import Tensor

import lwm_edge
from lwm_edge.cli.settings import FileConfig, base_config, increment_config
from lwm_edge.learning import step as training_step
from lwm_edge.learning.baselines import NearestClassMean, StreamingLda
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.discriminant import Features
from lwm_edge.learning.running import observe
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.evaluation import evaluate_predictions
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache

BASELINES = ("nearest-mean", "streaming-lda")
EUCLIDEAN = "lwm-l2"
WITHOUT_LD = "lwm:beta=0"  # L_C + L_AD, the paper's Table 5
METHODS = ("auto", *RECIPES, WITHOUT_LD, EUCLIDEAN, *BASELINES, "joint")

Step = dict[str, Any]


class Split:
    """Lays out the class folders of a data set in the order of one seed, each step as a folder of links."""

    def __init__(
        self, data: Path, work: Path, seed: int, base: int, step: int, until: int | None, photos: int | None
    ) -> None:
        names = sorted(path.name for path in (data / "train").iterdir())
        order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))][:until]
        self.groups = [order[:base], *(order[i : i + step] for i in range(base, len(order), step))]
        self.data, self.work, self.photos = data, work, photos

    def train(self, group: int) -> Path:
        """Collects the training photos of one step's classes."""
        photos = self.photos if group else None
        return self._folder(f"train{group}", "train", self.groups[group], photos)

    def all_train(self) -> Path:
        """Collects the training photos of all classes for joint training, as many as the steps had."""
        folder = self.work / "train-all"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for group in range(len(self.groups)):
            for path in self.train(group).iterdir():
                (folder / path.name).symlink_to(path)
        return folder

    def test(self, group: int) -> Path:
        """Collects the test photos of all classes up to a step."""
        seen = [name for names in self.groups[: group + 1] for name in names]
        return self._folder(f"test{group}", "test", seen, None)

    def _folder(self, name: str, split: str, classes: list[str], photos: int | None) -> Path:
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        for class_name in classes:
            source, target = self.data / split / class_name, folder / class_name
            target.parent.mkdir(parents=True, exist_ok=True)
            if photos is None:
                target.symlink_to(source.resolve())
                continue
            target.mkdir()
            for photo in sorted(source.iterdir())[:photos]:
                shutil.copy(photo, target)
        return folder


def run_recipe(split: Split, base: Path, method: str, settings: dict[str, Any]) -> list[Step]:
    """Adds the classes step by step to a home, as a device would."""
    home = split.work / "home"
    recipe, chosen = method.partition(":")[0], _settings_of(method)
    euclidean = recipe == EUCLIDEAN
    config = increment_config(FileConfig(), recipe="lwm" if euclidean else recipe, **settings | chosen)
    lwm_edge.init_home(base, home, replace=True)
    steps = [_step(lwm_edge.evaluate(home, split.test(0)), split, 0)]
    for group in range(1, len(split.groups)):
        with _euclidean_attention() if euclidean else nullcontext():
            receipt = lwm_edge.add_classes(home, split.train(group), config, isolate=not euclidean)
        step = _step(lwm_edge.evaluate(home, split.test(group)), split, group)
        measured = {
            "recipe": receipt.recipe,
            "seconds": round(receipt.seconds, 1),
            "peak_rss_bytes": receipt.footprint.peak_rss_bytes,
            "bundle_bytes": receipt.footprint.bundle_bytes,
            "attention_distance": receipt.drift.attention_distance,
        }
        steps.append(step | measured)
        shutil.copy(home / "current" / "model.lwm", bundle_after(split.work, method, group))
        print(f"  {len(step['per_class'])} classes: {step['all']:.3f} ({measured['seconds']} s)", flush=True)
    return steps


def _settings_of(method: str) -> dict[str, str]:
    """Reads the settings after a method's colon."""
    changes = method.partition(":")[2]
    return dict(change.split("=") for change in changes.split(",") if change)


@contextmanager
def _euclidean_attention() -> Iterator[None]:
    """Turns L_AD, in this process, into the Euclidean distance between maps, each divided by its norm."""

    def distance(student_map: Tensor, teacher_map: Tensor) -> Tensor:
        student, teacher = (F.normalize(q.flatten(1), dim=1) for q in (student_map, teacher_map.detach()))
        return (student - teacher).square().sum(1).add(1e-12).sqrt().mean()

    ours = training_step.attention_distillation_loss
    training_step.attention_distillation_loss = distance
    try:
        yield
    finally:
        training_step.attention_distillation_loss = ours


def bundle_after(work: Path, method: str, group: int) -> Path:
    """Returns the path of the bundle of a method after a step."""
    return work / f"{method}-{group}.lwm"


def run_baseline(split: Split, base: Path, method: str) -> list[Step]:
    """Teaches a baseline the last feature maps, globally averaged, of a frozen backbone."""
    network = load_network(open_bundle(base))
    capacity, d = network.head.out_features, network.head.in_features - network.level_values
    baseline = NearestClassMean() if method == "nearest-mean" else StreamingLda(capacity, d)
    test: list[tuple[Features, list[str]]] = []
    steps, names = [], [name for group in split.groups for name in group]
    for group, classes in enumerate(split.groups):
        features, labels = _features(network, split.train(group))
        baseline.learn(features, np.array([names.index(label) for label in labels]))
        only_new = split._folder("test-new", "test", classes, None)
        test.append(_features(network, only_new))
        predictions = baseline.predict(np.concatenate([f for f, _ in test]))
        actual = np.array([names.index(label) for _, group_labels in test for label in group_labels])
        report = evaluate_predictions(predictions, actual, names, len(split.groups[0]))
        steps.append(_step(report, split, group))
    return steps


def run_joint(split: Split, settings: dict[str, Any]) -> list[Step]:
    """Trains on all photos of all classes at once, which no device can do."""
    bundle = split.work / "joint.lwm"
    lwm_edge.build_base(split.all_train(), bundle, base_config(**settings | {"grid": 0}))
    lwm_edge.init_home(bundle, split.work / "home", replace=True)
    last = len(split.groups) - 1
    return [_step(lwm_edge.evaluate(split.work / "home", split.test(last)), split, last)]


def _features(network: Network, folder: Path) -> tuple[Features, list[str]]:
    cache = PixelCache(2**30)
    found = read_photo_folder(folder, network.preprocessing, cache, min_photos=1)
    photos = PhotoSet([p for group in found.photos for p in group], network.preprocessing, cache)
    features = observe(network, photos, 64).head_inputs[:, network.level_values :]
    return features, [found.class_names[label] for label in photos.labels]


def _step(report: lwm_edge.EvaluationReport, split: Split, group: int) -> Step:
    seen = [name for names in split.groups[: group + 1] for name in names]
    assert set(report.per_class) == set(seen)
    old = [report.per_class[name] for name in split.groups[0]]
    new = [report.per_class[name] for name in split.groups[group]]
    return {
        "classes": len(seen),
        "all": report.accuracy,
        "base": float(np.mean(old)),
        "newest": float(np.mean(new)),
        "per_class": {name: round(accuracy, 5) for name, accuracy in report.per_class.items()},
    }


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/<class> and test/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file; runs that it holds are not repeated.")],
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
    epochs: int = 10,
    base_epochs: int = 30,
    weights: str | None = None,
    frozen_blocks: int = 0,
    base_learning_rate: float | None = None,
    base_batch_size: int = 64,
    grid: Annotated[int | None, typer.Option(help="As in build-base; by default, photos decide.")] = None,
    rotations: Annotated[bool, typer.Option("--rotations", help="As in build-base.")] = False,
) -> None:
    """Runs what is missing from RESULTS.json."""
    options = {k: v for k, v in locals().items() if k not in ("data", "results", "method", "seed")}
    for later, default in (("grid", None), ("rotations", False)):
        if options[later] == default:
            del options[later]  # results from before this option do not have it
    options["data"] = data.name
    done = json.loads(results.read_text()) if results.exists() else {"settings": options, "runs": []}
    if done["settings"] != options:
        raise typer.BadParameter(f"{results} holds runs with other settings: {done['settings']}")
    base_settings = {
        "architecture": arch,
        "image_size": image_size,
        "weights": weights,
        "frozen_blocks": frozen_blocks,
        "grid": grid,
        "rotations": rotations,
        "epochs": base_epochs,
        "learning_rate": base_learning_rate,
        "batch_size": base_batch_size,
        "held_back": 0.0,
        "capacity": len(list((data / "train").iterdir())),
    }
    for order in seed:
        work = results.with_suffix("") / str(order)
        split = Split(data, work, order, base_classes, step_classes, until, new_photos)
        base = work / "base.lwm"
        if not base.exists():
            lwm_edge.build_base(split.train(0), base, base_config(**base_settings, seed=order))
        for name in method:
            if any((run["method"], run["seed"]) == (name, order) for run in done["runs"]):
                continue
            print(f"{name}, seed {order}", flush=True)
            started = time.monotonic()
            if name in BASELINES:
                steps = run_baseline(split, base, name)
            elif name.startswith("joint"):
                steps = run_joint(split, base_settings | {"seed": order} | _settings_of(name))
            else:
                steps = run_recipe(
                    split, base, name, {"epochs": epochs, "seed": order, "held_back": 0.001, "force": True}
                )
            seconds = round(time.monotonic() - started)
            run = {"method": name, "seed": order, "seconds": seconds, **provenance(), "steps": steps}
            done["runs"].append(run)
            results.write_text(json.dumps(done))
    print_table([results])


if __name__ == "__main__":
    typer.run(main)
