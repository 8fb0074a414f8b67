"""Kills increments at random moments: `python benchmarks/crash.py RESULTS.json [--kills 1000] [--seed 0]`.

Small increments (one class, six photos, one epoch) run on one home, each in a process forked from a parent
that has imported everything. They are killed (SIGKILL) at random moments. Half of the kills come after a
random part of an increment's time. For the other half, a phase of the commit is chosen at random, and the
kill comes after a random part of the time from the start of this phase to the end. The process reports its
phases on a pipe. After every kill the home must hold the old model or the new one:

- old: the same files, byte for byte, as before;
- new: a verified bundle whose parent is the model before and that knows one more class, with an ONNX file,
  labels and receipt of the same digest.

After half of the kills, the parent then clears the leftovers and audits the home. After the others, the next
increment must clear them. If an increment ends before its kill, the kill is not counted.

The phases are `start` (the process is forked, leftovers are cleared, the bundle is verified), then those that
an increment reports (`photos`, `plan`, `features`, `train`, `evaluate` and `stage`), and `export` (the ONNX
file is made and compared). The commit follows: `staging` (the next generation is written), `link` (the link
is made and renamed, and the folder synced) and `clean-up` (the old generation is removed).
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import onnx
import torch
import typer
from killable import COMMIT, END, PHASES, phases_in, start_increment, wait_for
from provenance import provenance

import lwm_edge
from lwm_edge import storage
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.home.generation import labels_text
from lwm_edge.home.home import Home
from lwm_edge.home.ownership import GENERATION_FILES
from lwm_edge.model.bundle import open_bundle
from lwm_edge.model.onnx_file import DIGEST_KEY

RECIPES = ("lwm", "lwm-lda", "lda")
PHOTOS = 6  # per new class


@dataclass
class Model:
    """Describes a home's model: its generation, the digests of its files and of the model, its classes."""

    generation: str
    files: tuple[str, ...]
    digest: str
    parent: str | None
    class_names: tuple[str, ...]


@dataclass
class Tally:
    """Counts kills, and the homes that they left behind.

    Attributes:
        landed: Number of increments that were killed, by recipe and phase.
        found: Number of homes that were then old, new or bad.
        bad: Lines that describe the bad homes.
        completed: Number of increments that ended before their kill.
        recovered: Number of homes that were cleared and audited.
        seconds: Time from the start of a phase to the end, averaged over the latest increments.
    """

    landed: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    completed: int = 0
    recovered: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.05) | {"start": 0.5})

    def count_kills_in_commit(self) -> int:
        """Counts the increments that were killed between staging and the end of the commit."""
        return sum(count for (_, phase), count in self.landed.items() if phase in COMMIT)


def read_model(home: Home) -> Model:
    """Reads the model as an app would, and checks that all files belong to the same model."""
    generation = home.current()
    bundle = open_bundle(generation.bundle)
    manifest = bundle.manifest
    exported = {p.key: p.value for p in onnx.load(generation.onnx).metadata_props}
    assert exported[DIGEST_KEY] == manifest.model_digest, "the ONNX file belongs to another model"
    assert generation.labels.read_bytes() == labels_text(manifest), "the labels belong to another model"
    receipt = json.loads(generation.receipt.read_bytes())
    assert receipt["model_digest"] == manifest.model_digest, "the receipt belongs to another model"
    assert tuple(receipt["class_names"]) == manifest.class_names, "the receipt belongs to another model"
    files = [hashlib.sha256((generation.path / n).read_bytes()).hexdigest() for n in GENERATION_FILES]
    return Model(
        generation.path.name,
        tuple(files),
        manifest.model_digest,
        manifest.parent_digest,
        manifest.class_names,
    )


def compare(before: Model, home: Home, class_name: str) -> tuple[str, Model]:
    """Reads a home's model, and says whether it is the old or the new one; raises an error if neither."""
    after = read_model(home)
    if after == before:
        return "old", after
    assert after.parent == before.digest, "the model is not a child of the one before"
    assert after.class_names == (*before.class_names, class_name), f"it knows {after.class_names}"
    return "new", after


def make_photos(folder: Path, count: int) -> list[Path]:
    """Makes folders of photos with one class each, all with different names."""
    sources = sorted(path for group in ("1", "2") for path in (DEMO_DATA / "train" / group).iterdir())
    for number in range(count):
        target = folder / f"{number:02d}" / f"class {number:02d}"
        target.mkdir(parents=True)
        for photo in sorted(sources[number % len(sources)].iterdir())[:PHOTOS]:
            shutil.copy(photo, target)
    return sorted(folder.iterdir())


def kill_one(home: Path, photos: Path, recipe: str, tally: Tally, chance: random.Random) -> bool:
    """Starts one increment and kills it; returns whether the kill came before its end."""
    config = lwm_edge.IncrementConfig(
        recipe=recipe,
        epochs=1,
        batch_size=2,
        micro_batch_size=2,
        device="cpu",
        seed=chance.randrange(2**31),
        force=True,  # one epoch on a few photos teaches next to nothing
    )
    in_commit = tally.count_kills_in_commit() * 2 <= sum(tally.landed.values())
    aim = chance.choice(COMMIT) if in_commit else "start"
    started = time.monotonic()
    process, pipe = start_increment(home, photos, config)
    told = wait_for(pipe, aim) if in_commit else b""
    time.sleep(chance.uniform(0, 1.1 * tally.seconds[aim]))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    told += wait_for(pipe, "nothing")  # no phase has this name, so this reads to the end
    os.close(pipe)
    phases = {"start": started} | phases_in(told)
    if os.WIFSIGNALED(status):
        tally.landed[recipe, list(phases)[-1]] += 1
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"an increment failed without being killed, see above; so far {tally}")
    tally.completed += 1
    for phase in phases.keys() & set(PHASES):
        tally.seconds[phase] = 0.8 * tally.seconds[phase] + 0.2 * (phases[END] - phases[phase])
    return False


def recover(home: Home, tally: Tally) -> None:
    """Clears the leftovers, as the next increment would, and audits the home."""
    with home.lock():
        pass
    tally.recovered += 1
    problems = lwm_edge.audit(home).problems
    assert not problems, f"after recovery: {problems}"


def run_kills(work: Path, kills: int, seed: int, tally: Tally) -> None:
    """Starts increments until enough of them were killed."""
    chance, home = random.Random(seed), Home(work / "home")
    capacity = open_bundle(BASE_BUNDLE).manifest.capacity
    photos = make_photos(work / "photos", capacity)
    before: Model | None = None
    while (landed := sum(tally.landed.values())) < kills:
        if before is None or len(before.class_names) == capacity:
            shutil.rmtree(home.path, ignore_errors=True)
            shutil.copytree(work / "base", home.path, symlinks=True)
            before = read_model(home)
        folder = photos[len(before.class_names)]
        hit = kill_one(home.path, folder, RECIPES[landed % len(RECIPES)], tally, chance)
        try:
            found, after = compare(before, home, next(folder.iterdir()).name)
            if chance.random() < 0.5:
                recover(home, tally)
                assert read_model(home) == after, "recovery changed the model"
        except (AssertionError, lwm_edge.LwmEdgeError, OSError) as error:
            found, after = "bad", None
            tally.bad.append(f"{error!r} after {dict(tally.landed)}")
            shutil.copytree(home.path, work / f"bad{len(tally.bad)}", symlinks=True)
        if hit:
            tally.found[found] += 1
            if (landed + 1) % 100 == 0:
                print(f"{landed + 1} kills, {dict(tally.found)}", file=sys.stderr, flush=True)
        before = after


def table(tally: Tally) -> str:
    """Writes the counts by phase as a Markdown table, with a summary below."""
    lines = ["| killed in | " + " | ".join(RECIPES) + " | all |", "|---|" + "---|" * (len(RECIPES) + 1)]
    for phase in PHASES:
        counts = [tally.landed[recipe, phase] for recipe in RECIPES]
        lines.append(f"| {phase} | " + " | ".join(map(str, counts)) + f" | {sum(counts)} |")
    landed, in_commit = sum(tally.landed.values()), tally.count_kills_in_commit()
    lines.append(f"\n{landed} increments were killed, {in_commit} of them from staging on;")
    lines.append(f"homes: {tally.found['old']} old, {tally.found['new']} new, {len(tally.bad)} bad")
    return "\n".join(lines)


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    kills: Annotated[int, typer.Option(help="Number of increments to kill.")] = 1000,
    seed: int = 0,
) -> None:
    """Kills increments at random moments and checks the home after each."""
    import onnxruntime  # noqa: F401  so that no child has to; lwm_edge, imported first, stops its telemetry

    torch.set_num_threads(1)  # a forked child would lack the threads of a pool
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)  # imports much, here once for all children
    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        init = [sys.executable, "-m", "lwm_edge", "init", str(BASE_BUNDLE), "--home", str(work / "base")]
        # in another process, because ONNX Runtime starts threads
        subprocess.run(init, check=True, stdout=subprocess.DEVNULL)
        run_kills(work, kills, seed, tally)
    counts = {r: {p: tally.landed[r, p] for p in PHASES} for r in RECIPES}
    content = {
        "command": f"python benchmarks/crash.py {results.name} --kills {kills} --seed {seed}",
        "lwm_edge": lwm_edge.__version__,
        "landed": sum(tally.landed.values()),
        "landed_in_commit": tally.count_kills_in_commit(),
        "landed_by_recipe_and_phase": counts,
        "homes": {"old": tally.found["old"], "new": tally.found["new"], "bad": len(tally.bad)},
        "bad": tally.bad,
        "completed_before_the_kill": tally.completed,
        "recovered_and_audited": tally.recovered,
        "seconds": round(time.monotonic() - started),
        **provenance(),
    }
    storage.write_file(results.absolute(), json.dumps(content, indent=1).encode() + b"\n")
    print(table(tally))
    if tally.bad:
        raise SystemExit(f"{len(tally.bad)} bad homes: {tally.bad}")


if __name__ == "__main__":
    typer.run(main)
