"""Interrupts recoveries: `python benchmarks/crash_rounds.py RESULTS.json [--rounds 2]`.

The gate (tests/home/test_crash.py) visits states in which one kill or power cut can leave `init`,
`add-classes`, or an increment that was stopped and resumed. This script also interrupts the recovery from
each of these states, at every operation on disk, then the recovery from that interruption, and so on, until
there are no new states or the given number of interruptions is reached. Kills and power cuts are replayed on
the tests' model of a disk; recoveries run for real.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch
import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from provenance import provenance

import lwm_edge
from lwm_edge import init_home, storage
from lwm_edge.demo import DEMO_DATA
from tests.support import crash
from tests.support.samples import WITHOUT_LEVELS

INIT_ROUNDS = 2  # because each recovery of `init` starts over, with as many operations as before

Explored = tuple[crash.Change, crash.Exploration]


def make_home(work: Path) -> tuple[Path, Path]:
    """Makes a home and a folder of photos of one new class, and returns both."""
    photos = work / "photos"
    (photos / "Bag").mkdir(parents=True)
    for photo in sorted((DEMO_DATA / "train" / "2" / "Bag").iterdir())[:8]:
        shutil.copy(photo, photos / "Bag")
    init_home(WITHOUT_LEVELS, work / "home")
    return work / "home", photos


def counts_of(explored: Explored, seconds: float) -> dict[str, Any]:
    """Collects the published figures about one change."""
    change, exploration = explored
    return {
        "operations": len(change.operations),
        **{name.replace(" ", "_"): count for name, count in exploration.counts.items()},
        "different_disks": exploration.different,
        "different_recoveries": len(change.recovered),
        "seconds": round(seconds),
    }


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    rounds: Annotated[
        int | None,
        typer.Option(help="Interruptions in a row; by default 2 for init, else until no state is new."),
    ] = None,
) -> None:
    """Interrupts changes and their recoveries; stops at the first home that is neither old nor new."""
    torch.manual_seed(0)
    changes: dict[str, Callable[[Path], Explored]] = {
        "init": lambda work: crash.explore_init(work / "home", rounds or INIT_ROUNDS),
        "add-classes": lambda work: crash.explore_add_classes(*make_home(work), rounds),
        "stopped and resumed": lambda work: crash.explore_stop_and_resume(*make_home(work), rounds),
    }
    found = {}
    for name, explore in changes.items():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
            started = time.monotonic()
            crash.prepare_once(patch)
            found[name] = counts_of(explore(Path(folder)), time.monotonic() - started)
        print(f"{name}: {found[name]}", flush=True)
    content = {
        "command": f"python benchmarks/crash_rounds.py {results.name}"
        + (f" --rounds {rounds}" if rounds else ""),
        "lwm_edge": lwm_edge.__version__,
        "changes": found,
        **provenance(),
    }
    storage.write_file(results.absolute(), json.dumps(content, indent=1).encode() + b"\n")


if __name__ == "__main__":
    typer.run(main)
