#!/usr/bin/env python3
"""Measures the speed, size and accuracy of each form of the exported file, on a data set of photos.

    python benchmarks/forms.py DATA RESULTS.json [--classes 80]

DATA has train/<class>/* and test/<class>/*. The classifier is an EfficientNet-Lite0 with ImageNet weights at
128 px. Its base knows the first ten classes in the order of seed 1993, trained as in `protocol.py`, and it
learns the others in one increment with the default recipe. `lwm-edge export` then makes each form and
compares it with the classifier on the test photos. For int8, every second test photo is compared, and up to
200 of the others are used for calibration. In the results, the ratios come first; the milliseconds are
medians, measured in one process in which the two files take turns.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from provenance import provenance
from splits import Split

import lwm_edge
from lwm_edge.cli.settings import base_config

FORMS: dict[str, dict[str, Any]] = {
    "static batch 1": {"static_batch": 1},
    "fixed head": {"fixed_head": True},
    "fp16": {"precision": "fp16"},
    "int8": {"precision": "int8"},
    "int8, fixed head, static batch 1": {"precision": "int8", "fixed_head": True, "static_batch": 1},
}


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/ and test/.")],
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    classes: Annotated[int | None, typer.Option(help="Number of classes; by default all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the class order.")] = 1993,
    base_epochs: Annotated[int, typer.Option(help="Epochs of the base.")] = 20,
    frozen_blocks: Annotated[int, typer.Option(help="Blocks that keep their ImageNet weights.")] = 14,
) -> None:
    """Makes the classifier and every form of it, and writes the results."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        total = classes or len(list((data / "train").iterdir()))
        split = Split(data, work / "split", seed, 10, total - 10, total, None)
        settings = {
            "weights": "imagenet",
            "pretrained_share": 0.0,
            "image_size": 128,
            "frozen_blocks": frozen_blocks,
            "batch_size": 32,
        }
        chosen = base_config(
            architecture="efficientnet_lite0",
            epochs=base_epochs,
            seed=seed,
            held_back=0.0,
            **settings,
        )
        lwm_edge.build_base(split.train(0), work / "base.lwm", chosen)
        lwm_edge.init_home(work / "base.lwm", work / "home")
        lwm_edge.add_classes(work / "home", split.train(1), lwm_edge.IncrementConfig(instant=True))
        rows = []
        for name, form in FORMS.items():
            config = lwm_edge.ExportConfig(photos=split.test(1), force=True, **form)
            made = lwm_edge.export_onnx(work / "home", work / "form.onnx", config).comparison
            assert made is not None
            rows.append(
                {
                    "form": name,
                    "length_ratio": round(made.onnx_bytes / made.original_onnx_bytes, 3),
                    "time_ratio": round(made.photo_ms / made.original_photo_ms, 3),
                    **made.model_dump(),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    described = {"data": data.name, "classes": total, "seed": seed, **settings, "base_epochs": base_epochs}
    results.write_text(json.dumps({**provenance(), "settings": described, "forms": rows}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
