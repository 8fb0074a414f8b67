#!/usr/bin/env python3
"""Compares the peak memory of one increment at 224 px with that of a naive loop, in the same run.

    python benchmarks/memory.py RESULTS.json [--arch resnet18 --arch mobilenet_v2]

Each row is measured in separate processes. For the rows of lwm-edge, the public API is called as on a device,
and the figures come from the receipt: the peak resident memory (VmHWM) of the process that learns, and of the
one that exports. The naive loop is written as in a tutorial, with a copy of the network as the teacher, the
whole batch of 32 at once, and torch.optim.SGD. Its figure is the VmHWM of its process. Small photos are
scaled up, because memory does not depend on what they show.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from provenance import provenance

BATCH_SIZE, EPOCHS = 32, 2
EPOCHS_FOR_20_UPDATES = 10  # from 20 updates on, the plan may keep freed memory, to save time
NEW_CLASSES = ("Shirt", "Sneaker")
MIB = 2**20
FROZEN = {"resnet18": 8, "mobilenet_v2": 14}  # conv1 to layer2; the first 14 of 19 feature blocks


def photos(folder: Path, classes: tuple[str, ...], count: int = 40) -> Path:
    """Copies the demo's photos of some classes into class folders."""
    from lwm_edge.demo import DEMO_DATA

    for name in classes:
        (source,) = (DEMO_DATA / "train").glob(f"*/{name}")
        (folder / name).mkdir(parents=True)
        for path in sorted(source.iterdir())[:count]:
            shutil.copy(path, folder / name)
    return folder


def make_base(arch: str, folder: Path) -> Path:
    """Makes a base of one architecture at 224 px, hardly trained, because weights do not matter here.

    The grid is given: random weights would choose one at random, and a finer one takes more memory.
    """
    import torch

    import lwm_edge
    from lwm_edge.model.architectures.registry import find_architecture

    torch.save(find_architecture(arch).build().state_dict(), folder / "start.pth")
    training = {"checkpoint": folder / "start.pth", "epochs": 1, "batch_size": 8, "augment": False}
    config = lwm_edge.BaseConfig(architecture=arch, capacity=64, grid=1, **training)
    lwm_edge.build_base(photos(folder / "base", ("Coat", "Bag"), count=8), folder / "base.lwm", config)
    return folder / "base.lwm"


def increment(base: Path, folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Makes one increment through the public API, and returns its figures."""
    import lwm_edge
    from lwm_edge.cli.settings import FileConfig, increment_config

    lwm_edge.init_home(base, folder / "home", replace=True)
    # the photos are too few, and too much alike, for a model that the gate would accept
    fixed = {"recipe": "lwm", "batch_size": BATCH_SIZE, "device": "cpu", "epochs": EPOCHS, "force": True}
    config = increment_config(FileConfig(), **fixed | settings)
    if config.max_memory is None and config.frozen_blocks:
        plan = lwm_edge.plan_increment(folder / "home", folder / "new", config)
        config = config.model_copy(update={"max_memory": plan.smallest_limit_bytes})
    receipt = lwm_edge.add_classes(folder / "home", folder / "new", config)
    return {
        "peak_rss_bytes": receipt.footprint.peak_rss_bytes,
        "peak_anonymous_bytes": receipt.footprint.memory.peak_anonymous_bytes,
        "export_peak_rss_bytes": receipt.footprint.export_peak_rss_bytes,
        "predicted_bytes": receipt.plan.predicted_peak_rss_bytes,
        "limit_bytes": receipt.plan.limit_bytes,
        "micro_batch_size": receipt.plan.micro_batch_size,
        "keeps_freed_memory": receipt.plan.keeps_freed_memory,
        "step_ms": receipt.training.step_ms if receipt.training else None,
    }


def naive(base: Path, folder: Path) -> None:
    """Runs the loop as a tutorial would write it, and prints the figures as JSON."""
    import time

    import numpy as np
    import torch

    from lwm_edge.learning.attention import attention_map
    from lwm_edge.learning.losses import attention_distillation_loss, classification_loss, distillation_loss
    from lwm_edge.memory import peak_rss_bytes
    from lwm_edge.model.bundle import open_bundle
    from lwm_edge.model.loading import load_network
    from lwm_edge.photos.reading import read_photo

    network = load_network(open_bundle(base))
    preprocessing = network.preprocessing
    paths = sorted((folder / "new").glob("*/*"))
    names = [path.parent.name for path in paths]
    images = torch.from_numpy(np.stack([read_photo(path, preprocessing) for path in paths]))
    labels = torch.tensor([network.classes + NEW_CLASSES.index(name) for name in names])
    student = copy.deepcopy(network)
    teacher = copy.deepcopy(network)
    student.add_classes(len(NEW_CLASSES), torch.Generator().manual_seed(0))
    student.requires_grad_(True)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    N, steps, started = teacher.classes, 0, time.monotonic()
    for _ in range(EPOCHS):
        for part in torch.randperm(len(images)).split(BATCH_SIZE):
            features, logits = student(images[part])
            with torch.no_grad():
                teacher_features, teacher_logits = teacher(images[part])
            b = logits[:, :N].argmax(1)
            loss = classification_loss(logits, labels[part], N, "sigmoid")
            loss = loss + distillation_loss(logits[:, :N], teacher_logits)
            loss = loss + attention_distillation_loss(
                attention_map(features, student.attention_weight, b),
                attention_map(teacher_features, teacher.attention_weight, b),
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    step_ms = 1000 * (time.monotonic() - started) / steps
    print(
        json.dumps({"peak_rss_bytes": peak_rss_bytes(), "step_ms": step_ms, "micro_batch_size": BATCH_SIZE})
    )


def run_arch(arch: str, folder: Path) -> list[dict[str, Any]]:
    """Measures all rows of one architecture."""
    base = make_base(arch, folder)
    photos(folder / "new", NEW_CLASSES)
    command = [sys.executable, __file__, "--naive", str(base), str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [{"what": "naive loop", **json.loads(out.splitlines()[-1])}]
    frozen = FROZEN.get(arch, 0)
    for what, settings in (
        ("lwm-edge, no limit set", {"epochs": EPOCHS_FOR_20_UPDATES}),
        ("lwm-edge, no limit set, little to do", {}),
        ("lwm-edge, 600 MiB", {"max_memory": "600MiB"}),
        ("lwm-edge, one image at a time", {"micro_batch_size": 1}),
        (f"lwm-edge, first {frozen} blocks frozen, the smallest limit", {"frozen_blocks": frozen}),
    ):
        try:
            rows.append({"what": what, **increment(base, folder, settings)})
        except Exception as error:
            rows.append({"what": what, "refused": str(error)})
    return [{"arch": arch, **row} for row in rows]


def show(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a Markdown table."""
    print(
        "| network | what | peak MiB | share of naive | predicted | limit | export MiB | micro-batch", end=""
    )
    print(" | ms per step | share of naive time |")
    print("|---" * 10 + "|")
    for row in rows:
        if "refused" in row:
            print(f"| {row['arch']} | {row['what']} | refused: {row['refused'].splitlines()[0]} |")
            continue
        whole = next(r for r in rows if (r["arch"], r["what"]) == (row["arch"], "naive loop"))
        figures = [f"{row['peak_rss_bytes'] / MIB:.0f}"]
        figures += [f"{row['peak_rss_bytes'] / whole['peak_rss_bytes']:.2f}"]
        compared = ("predicted_bytes", "limit_bytes", "export_peak_rss_bytes")
        figures += [f"{row[name] / MIB:.0f}" if name in row else "" for name in compared]
        figures += [str(row["micro_batch_size"]), f"{row['step_ms']:.0f}"]
        figures += [f"{row['step_ms'] / whole['step_ms']:.2f}"]
        print(f"| {row['arch']} | {row['what']} | " + " | ".join(figures) + " |")


def main(
    results: Path,
    arch: Annotated[list[str], typer.Option()] = ["resnet18", "mobilenet_v2"],  # noqa: B006
) -> None:
    """Measures all networks, writes the results and prints them as a table."""
    rows = []
    for name in arch:
        with tempfile.TemporaryDirectory() as folder:
            rows += run_arch(name, Path(folder))
    results.write_text(json.dumps([row | provenance() for row in rows], indent=1))
    show(rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--naive"]:
        naive(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        typer.run(main)
