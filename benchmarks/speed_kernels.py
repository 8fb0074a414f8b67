#!/usr/bin/env python3
"""Shows how the time of a training step is divided among kinds of operations.

    python benchmarks/speed_kernels.py RESULTS.json [--rounds 10] [--arch resnet18 ...]

The steps are those of `speed_training.py`, on one thread, with all blocks trained. torch's profiler adds up
the time of each operation. The table has the time of the convolutions, of batch normalisation and of all
else, as a share of a fine-tuning step in float32.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from provenance import provenance
from speed_training import FROZEN, make_step
from torch.profiler import ProfilerActivity, profile

from lwm_edge.freed_memory import bound_allocator, freed_memory_kept
from lwm_edge.learning.config import RecipeName
from lwm_edge.model.precision import has_bfloat16
from lwm_edge.model.terms import Precision

UNIT: tuple[RecipeName, Precision] = ("finetune", "float32")
STEPS: tuple[tuple[RecipeName, Precision], ...] = (UNIT, ("lwm", "float32"), ("lwm", "bfloat16"))
KINDS = {"conv": "convolutions", "batch_norm": "batch normalisation"}
OTHER = "all else"


def kind_of(operation: str) -> str:
    """Returns the kind of an operation of torch."""
    return next((kind for part, kind in KINDS.items() if part in operation), OTHER)


def measure(arch: str, name: RecipeName, precision: Precision, rounds: int) -> dict[str, float]:
    """Measures the milliseconds that each kind of operation takes in a step."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as until:
        step = make_step(arch, 0, name, precision, Path(folder), until, torch.device("cpu"))
        for _ in range(2):  # the first steps also load libraries
            step()
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            for _ in range(rounds):
                step()
    milliseconds: Counter[str] = Counter()
    for event in profiled.key_averages():
        milliseconds[kind_of(event.key)] += event.self_cpu_time_total / 1000 / rounds
    return dict(milliseconds)


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the shares as a Markdown table."""
    names = [*KINDS.values(), OTHER]
    print("| network | step | " + " | ".join(names) + " | together |")
    print("|---" * (len(names) + 3) + "|")
    for row in rows:
        unit = sum(next(r["ms"] for r in rows if (r["arch"], *r["step"]) == (row["arch"], *UNIT)).values())
        shares = [
            f"{value / unit:.2f}" for value in (*(row["ms"][n] for n in names), sum(row["ms"].values()))
        ]
        print(f"| {row['arch']} | {' '.join(row['step'])} | " + " | ".join(shares) + " |")


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    rounds: Annotated[int, typer.Option(min=1, help="Number of steps.")] = 10,
    arch: Annotated[list[str], typer.Option(help="Networks whose steps are profiled.")] = list(FROZEN),  # noqa: B006
) -> None:
    """Makes the measurements, and writes the results."""
    torch.set_num_threads(1)
    bound_allocator()
    steps = [s for s in STEPS if s[1] == "float32" or has_bfloat16(torch.device("cpu"))]
    with freed_memory_kept(True):  # as in training with twenty updates or more
        rows = [{"arch": a, "step": s, "ms": measure(a, *s, rounds)} for a in arch for s in steps]
    results.write_text(json.dumps({**provenance(), "rounds": rounds, "rows": rows}, indent=1) + "\n")
    print_table(json.loads(results.read_text())["rows"])


if __name__ == "__main__":
    typer.run(main)
