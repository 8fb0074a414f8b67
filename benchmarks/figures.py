#!/usr/bin/env python3
"""Draws the results of `protocol.py` in the form of the paper's Figure 5: accuracy against number of classes.

    python benchmarks/figures.py RESULTS.json OUT.png        needs matplotlib: pip install 'lwm-edge[bench]'

Each method gets one line, the mean over its seeds; published values, if there are any, get a dashed line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

PUBLISHED = {  # Dhar et al. 2019, Table 4, in %; its networks were pretrained and its split is 80/20
    "caltech101": {
        "LwM (paper)": (97.78, 75.34, 71.78, 67.49, 59.79, 56.62, 54.62, 48.71, 46.21, 48.42),
        "finetuning (paper)": (97.78, 59.55, 52.65, 44.51, 35.52, 31.18, 32.99, 27.45, 28.55, 28.26),
    }
}


def main(results_path: Path, output: Path) -> None:
    """Draws one figure."""
    results = json.loads(results_path.read_text())
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for method in dict.fromkeys(run["method"] for run in results["runs"]):
        runs = [run["steps"] for run in results["runs"] if run["method"] == method]
        classes = [step["classes"] for step in runs[0]]
        accuracy = 100 * np.mean([[step["all"] for step in steps] for steps in runs], axis=0)
        axes.plot(classes, accuracy, marker="o", markersize=4, label=method)
    for name, values in PUBLISHED.get(results["settings"]["data"], {}).items():
        axes.plot(range(10, 101, 10), values, linestyle="--", marker="x", markersize=4, label=name)
    axes.set(xlabel="classes", ylabel="accuracy, mean over classes (%)", ylim=(0, 100))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(output, dpi=110)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
