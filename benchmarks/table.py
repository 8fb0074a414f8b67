#!/usr/bin/env python3
"""Prints the results of `protocol.py` as a Markdown table.

    python benchmarks/table.py RESULTS.json

Average is the mean accuracy over all steps from the base on, last the accuracy on all classes at the end,
forgetting the mean over classes of the best accuracy a class ever had less its last. In %; with several
seeds the mean and, behind it, the standard deviation.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

PUBLISHED = {  # average, last; CIFAR-100, 10 steps of 10, as later papers tabulate Dhar et al. 2019
    "cifar100": {"finetune": (20.71, 6.36), "lwf-mc": (45.08, 24.42), "lwm": (45.68, 26.14)},
}


def forgetting(steps: list[dict[str, Any]]) -> float:
    """Mean over classes of the best accuracy so far less the last."""
    last = steps[-1]["per_class"]
    best = {name: max(s["per_class"][name] for s in steps if name in s["per_class"]) for name in last}
    return float(np.mean([best[name] - last[name] for name in last]))


def row(runs: list[dict[str, Any]]) -> dict[str, str]:
    """The figures of one method over its seeds."""
    figures: dict[str, list[float]] = {
        "average": [float(np.mean([s["all"] for s in run["steps"]])) for run in runs],
        "last": [run["steps"][-1]["all"] for run in runs],
        "base classes, last": [run["steps"][-1]["base"] for run in runs],
        "newest classes, last": [run["steps"][-1]["newest"] for run in runs],
        "forgetting": [forgetting(run["steps"]) for run in runs],
    }
    if len(runs[0]["steps"]) == 1:
        figures = {"average": [], **{k: v for k, v in figures.items() if k == "last"}}
    return {name: _spread(values) for name, values in figures.items()}


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


def main(path: Path) -> None:
    """Prints the table."""
    results = json.loads(path.read_text())
    print(", ".join(f"{name} {value}" for name, value in results["settings"].items() if value is not None))
    print()
    headings = ["average", "last", "base classes, last", "newest classes, last", "forgetting"]
    print("| method | seeds | " + " | ".join(headings) + " | s a step | published: average / last |")
    print("|---" * (len(headings) + 4) + "|")
    for method in dict.fromkeys(run["method"] for run in results["runs"]):
        runs = [run for run in results["runs"] if run["method"] == method]
        figures = row(runs)
        seconds = [s["seconds"] for run in runs for s in run["steps"] if "seconds" in s]
        reduced = results["settings"].get("new_photos")  # then published values are of another setting
        published = None if reduced else PUBLISHED.get(results["settings"]["data"], {}).get(method)
        cells = [method, str(len(runs)), *(figures.get(h, "") for h in headings)]
        cells += [f"{np.mean(seconds):.0f}" if seconds else ""]
        cells += [f"{published[0]} / {published[1]}" if published else ""]
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
