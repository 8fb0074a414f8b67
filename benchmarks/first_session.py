#!/usr/bin/env python3
"""Shows whether `build-base` trains pretrained weights further, and what its trial found.

    python benchmarks/first_session.py DATA RESULTS.json --seed 1993 [--seed 1994] [options]

DATA has train/<class>/*. For each seed, a base of the first ten classes is built, in the class order of
`protocol.py`. That script then shows what the choice is worth: there `--frozen-blocks 0` trains all blocks,
and the number of all blocks leaves them as they are. RESULTS.json gets one more row for each base, and the
table of all rows is printed.
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


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as a Markdown table."""
    print("| data | seed | left out, weights trained | weights as they are | choice | seconds |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        trained, frozen = (f"{100 * row['accuracy'][name]:.1f}" for name in ("trained", "frozen"))
        choice = "as they are" if row["frozen"] else "trained"
        print(f"| {row['data']} | {row['seed']} | {trained} | {frozen} | {choice} | {row['seconds']:.0f} |")


def main(
    data: Annotated[Path, typer.Argument(help="Folder with train/<class>.")],
    results: Annotated[Path, typer.Argument(help="JSON file that gets more rows.")],
    seed: Annotated[list[int], typer.Option(help="Seed of the class order and of the base.")],
    arch: str = "efficientnet_lite0",
    image_size: int = 128,
    classes: Annotated[int, typer.Option(min=4, help="Number of classes in the base.")] = 10,
) -> None:
    """Builds the bases."""
    settings = {"architecture": arch, "image_size": image_size, "weights": "imagenet", "held_back": 0.0}
    rows = json.loads(results.read_text())["runs"] if results.exists() else []
    for order in seed:
        with tempfile.TemporaryDirectory() as folder:
            photos = Split(data, Path(folder), order, classes, classes, None, None).train(0)
            base = lwm_edge.build_base(
                photos, Path(folder) / "base.lwm", base_config(**settings, capacity=classes, seed=order)
            )
        assert base.frozen
        row = {"data": data.name, "seed": order, "classes": classes, "arch": arch, "image_size": image_size}
        row |= {"frozen": base.frozen.frozen, "accuracy": base.frozen.accuracy, "seconds": base.seconds}
        rows.append({**row, **provenance()})
        results.write_text(json.dumps({"runs": rows}, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
