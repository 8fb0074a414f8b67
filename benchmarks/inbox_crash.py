"""Kills processes that teach an inbox, at random moments.

    python benchmarks/inbox_crash.py RESULTS.json [--kills 200] [--seed 0]

Photos of new and known classes arrive in an inbox. A forked process teaches them, and is killed (SIGKILL) at
a random moment: half of the kills come after a random part of the process's time, half after a random part of
a phase that is chosen at random. After every kill these must be true:

- Each photo that ever arrived is in exactly one place: the inbox, the folder of photos being taught, or the
  folder of taught photos.
- The home is complete, and its audit passes once the leftovers are cleared.

After half of the kills, two processes then run to their end. The counts in the model's statistics must show
that the model has learnt exactly the photos in each class's taught folder, each of them once. After the other
kills, the next process may be killed as well. If a process ends before its kill, the kill is not counted.

The phases are `start` (leftovers are put where they belong, photos are checked), `take` (photos are noted and
moved), `learn` (up to the end of the commit), and `put away`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from killable import END, Report, ReportingDisk, phases_in, tell, wait_for
from provenance import provenance

import lwm_edge
from lwm_edge import IncrementConfig, _disk, durability, inspection, storage, teach_inbox
from lwm_edge.demo import BASE_BUNDLE, DEMO_DATA
from lwm_edge.home.home import Home
from lwm_edge.model.bundle import COUNTS, open_bundle
from lwm_edge.photos.checking import file_digest

PHASES = ("start", "take", "learn", "put away")
PHOTOS = 6
CLASSES = 12  # in one inbox; then the next inbox is made
CONFIG = IncrementConfig(recipe="lda", force=True)  # a few photos teach next to nothing


class InboxDisk(ReportingDisk):
    """Reports the phases in which an inbox is taught."""

    def __init__(self, disk: Any, report: Report, inbox: Path) -> None:
        super().__init__(disk, report)
        self.inbox, self.phase = inbox, "start"

    def note(self, operation: str, argument: Any) -> None:
        """Enters the phase that an operation belongs to."""
        if not isinstance(argument, Path):
            return
        if operation == "create_file" and "note.json" in argument.name:
            self.enter("take")
        elif self.phase == "take" and not argument.is_relative_to(self.inbox):
            self.enter("learn")
        elif (
            self.phase == "learn"
            and argument.is_relative_to(self.inbox)
            and operation in ("rename", "unlink")
        ):
            self.enter("put away")


@dataclass
class World:
    """Holds an inbox, its home, and the digests of all photos that have arrived."""

    root: Path
    chance: random.Random
    arrived: Counter[str] = field(default_factory=Counter)
    classes: int = 0

    @property
    def home(self) -> Home:
        """Returns the home that the inbox teaches."""
        return Home(self.root / "home")

    def arrive(self) -> None:
        """Puts photos of a new class, or of one that has arrived before, into the inbox."""
        if self.classes == 0 or self.chance.random() < 0.6:
            self.classes += 1
        number = self.chance.randrange(self.classes) if self.chance.random() < 0.4 else self.classes - 1
        sources = sorted(path for group in ("1", "2") for path in (DEMO_DATA / "train" / group).iterdir())
        folder = self.root / "inbox" / f"class {number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for photo in self.chance.sample(sorted(sources[number % len(sources)].iterdir()), PHOTOS):
            name = f"{sum(self.arrived.values()):05d}.png"
            content = photo.read_bytes() + name.encode()  # so that no two files are the same
            (folder / name).write_bytes(content)
            self.arrived[file_digest(folder / name)] += 1

    def check_photos(self) -> None:
        """Checks that every photo is in exactly one place."""
        paths = [p for part in ("inbox", "taught") for p in (self.root / part).rglob("*.png")]
        found = Counter(file_digest(path) for path in paths)
        assert found == self.arrived, f"{sum(found.values())} photos instead of {sum(self.arrived.values())}"

    def check_home(self) -> None:
        """Clears the kill's leftovers in the home, as the next change does, and audits the home."""
        with self.home.lock():
            pass
        problems = lwm_edge.audit(self.home).problems
        assert not problems, f"after recovery: {problems}"

    def check_taught(self) -> None:
        """Checks that each taught photo was learnt exactly once."""
        left = list((self.root / "inbox").rglob("*.png"))
        assert not left, f"{len(left)} photos are still waiting"
        bundle = self.home.open_bundle()
        counts = bundle.arrays(COUNTS)[COUNTS].tolist()
        for name, learnt in zip(bundle.manifest.class_names, counts, strict=False):
            if name.startswith("class "):
                taught = len(list((self.root / "taught" / name).glob("*.png")))
                assert learnt == taught, f"{learnt} photos of {name} were learnt, but {taught} were put away"


@dataclass
class Tally:
    """Counts kills and processes that ran to their end, and lists the problems found."""

    landed: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    completed: int = 0
    finished: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"start": 0.5, "take": 0.01, "learn": 0.5, "put away": 0.01}
    )


def start(world: World) -> tuple[int, int]:
    """Forks a process that teaches the inbox; returns its id, and the pipe with its reports of phases."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    status = 1
    try:
        os.close(reading)
        report = partial(tell, writing)
        disk = InboxDisk(_disk, report, world.root / "inbox")
        for module in (inspection, durability, storage):
            vars(module)["_disk"] = disk
        teach_inbox(
            world.root / "home",
            world.root / "inbox",
            CONFIG,
            taught=world.root / "taught",
            quiet_seconds=0,
            isolate=False,
        )
        report(END)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill_one(world: World, tally: Tally) -> bool:
    """Starts a process and kills it; returns whether the kill came in time."""
    chance = world.chance
    aim = chance.choice(PHASES[1:]) if chance.random() < 0.5 else "start"
    started = time.monotonic()
    process, pipe = start(world)
    told = wait_for(pipe, aim) if aim != "start" else b""
    time.sleep(chance.uniform(0, 1.1 * tally.seconds[aim]))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    told += wait_for(pipe, "nothing")  # no phase has this name, so this reads to the end
    os.close(pipe)
    phases = {"start": started} | phases_in(told)
    for phase, follows in zip(PHASES, (END, "learn", "put away", END), strict=True):
        if phase in phases and follows in phases:
            tally.seconds[phase] = 0.8 * tally.seconds[phase] + 0.2 * (phases[follows] - phases[phase])
    if os.WIFSIGNALED(status):
        tally.landed[list(phases)[-1]] += 1
        return True
    if os.WEXITSTATUS(status):
        raise SystemExit(f"an inbox failed without being killed, see above; so far {tally}")
    tally.completed += 1
    return False


def finish(world: World, tally: Tally) -> None:
    """Lets two processes run to their end, as after a restart, and checks what was taught."""
    for _ in range(2):  # the first may put off photos whose teaching was interrupted too often
        for reason in (world.root / "inbox").glob("*.waits.json"):
            assert "teaching was interrupted; " in reason.read_text(), reason.read_text()
            reason.unlink()  # as their owner would
        process, pipe = start(world)
        wait_for(pipe, END)
        os.close(pipe)
        _, status = os.waitpid(process, 0)
        assert status == 0, "the process after the kill failed"
    tally.finished += 1
    world.check_taught()


def run_kills(work: Path, kills: int, seed: int, tally: Tally) -> None:
    """Kills processes until enough kills have come in time."""
    chance, world = random.Random(seed), None
    while (landed := sum(tally.landed.values())) < kills:
        if world is None or world.classes == CLASSES:
            world = World(work / f"world{landed}", chance)
            shutil.copytree(work / "base", world.root / "home", symlinks=True)
        world.arrive()
        hit = kill_one(world, tally)
        try:
            world.check_photos()
            world.check_home()
            if chance.random() < 0.5:
                finish(world, tally)
                world.check_photos()
        except (AssertionError, lwm_edge.LwmEdgeError, OSError) as error:
            tally.bad.append(f"{error!r} after {dict(tally.landed)}")
            print(tally.bad[-1], file=sys.stderr, flush=True)
            world = None
        if hit and (landed + 1) % 50 == 0:
            print(f"{landed + 1} kills, {len(tally.bad)} bad", file=sys.stderr, flush=True)


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    kills: Annotated[int, typer.Option(help="Kills that must come in time.")] = 200,
    seed: int = 0,
) -> None:
    """Kills processes that teach an inbox, at random moments, and checks photos and home after each kill."""
    import onnxruntime  # noqa: F401  so that no child has to; lwm_edge, imported first, stops its telemetry

    import lwm_edge.increment.learn

    tally, started = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        process = os.fork()  # because ONNX Runtime would start threads here
        if process == 0:
            lwm_edge.init_home(BASE_BUNDLE, work / "base")
            os._exit(0)
        os.waitpid(process, 0)
        open_bundle(BASE_BUNDLE)
        run_kills(work, kills, seed, tally)
    content = {
        "command": f"python benchmarks/inbox_crash.py {results.name} --kills {kills} --seed {seed}",
        "lwm_edge": lwm_edge.__version__,
        "landed": sum(tally.landed.values()),
        "landed_by_phase": {phase: tally.landed[phase] for phase in PHASES},
        "bad": tally.bad,
        "completed_before_the_kill": tally.completed,
        "run_to_the_end_afterwards": tally.finished,
        "seconds": round(time.monotonic() - started),
        **provenance(),
    }
    storage.write_file(results.absolute(), json.dumps(content, indent=1).encode() + b"\n")
    by_phase = ", ".join(f"{tally.landed[phase]} in `{phase}`" for phase in PHASES)
    print(f"{sum(tally.landed.values())} kills came in time ({by_phase}); {len(tally.bad)} left a problem")
    if tally.bad:
        raise SystemExit(f"{len(tally.bad)} problems: {tally.bad}")


if __name__ == "__main__":
    typer.run(main)
