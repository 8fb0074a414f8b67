#!/usr/bin/env python3
"""Prints the results of `protocol.py` as a Markdown table.

    python benchmarks/table.py RESULTS.json [MORE.json ...] [--until CLASSES]

Several files are merged. --until cuts all runs at CLASSES, so that longer and shorter runs can be compared.
"Average" is the mean accuracy over all steps, the base included; "last" is the accuracy on all classes at the
end. "Forgetting" is how far a class's last accuracy lies below its best, averaged over the classes. "Top-5"
is the share of photos whose class is among the best five, as a mean over classes; it is given only for steps
with more than five classes, and older results do not have it. All are in %. With several seeds, the standard
deviation follows the mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

PUBLISHED = {  # average and last of Dhar et al. 2019 as later papers have them, by data and classes per step
    ("cifar100", 10): {"finetune": (20.71, 6.36), "lwf-mc": (45.08, 24.42), "lwm": (45.68, 26.14)},
    ("cifar100", 20): {"lwm": (63.67, 49.36)},
}

HEADINGS = (
    "average", "last", "base classes, last", "newest classes, last", "forgetting",
    "top-5, average", "top-5, last",
)  # fmt: skip
_AT_THE_END = ("last", "top-5, last")  # the only figures of a run of one step


def forgetting(steps: list[dict[str, Any]]) -> float:
    """Computes how far each class's last accuracy lies below its best, and averages that over the classes."""
    last = steps[-1]["per_class"]
    best = {name: max(s["per_class"][name] for s in steps if name in s["per_class"]) for name in last}
    return float(np.mean([best[name] - last[name] for name in last]))


def row(runs: list[dict[str, Any]]) -> dict[str, str]:
    """Summarises the figures of one method over its seeds."""
    figures: dict[str, list[float]] = {
        "average": [float(np.mean([s["all"] for s in run["steps"]])) for run in runs],
        "last": [run["steps"][-1]["all"] for run in runs],
        "base classes, last": [run["steps"][-1]["base"] for run in runs],
        "newest classes, last": [run["steps"][-1]["newest"] for run in runs],
        "forgetting": [forgetting(run["steps"]) for run in runs],
    }
    top5 = [[s["top5"] for s in run["steps"] if s.get("top5") is not None] for run in runs]
    if all(top5):
        figures["top-5, average"] = [float(np.mean(values)) for values in top5]
        figures["top-5, last"] = [values[-1] for values in top5]
    if len(runs[0]["steps"]) == 1:
        figures = {name: values if name in _AT_THE_END else [] for name, values in figures.items()}
    return {name: _spread(values) for name, values in figures.items()}


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def read_runs(paths: list[Path], until: int | None) -> list[dict[str, Any]]:
    """Reads the runs in all files, and cuts them at a number of classes."""
    runs = [run for path in paths for run in json.loads(path.read_text())["runs"]]
    for run in runs:
        run["steps"] = [s for s in run["steps"] if until is None or s["classes"] <= until]
    return [run for run in runs if run["steps"]]


def main(
    paths: Annotated[list[Path], typer.Argument()], until: Annotated[int | None, typer.Option()] = None
) -> None:
    """Prints the table."""
    settings = json.loads(paths[0].read_text())["settings"] | ({"until": until} if until else {})
    runs = read_runs(paths, until)
    print(", ".join(f"{name} {value}" for name, value in settings.items() if value is not None))
    print()
    chosen: dict[str, list[dict[str, Any]]] = {run["method"]: [] for run in runs}
    for run in runs:
        chosen[run["method"]].append(run)
    rows = {method: row(of_method) for method, of_method in chosen.items()}
    headings = [h for h in HEADINGS if any(figures.get(h) for figures in rows.values())]
    print("| method | seeds | " + " | ".join(headings) + " | seconds per step | published: average / last |")
    print("|---" * (len(headings) + 4) + "|")
    for method, figures in rows.items():
        seconds = [s["seconds"] for run in chosen[method] for s in run["steps"] if "seconds" in s]
        # published values are for all photos and classes
        reduced = settings.get("new_photos") or settings.get("until")
        setting = (settings["data"], settings["step_classes"])
        published = None if reduced else PUBLISHED.get(setting, {}).get(method)
        cells = [method, str(len(chosen[method])), *(figures.get(h, "") for h in headings)]
        cells += [f"{np.mean(seconds):.0f}" if seconds else ""]
        cells += [f"{published[0]} / {published[1]}" if published else ""]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    typer.run(main)
