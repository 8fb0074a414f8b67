"""Runs one method through all steps of the class-incremental protocol.

A method is one of these:

- a recipe, with any changed settings after a colon (`lwm:gamma=0.3`, `lwm:beta=0`); the settings of
  `variants.py` are allowed too (`lwm:schedule=cosine`);
- `lwm-l2`, which is `lwm` with a Euclidean distance between the maps in L_AD; the package does not have it;
- one of the baselines `nearest-mean` and `streaming-lda`, on the last feature maps;
- `joint`, which trains on all photos of all classes at once, as the base is trained or with changed settings
  (`joint:epochs=10`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from kept_steps import KeptSteps, Step
from splits import Split
from variants import Variant, applied

import lwm_edge
from lwm_edge import IncrementReport
from lwm_edge.cli.settings import FileConfig, base_config, increment_config
from lwm_edge.home.home import open_home
from lwm_edge.learning.baselines import NearestClassMean, StreamingLda
from lwm_edge.learning.config import RECIPES
from lwm_edge.learning.discriminant import Features
from lwm_edge.learning.running import observe
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.evaluation import TOP, evaluate_ranks
from lwm_edge.model.loading import load_network
from lwm_edge.model.network import Network
from lwm_edge.photos.folders import read_photo_folder
from lwm_edge.photos.photo_set import PhotoSet, PixelCache

BASELINES = ("nearest-mean", "streaming-lda")
WITHOUT_LD = "lwm:beta=0"  # L_C + L_AD, the paper's Table 5
METHODS = ("auto", *RECIPES, WITHOUT_LD, "lwm-l2", *BASELINES, "joint")


def settings_of(method: str) -> dict[str, str]:
    """Reads the settings after a method's colon."""
    changes = method.partition(":")[2]
    return dict(change.split("=") for change in changes.split(",") if change)


def recipe_of(method: str, **settings: Any) -> tuple[lwm_edge.IncrementConfig, Variant]:
    """Returns a recipe's settings, changed by those after its colon, and the variant of the loop."""
    recipe, chosen = method.partition(":")[0], settings | settings_of(method)
    if recipe == "lwm-l2":
        recipe, chosen = "lwm", {"distance": "l2"} | chosen
    variant = {name: chosen.pop(name) for name in Variant.model_fields if name in chosen}
    return increment_config(FileConfig(), recipe=recipe, **chosen), Variant(**variant)


def bundle_after(work: Path, method: str, group: int) -> Path:
    """Returns the path of the bundle that a method has made after a step."""
    return work / f"{method}-{group}.lwm"


def run_recipe(split: Split, base: Path, method: str, settings: dict[str, Any], kept: KeptSteps) -> None:
    """Adds the classes step by step to a home, as a device would, starting after the steps that were kept."""
    home = split.work / f"{method}-home"
    config, variant = recipe_of(method, **settings)
    if kept.steps:
        with open_home(home).lock(wait=True):  # a process of the killed run may still be ending
            pass
    else:
        lwm_edge.init_home(base, home, replace=True)
        kept.add(step_of(lwm_edge.evaluate(home, split.test(0)), split, 0))
    for group in range(len(kept.steps), len(split.groups)):
        if lwm_edge.info(home).increment_count < group:  # not if a killed run has committed this step
            with applied(variant):
                lwm_edge.add_classes(home, split.train(group), config, isolate=variant == Variant())
        step = step_of(lwm_edge.evaluate(home, split.test(group)), split, group)
        receipt = IncrementReport.model_validate_json((home / "current" / "receipt.json").read_bytes())
        measured = {
            "recipe": receipt.recipe,
            "seconds": round(receipt.seconds, 1),
            "peak_rss_bytes": receipt.footprint.peak_rss_bytes,
            "bundle_bytes": receipt.footprint.bundle_bytes,
            "attention_distance": receipt.drift.attention_distance,
        }
        if gpu := receipt.footprint.memory.peak_cuda_bytes:
            measured["peak_cuda_bytes"] = gpu
        shutil.copy(home / "current" / "model.lwm", bundle_after(split.work, method, group))
        kept.add(step | measured)
        print(f"  {step['classes']} classes: {step['all']:.3f} ({measured['seconds']} s)", flush=True)


def run_baseline(split: Split, base: Path, method: str, kept: KeptSteps) -> None:
    """Teaches a baseline in seconds, with a frozen backbone's last feature maps, globally averaged."""
    network = load_network(open_bundle(base))
    capacity, d = network.head.out_features, network.head.in_features - network.level_values
    baseline = NearestClassMean() if method == "nearest-mean" else StreamingLda(capacity, d)
    test: list[tuple[Features, list[str]]] = []
    steps: list[Step] = []
    for group in range(len(split.groups)):
        names = split.seen(group)
        features, labels = features_of(network, split.train(group))
        baseline.learn(features, np.array([names.index(label) for label in labels]))
        test.append(features_of(network, split.test_new(group)))
        ranks = baseline.rank(np.concatenate([features for features, _ in test]))[:, :TOP]
        actual = np.array([names.index(label) for _, group_labels in test for label in group_labels])
        steps.append(step_of(evaluate_ranks(ranks, actual, names, len(split.groups[0])), split, group))
    kept.steps[:] = steps


def run_joint(split: Split, method: str, settings: dict[str, Any], kept: KeptSteps) -> None:
    """Trains on all photos of all classes at once, which no device can do."""
    bundle, home = split.work / "joint.lwm", split.work / "joint-home"
    config = base_config(**settings | settings_of(method) | {"grid": 0})
    lwm_edge.build_base(split.all_train(), bundle, config)
    lwm_edge.init_home(bundle, home, replace=True)
    last = len(split.groups) - 1
    kept.steps[:] = [step_of(lwm_edge.evaluate(home, split.test(last)), split, last)]


def features_of(network: Network, folder: Path) -> tuple[Features, list[str]]:
    """Returns the globally averaged last feature maps of photos in class folders, and each photo's class."""
    cache = PixelCache(2**30)
    found = read_photo_folder(folder, network.preprocessing, cache, min_photos=1)
    photos = PhotoSet([p for group in found.photos for p in group], network.preprocessing, cache)
    features = observe(network, photos, 64).head_inputs[:, network.level_values :]
    return features, [found.class_names[label] for label in photos.labels]


def step_of(report: lwm_edge.EvaluationReport, split: Split, group: int) -> Step:
    """Summarises how well the classes seen up to a step are told apart."""
    assert set(report.per_class) == set(split.seen(group))
    old = [report.per_class[name] for name in split.groups[0]]
    new = [report.per_class[name] for name in split.groups[group]]
    return {
        "classes": len(report.per_class),
        "all": report.accuracy,
        "top5": report.top5_accuracy,
        "base": float(np.mean(old)),
        "newest": float(np.mean(new)),
        "per_class": {name: round(accuracy, 5) for name, accuracy in report.per_class.items()},
    }
