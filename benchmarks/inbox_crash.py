"""Kills processes that teach a model from two inboxes, at random moments.

    python benchmarks/inbox_crash.py RESULTS.json [--kills 200] [--seed 0]

Photos of new and known classes arrive in two inboxes, which share a home and a folder of used photos. A
forked process teaches the model from one inbox, and is killed (SIGKILL) at a random moment: half of the kills
come after a random part of the process's time, half after a random part of a phase that is chosen at random.
Chance also decides:

- Whether another process uses the other inbox at the same time. It must end without an error.
- Whether all photos arrive whole, or the rest of some photos is copied only later, or one photo is copied
  slowly while the process runs. The slowly copied file can be decoded from its first part on, so only the
  quiet time protects it. Its copier notices if the file is moved too early. Unless a photo is copied slowly,
  there is no quiet time.

After every kill these must be true (`inbox_world.py` checks them):

- Each photo that has arrived whole is in exactly one place: in an inbox, in a folder of photos being taught,
  or in the folder of used photos. Each half-copied photo is still where it arrived.
- The home is complete, and its audit passes once the leftovers are cleared.
- Both inboxes' notes can be read. By the counts in its statistics, the model has learnt from the photos in
  each class's taught folder, those that a note or a question to the owner explains, and no others.

After half of the kills, the rest of each half-copied photo is copied. Then one process for each inbox runs to
its end, both at the same time, and this is repeated once. Now the model must have learnt from every photo
exactly once. After the other half of the kills, the next process may be killed as well. If a process ends
before its kill, the kill is not counted.

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

from inbox_world import World
from killable import END, Report, ReportingDisk, phases_in, tell, wait_for
from provenance import provenance

import lwm_edge
from lwm_edge import IncrementConfig, _disk, durability, inspection, storage, teach_inbox
from lwm_edge.demo import BASE_BUNDLE
from lwm_edge.model.bundle import open_bundle

PHASES = ("start", "take", "learn", "put away")
ARRIVALS = ("whole", "whole", "half-copied", "slowly copied")
BOTH, HALF_COPIED, SLOWLY_COPIED = (
    "another process taught the other inbox",
    "photos were half-copied",
    "a photo was being copied",
)
CLASSES = 12  # per home; after them, a new home is made
QUIET_SECONDS = 2  # if a photo is copied slowly; the pauses between its parts are far shorter
HANGS_AFTER_S = 120
CONFIG = IncrementConfig(recipe="lda", force=True, min_photos=2)  # a few photos teach next to nothing


class InboxDisk(ReportingDisk):
    """Reports the phases of teaching from an inbox."""

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
class Tally:
    """Counts kills and processes that ran to their end, and lists the problems found."""

    landed: Counter[str] = field(default_factory=Counter)
    landed_while: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    completed: int = 0
    finished: int = 0
    questions: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: {"start": 0.5, "take": 0.01, "learn": 0.5, "put away": 0.01}
    )

    def time_phases(self, phases: dict[str, float]) -> None:
        """Updates the mean time of each phase from the times at which the phases of a process began."""
        for phase, follows in zip(PHASES, (END, "learn", "put away", END), strict=True):
            if phase in phases and follows in phases:
                self.seconds[phase] = 0.8 * self.seconds[phase] + 0.2 * (phases[follows] - phases[phase])


def start(world: World, inbox: Path, quiet_seconds: float = 0) -> tuple[int, int]:
    """Forks a process that teaches from an inbox; returns its id, and the pipe with its reports of phases."""
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
        disk = InboxDisk(_disk, report, inbox)
        for module in (inspection, durability, storage):
            vars(module)["_disk"] = disk
        settings: dict[str, Any] = {"taught": world.taught, "quiet_seconds": quiet_seconds, "isolate": False}
        teach_inbox(world.home, inbox, CONFIG, **settings)
        report(END)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def is_running(process: int) -> bool:
    """Returns whether a child process has not ended yet."""
    return os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def wait_for_end(process: int) -> int:
    """Waits until a child process ends, and returns its status; a process that hangs is killed."""
    deadline = time.monotonic() + HANGS_AFTER_S
    while is_running(process):
        if time.monotonic() > deadline:
            os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitpid(process, 0)[1]


def kill_one(world: World, tally: Tally) -> None:
    """Lets photos arrive, starts a process for one inbox or for each, and kills one of the processes."""
    chance, arrival, copiers = world.chance, world.chance.choice(ARRIVALS), list[int]()
    inboxes = chance.sample(world.inboxes, chance.choice((1, 2)))
    quiet_seconds = QUIET_SECONDS if arrival == "slowly copied" else 0
    folders = [world.arrive(inbox, half_copied=arrival == "half-copied") for inbox in inboxes]
    if arrival == "slowly copied":
        world.arrive(inboxes[0])  # so that something can be taught meanwhile
        copiers.append(world.copy_slowly(folders[0]))
    started = time.monotonic() + quiet_seconds
    running = {inbox: start(world, inbox, quiet_seconds) for inbox in chance.sample(inboxes, len(inboxes))}
    process, pipe = running.pop(inboxes[0])
    others = [other for other, _ in running.values()]
    aim = chance.choice(PHASES[1:]) if chance.random() < 0.5 else "start"
    told = wait_for(pipe, aim) if aim != "start" else b""
    time.sleep(chance.uniform(0, 1.1 * tally.seconds[aim] + (quiet_seconds if aim == "start" else 0)))
    is_true = {
        BOTH: any(map(is_running, others)),
        HALF_COPIED: bool(world.half_copied),
        SLOWLY_COPIED: any(map(is_running, copiers)),
    }
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    told += wait_for(pipe, "nothing")  # no phase has this name, so this reads to the end
    failed = [wait_for_end(other) for other in (*others, *copiers)]
    for used in (pipe, *(pipe for _, pipe in running.values())):
        os.close(used)
    phases = {"start": started} | phases_in(told)
    tally.time_phases(phases)
    if os.WIFSIGNALED(status):
        tally.landed[list(phases)[-1]] += 1
        tally.landed_while.update(circumstance for circumstance, holds in is_true.items() if holds)
    else:
        tally.completed += 1
        assert status == 0, "a process failed without being killed, see above"
    assert not any(failed), "another process or the copier failed, see above"


def finish(world: World, tally: Tally) -> None:
    """Lets two processes for each inbox run to their end, as after a restart, and checks what was taught."""
    for _ in range(2):  # the first time, photos may be put off after too many interruptions
        world.complete_copies()
        tally.questions += world.answer_questions()
        world.try_again()
        running = [start(world, inbox) for inbox in world.inboxes]
        failed = [wait_for_end(process) for process, _ in running]
        for _, pipe in running:
            os.close(pipe)
        assert not any(failed), "a process after the kill failed, see above"
        world.check()
    tally.finished += 1
    world.check_taught()


def run_kills(work: Path, kills: int, seed: int, tally: Tally) -> None:
    """Starts processes until enough of them were killed."""
    chance, world, shown = random.Random(seed), None, 0
    while (landed := sum(tally.landed.values())) < kills:
        if landed >= shown + 50:
            shown = landed
            print(f"{landed} kills, {len(tally.bad)} bad", file=sys.stderr, flush=True)
        if world is None or world.classes >= CLASSES:
            world = World(work / f"world{landed}", chance)
            shutil.copytree(work / "base", world.root / "home", symlinks=True)
            for inbox in world.inboxes:
                inbox.mkdir()
        try:
            kill_one(world, tally)
            world.check()
            if chance.random() < 0.5:
                finish(world, tally)
            elif chance.random() < 0.5:
                world.complete_copies()
                tally.questions += world.answer_questions()
        except (AssertionError, lwm_edge.LwmEdgeError, OSError) as error:
            tally.bad.append(f"{error!r} after {dict(tally.landed)}")
            print(tally.bad[-1], file=sys.stderr, flush=True)
            world = None


def main(
    results: Annotated[Path, typer.Argument(help="JSON file to write.")],
    kills: Annotated[int, typer.Option(help="Number of processes to kill.")] = 200,
    seed: int = 0,
) -> None:
    """Kills processes that teach from two inboxes, and checks the photos and the home after each kill."""
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
        "landed_while": {while_: tally.landed_while[while_] for while_ in (BOTH, HALF_COPIED, SLOWLY_COPIED)},
        "bad": tally.bad,
        "completed_before_the_kill": tally.completed,
        "run_to_the_end_afterwards": tally.finished,
        "questions_to_the_owner": tally.questions,
        "seconds": round(time.monotonic() - started),
        **provenance(),
    }
    storage.write_file(results.absolute(), json.dumps(content, indent=1).encode() + b"\n")
    by_phase = ", ".join(f"{tally.landed[phase]} in `{phase}`" for phase in PHASES)
    print(f"{sum(tally.landed.values())} processes were killed ({by_phase}); {len(tally.bad)} left a problem")
    if tally.bad:
        raise SystemExit(f"{len(tally.bad)} problems: {tally.bad}")


if __name__ == "__main__":
    typer.run(main)
