"""Lists the trials of the sweep, ranks them by the sweep's rule, and prints them as a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from methods import settings_of

LEAD = {"head_learning_rate": "0.1", "learning_rate": "0.01", "epochs": "10"}
COMPARED = ("lwm", "lwf-mc")
GRID: tuple[str | tuple[str, str], ...] = (  # changes to try; a pair has one for each of COMPARED
    "",
    "head_learning_rate=0.3", "head_learning_rate=0.03", "learning_rate=0.003", "learning_rate=0.03",
    "schedule=cosine", "epochs=20", "epochs=5",
    "beta=2", "beta=0.5",
    ("gamma=0.3", "beta=4"), ("gamma=0.03", "beta=1.5"), ("gamma=1,warm_up=0.5", "beta=8"),
    ("compared=teacher", "head_learning_rate=0.2"), ("compared=three", "head_learning_rate=0.05"),
    ("block=8", "epochs=15"), ("gamma=1", "learning_rate=0.02"),
    "batch_norm=frozen", "batch_norm=trained",
    "batch_size=128", "batch_size=16", "momentum=0", "weight_decay=0.0005",
    "max_gradient_norm=1", "max_gradient_norm=1000",
    "head_learning_rate=0.01", "head_learning_rate=1", "learning_rate=0.001",
)  # fmt: skip


def trials(given: list[str] | None, combine: int, runs: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yields recipes and changes: first the given ones or those of the grid, then the combinations."""
    for change in given or GRID:
        yield from zip(COMPARED, (change, change) if isinstance(change, str) else change, strict=True)
    for recipe in COMPARED if combine else ():
        yield from ((recipe, changes) for changes in combinations(runs, recipe, combine))


def method_of(recipe: str, trial: str) -> str:
    """Writes a trial as a method of `protocol.py`: the settings in LEAD, with the trial's changes."""
    chosen = LEAD | settings_of(f"{recipe}:{trial}")
    return f"{recipe}:" + ",".join(f"{name}={value}" for name, value in chosen.items())


def print_table(runs: list[dict[str, Any]]) -> None:
    """Prints each trial's figures as means over the class orders, and its seconds of processor time."""
    print("| change | " + " | ".join(f"`{r}` | base | newest | seconds" for r in COMPARED) + " |")
    print("|---" * (1 + 4 * len(COMPARED)) + "|")
    orders = {run["seed"] for run in runs}
    for trial in dict.fromkeys(run["trial"] for run in runs):
        cells = []
        for recipe in COMPARED:
            chosen = [run for run in runs if (run["trial"], run["recipe"]) == (trial, recipe)]
            cells += cells_of(chosen) if {run["seed"] for run in chosen} == orders else [""] * 4
        print(f"| {f'`{trial}`' if trial else 'the lead'} | " + " | ".join(cells) + " |")


def mean_of(runs: list[dict[str, Any]], recipe: str, trial: str) -> float:
    """Returns the figure that the sweep's rule compares; -1 if the trial diverged."""
    chosen = [run for run in runs if (run["recipe"], run["trial"]) == (recipe, trial)]
    if any(run["failed"] for run in chosen):
        return -1.0
    return float(np.mean([average_of(run) for run in chosen]))


def ranked(runs: list[dict[str, Any]], recipe: str) -> list[str]:
    """Lists the trials of a recipe, with the best by the sweep's rule first."""
    trials = dict.fromkeys(run["trial"] for run in runs if run["recipe"] == recipe)
    return sorted(trials, key=lambda trial: -mean_of(runs, recipe, trial))


def combinations(runs: list[dict[str, Any]], recipe: str, count: int) -> Iterator[str]:
    """Yields trials with several changes; the caller adds each result to `runs` before it takes the next."""
    changes = [change for change in ranked(runs, recipe) if change in _grid_of(recipe) and change]
    kept = changes.pop(0)
    for _ in range(count):
        settings = settings_of(f":{kept}").keys()
        change = next(c for c in changes if not settings_of(f":{c}").keys() & settings)
        changes.remove(change)
        yield f"{kept},{change}"
        if mean_of(runs, recipe, f"{kept},{change}") > mean_of(runs, recipe, kept):
            kept = f"{kept},{change}"


def _grid_of(recipe: str) -> list[str]:
    return [change if isinstance(change, str) else change[COMPARED.index(recipe)] for change in GRID]


def cells_of(runs: list[dict[str, Any]]) -> list[str]:
    """Returns cells: average / last, base classes and newest classes at the end, all in %, and seconds."""
    if any(run["failed"] for run in runs):
        return ["diverged", "", "", ""]
    average, last = (100 * np.mean([figure(run) for run in runs]) for figure in (average_of, _last_of))
    base, newest = (100 * np.mean([run["steps"][-1][which] for run in runs]) for which in ("base", "newest"))
    seconds = np.mean([run["seconds"] for run in runs])
    return [f"{average:.1f} / {last:.1f}", f"{base:.1f}", f"{newest:.1f}", f"{seconds:.0f}"]


def average_of(run: dict[str, Any]) -> float:
    """Returns the mean accuracy over the steps, the base included, which the sweep's rule compares."""
    return float(np.mean([step["all"] for step in run["steps"]]))


def _last_of(run: dict[str, Any]) -> float:
    return float(run["steps"][-1]["all"])
