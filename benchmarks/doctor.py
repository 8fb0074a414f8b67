#!/usr/bin/env python3
"""Swaps labels at random, and counts how many `lwm-edge check` finds and how many sound photos it suspects.

    python benchmarks/doctor.py BASE.lwm DATA RESULTS.json [--classes 10] [--draws 5] [--share 0.05]

DATA has train/<class>/*. In each draw, classes that BASE.lwm does not know are drawn at random, and a share
of their photos is moved to another class of the draw. A moved photo counts as found if the doctor lists it.
If 14 labels were swapped, "among the first" counts how many of these photos are among the first 14 that are
listed. Photos that are listed but were not moved count as false alarms, whatever the reason, though some of
them are blurred or nearly the same as another one.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from provenance import provenance

import lwm_edge
from lwm_edge.model.bundle import open_bundle


def swap_labels(
    data: Path, names: list[str], share: float, chance: np.random.RandomState, folder: Path
) -> tuple[set[str], int]:
    """Copies photos, some to another class; returns the moved photos' paths, and the number of all photos."""
    photos = [(name, path.resolve()) for name in names for path in sorted((data / "train" / name).iterdir())]
    swapped = set(chance.permutation(len(photos))[: round(share * len(photos))].tolist())
    moved = set()
    for number, (name, path) in enumerate(photos):
        others = [other for other in names if other != name]
        put = others[chance.randint(len(others))] if number in swapped else name
        target = folder / put / f"{number:05}{path.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
        if number in swapped:
            moved.add(f"{put}/{target.name}")
    return moved, len(photos)


def check(home: Path, folder: Path, moved: set[str], photos: int) -> dict[str, Any]:
    """Counts the photos that the doctor lists in one draw."""
    report = lwm_edge.check_photos(home, folder)
    listed = [suspect.photo.relative_to(folder).as_posix() for suspect in report.suspects]
    kinds = [{fault.kind for fault in suspect.faults} for suspect in report.suspects]
    sound = [kind for path, kind in zip(listed, kinds, strict=True) if path not in moved]
    return {
        "photos": photos,
        "swapped": len(moved),
        "found": len(moved & set(listed)),
        "found_first": len(moved & set(listed[: len(moved)])),
        "false_alarms": len(sound),
        "false_mislabelled": sum("mislabelled" in kind for kind in sound),
        "left_out": len(report.skipped),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints a row for each draw, and one for all draws together."""
    print("| draw | photos | swapped | found | among the first | false alarms | of these, mislabelled |")
    print("|---|---|---|---|---|---|---|")
    for row in [*rows, {name: sum(r[name] for r in rows) for name in rows[0]} | {"draw": "all"}]:
        sound = row["photos"] - row["swapped"]
        found = f"{row['found']} ({row['found'] / row['swapped']:.0%})"
        false, mislabelled = (row[name] for name in ("false_alarms", "false_mislabelled"))
        print(
            f"| {row['draw']} | {row['photos']} | {row['swapped']} | {found} | {row['found_first']} | "
            f"{false} ({false / sound:.1%}) | {mislabelled} ({mislabelled / sound:.1%}) |"
        )


def main(
    base: Annotated[Path, typer.Argument(help="The base bundle.")],
    data: Annotated[Path, typer.Argument(help="Folder with train/.")],
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    classes: Annotated[int, typer.Option(min=2, help="Classes in each draw.")] = 10,
    draws: Annotated[int, typer.Option(min=1, help="Number of random draws.")] = 5,
    share: Annotated[float, typer.Option(help="Share of the photos whose labels are swapped.")] = 0.05,
) -> None:
    """Runs all draws and writes the results."""
    known, rows = open_bundle(base).manifest, []
    others = sorted(p.name for p in (data / "train").iterdir() if p.name not in known.class_names)
    with tempfile.TemporaryDirectory() as work:
        home = Path(work) / "home"
        lwm_edge.init_home(base, home)
        for draw in range(draws):
            chance, folder = np.random.RandomState(draw), Path(work) / f"draw{draw}"
            names = [others[i] for i in chance.permutation(len(others))[:classes]]
            moved, photos = swap_labels(data, names, share, chance, folder)
            rows.append({"draw": draw, **check(home, folder, moved, photos)})
            print(json.dumps(rows[-1]), flush=True)
    settings = {"data": data.name, "classes": classes, "share": share, "base": known.model_digest}
    results.write_text(json.dumps({**provenance(), "settings": settings, "rows": rows}, indent=1) + "\n")
    print_table(rows)


if __name__ == "__main__":
    typer.run(main)
