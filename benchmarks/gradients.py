#!/usr/bin/env python3
"""Shows how strongly each term of the loss pulls at the backbone while the paper's loop learns new classes.

    python benchmarks/gradients.py DATA OUT.json --arch small_resnet20 --image-size 32 [--change CHANGE ...]

The setting is that of `sweep.py`, which reads no test photos. A few times per epoch, the gradient of each
weighted term is computed separately, for the same batch: its norm over the backbone's trained parameters, and
the cosine of the angle between those of L_D and L_AD. The script also notes the distance between the maps
(L_AD itself) and how often student and teacher rank the same base class highest. It prints a Markdown table
with the mean of each over an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import torch
import typer
from methods import recipe_of
from provenance import provenance
from splits import Split
from sweep import read_material, run_trial
from torch import Tensor
from trials import method_of

import lwm_edge
from lwm_edge.cli.settings import base_config
from lwm_edge.learning import step
from lwm_edge.learning.batches import Batch
from lwm_edge.learning.config import Recipe
from lwm_edge.model.network import Network
from lwm_edge.outputs import write_output

TERMS = ("L_C", "beta L_D", "gamma L_AD")
UPDATES_BETWEEN = 5
EPOCHS_SHOWN = (1, 2, 5, 10, 20)


class Watch:
    """Measures the terms' gradients before some updates."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.measured: list[dict[str, Any]] = []
        self._accumulate = step._accumulate

    def accumulate(
        self,
        student: Network,
        teacher: Network,
        batch: Batch,
        parts: Iterator[Any],
        recipe: Recipe,
        classification: Any,
    ) -> Any:
        """Accumulates a batch's gradients as the package does, and sometimes measures them first."""
        kept = list(parts)
        if batch.step % UPDATES_BETWEEN == 0:
            (shared, labels), classes = kept[0], student.classes
            found = self._measure(student, teacher, shared, torch.tensor(labels), recipe, classification)
            self.measured.append({"classes": classes, "update": batch.step, **found})
        return self._accumulate(student, teacher, batch, iter(kept), recipe, classification)

    def _measure(
        self, student: Network, teacher: Network, shared: Any, labels: Tensor, recipe: Recipe, kind: Any
    ) -> dict[str, float]:
        with torch.no_grad():
            of_teacher = teacher.after_stem(shared)
        of_student = student.after_stem(shared)
        losses = step.lwm_losses(
            student,
            teacher,
            of_student,
            of_teacher,
            labels,
            beta=recipe.beta,
            gamma=recipe.gamma,
            classification=kind,
        )
        backbone = [p for p in student.backbone.parameters() if p.requires_grad]
        weighted = (losses[0], recipe.beta * losses[1], recipe.gamma * losses[2])  # type: ignore[operator]
        C, D, AD = (_gradient(term, backbone) for term in weighted)
        best = [logits[:, : teacher.classes].argmax(1) for logits in (of_student[1], of_teacher[1])]
        return {
            **{name: float(g.norm()) for name, g in zip(TERMS, (C, D, AD), strict=True)},
            "cosine": float(torch.cosine_similarity(D, AD, dim=0)),
            "distance": float(losses[2].detach()),  # type: ignore[union-attr]
            "same class": float((best[0] == best[1]).float().mean()),
        }


def _gradient(loss: Tensor, parameters: list[Any]) -> Tensor:
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    pairs = zip(found, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten().float() for g, p in pairs])


def by_epoch(measured: list[dict[str, Any]], epochs: int) -> list[dict[str, Any]]:
    """Averages what was measured over each epoch of each step."""
    rows = []
    for classes in sorted({row["classes"] for row in measured}):
        of_step = [row for row in measured if row["classes"] == classes]
        per_epoch = (max(row["update"] for row in of_step) + UPDATES_BETWEEN) / epochs
        for epoch in range(1, epochs + 1):
            chosen = [row for row in of_step if int(row["update"] / per_epoch) + 1 == epoch]
            names = (*TERMS, "cosine", "distance", "same class")
            means = {name: round(float(np.mean([row[name] for row in chosen])), 4) for name in names}
            rows.append({"classes": classes, "epoch": epoch, **means})
    return rows


def print_table(runs: list[dict[str, Any]]) -> None:
    """Prints the means of some epochs for each setting."""
    print("| change | classes | epoch | " + " | ".join(TERMS) + " | cosine | L_AD | same class |")
    print("|---" * (6 + len(TERMS)) + "|")
    for run in runs:
        for row in run["rows"]:
            if row["epoch"] in EPOCHS_SHOWN:
                norms = " | ".join(f"{row[name]:.2f}" for name in TERMS)
                change = f"`{run['trial']}`" if run["trial"] else "the lead"
                print(
                    f"| {change} | {row['classes']} | {row['epoch']} | {norms} | {row['cosine']:.2f} "
                    f"| {row['distance']:.2f} | {row['same class']:.0%} |"
                )


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>.")],
    results: Annotated[Path, typer.Argument(metavar="OUT.json", help="File to write.")],
    arch: Annotated[str, typer.Option()],
    image_size: Annotated[int, typer.Option()],
    change: Annotated[list[str], typer.Option(help="Changes to the lead, as in sweep.py.")] = [""],  # noqa: B006
    seed: int = 7,
    base_classes: int = 10,
    step_classes: int = 10,
    until: int = 30,
    new_photos: int = 100,
    held_out: int = 100,
    base_epochs: int = 30,
) -> None:
    """Trains with each setting, and writes what was measured."""
    work = results.with_suffix("") / str(seed)
    split = Split(data, work, seed, base_classes, step_classes, until, new_photos, held_out)
    base = work / "base.lwm"
    if not base.exists():
        settings = {"architecture": arch, "image_size": image_size, "epochs": base_epochs, "grid": 0}
        settings |= {"learning_rate": 0.1, "held_back": 0.0}
        lwm_edge.build_base(split.train(0), base, base_config(**settings, seed=seed))
    material, runs = read_material(split, base, seed), []
    for changes in change:
        method = method_of("lwm", changes)
        watch = Watch(recipe_of(method)[0].epochs)
        with patch.object(step, "_accumulate", watch.accumulate):
            accuracies = [round(found["all"], 4) for found in run_trial(material, method, seed, "float32")]
        rows = by_epoch(watch.measured, watch.epochs)
        runs.append({"trial": changes, "seed": seed, "accuracy": accuracies, "rows": rows, **provenance()})
    write_output(results, json.dumps({"runs": runs}).encode())
    print_table(runs)


if __name__ == "__main__":
    typer.run(main)
