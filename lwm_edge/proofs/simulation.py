"""Provides `simulate`, which makes increments on a copy of a home's model to see whether anything grows.

The photos are generated textures, so accuracy means nothing here. The sizes of the files and the memory are
measured, and photos and teacher networks that are still in memory are counted. Either all increments run
in one process, where anything that they leave behind adds up, or each runs in processes of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from .. import inspection, storage
from ..durability import require_safe_changes
from ..errors import ConfigError, LwmEdgeError
from ..freed_memory import bound_allocator
from ..home.changes import init_home
from ..home.generation import labels_text
from ..home.home import Generation, Home, open_home
from ..home.reports import MemoryReport
from ..increment.add import add_classes
from ..increment.process import replies_from, serve, started_process
from ..learning.config import SIMULATED, IncrementConfig
from ..memory import peak_rss_bytes
from ..model.bundle import open_bundle, save_bundle
from ..model.ledger import Ledger
from ..model.manifest import Manifest
from ..model.tensors import ROWS_BY_CLASS
from ..model.terms import MAX_CAPACITY
from ..records import AnyPath, ExactPath, Progress, ProgressCallback, ignore_progress
from .audited_bytes import file_sizes
from .auditor import audit
from .onnx_growth import expected_growth
from .plots import check_plot, save_plot
from .reports import SimulationReport, SimulationStep
from .trends import MIN_INCREMENTS, find_problems, find_trends

PHOTOS_PER_CLASS = 6
_TEXTURE_CELLS = 7

Teach = Callable[[Home, Path, IncrementConfig], MemoryReport]


class Job(BaseModel):
    """Describes a simulation.

    Attributes:
        home: Path of the scratch copy.
        photos: Path of the folder in which photos are made and removed.
        increments: Number of increments.
        classes: Number of classes that each increment learns.
        config: Settings of each increment.
    """

    home: ExactPath
    photos: ExactPath
    increments: int
    classes: int
    config: IncrementConfig


def simulate(
    home: Home | AnyPath,
    increments: int = 50,
    *,
    classes: int = 1,
    config: IncrementConfig | None = None,
    isolated: bool = False,
    plot: AnyPath | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> SimulationReport:
    """Makes increments on a copy of a home's model and measures each.

    The home itself is only read. The copy has room for all classes, and is in a temporary folder ($TMPDIR).

    Args:
        home: Model home, or the path of its folder.
        increments: Number of increments, at least 3.
        classes: Number of new classes in each increment.
        config: Settings of each increment, with `force` set in any case; None means one epoch of `lwm-lda`,
            as training the network takes the most memory.
        isolated: Whether each increment runs in processes of its own, as on the device, or all run in one.
        plot: Path of a PNG file, for a chart of storage and memory.
        on_progress: Function that is called before the first increment and after each.

    Returns:
        The measurements; `passed` is False and `problems` says why if something grows that must not grow, or
            an audit of the copy fails.

    Raises:
        ConfigError: Some settings are impossible, or matplotlib is missing for a plot.
        HomeError: There is no home.
        BundleError: The home's bundle is damaged.
        ResourceError: Memory or disk space ran out.
        LwmEdgeError: An increment failed.
    """
    started = time.monotonic()
    home, config = open_home(home), config or IncrementConfig(recipe=SIMULATED, epochs=1)
    require_safe_changes("make a copy of", home.path)
    config = config.model_copy(update={"force": True})  # nobody can recognise random textures
    if increments < MIN_INCREMENTS or classes < 1:
        raise ConfigError(f"simulate at least {MIN_INCREMENTS} increments, of at least one class each")
    if plot is not None:
        check_plot(Path(plot))
    with storage.temporary_folder("lwm-edge-audit-") as folder:
        capacity = make_scratch_home(*home.read(_read_model), folder, increments * classes)
        paths = {"home": folder / "home", "photos": folder}
        job = Job(**paths, increments=increments, classes=classes, config=config)
        steps = []
        on_progress(Progress(phase="simulate", done=0, total=increments))
        for step in run_here(job, teach_isolated) if isolated else run_in_worker(job):
            steps.append(step)
            on_progress(Progress(phase="simulate", done=step.increment, total=increments))
    if plot is not None:
        save_plot(steps, Path(plot))
    trends = find_trends(steps)
    problems = tuple(find_problems(steps, trends))
    return SimulationReport(
        home=home.path,
        passed=not problems,
        problems=problems,
        recipe=config.recipe,
        increments=increments,
        classes_per_increment=classes,
        photos_per_class=PHOTOS_PER_CLASS,
        isolated=isolated,
        capacity=capacity,
        trends=trends,
        steps=tuple(_without_how(step) for step in steps),
        how=steps[-1].memory.how,
        plot=None if plot is None else Path(plot),
        seconds=time.monotonic() - started,
    )


def _read_model(generation: Generation) -> tuple[Manifest, dict[str, NDArray[Any]]]:
    """Reads a whole model; `Home.read` calls this again if a commit removes the generation meanwhile."""
    bundle = open_bundle(generation.bundle)
    return bundle.manifest, bundle.arrays()


def _without_how(step: SimulationStep) -> SimulationStep:
    return step.model_copy(update={"memory": step.memory.model_copy(update={"how": {}})})


def run_here(job: Job, teach: Teach) -> Iterator[SimulationStep]:
    """Makes the increments one after another, and measures the home after each."""
    home = Home(job.home)
    start, onnx_bytes = home.open_bundle().manifest, home.current().onnx_bytes()
    for increment in range(1, job.increments + 1):
        started = time.monotonic()
        with storage.temporary_folder(inside=job.photos) as photos:
            generate_photos(photos, increment, job.classes, start.preprocessing.image_size)
            memory = teach(home, photos, job.config)
        seconds = time.monotonic() - started
        generation, bundle = home.current(), home.open_bundle()
        names, features = bundle.manifest.class_names, bundle.arrays("head.weight")["head.weight"].shape[1]
        growth = expected_growth(start.class_names, names, features, inspection.read_regular(generation.onnx))
        yield SimulationStep(
            increment=increment,
            classes=len(names),
            file_bytes={_name(path, home): size for path, size in file_sizes(home.path).items()},
            onnx_bytes_expected=onnx_bytes + sum(growth),
            labels_bytes_expected=len(labels_text(bundle.manifest)),
            memory=memory,
            problems=audit(home).problems,
            seconds=seconds,
        )


def _name(path: Path, home: Home) -> str:
    """Names a file; a file of the current generation has the same name after every increment."""
    generation = home.current().path
    return str(path.relative_to(generation if path.is_relative_to(generation) else home.path))


def teach_isolated(home: Home, photos: Path, config: IncrementConfig) -> MemoryReport:
    """Makes an increment in processes of its own; returns the memory taken until the commit began."""
    return add_classes(home, photos, config).footprint.memory


def teach_here(home: Home, photos: Path, config: IncrementConfig) -> MemoryReport:
    """Makes an increment in this process; returns the memory taken, with a peak that includes the commit."""
    memory = add_classes(home, photos, config, isolate=False).footprint.memory
    return memory.model_copy(update={"peak_rss_bytes": max(memory.peak_rss_bytes, peak_rss_bytes())})


def run_in_worker(job: Job) -> Iterator[SimulationStep]:
    """Makes all increments in one worker process."""
    with started_process(__name__, job) as process:
        yield from replies_from(process, SimulationStep)
    if process.returncode:
        raise LwmEdgeError(f"the simulation's process ended with status {process.returncode}")


def main() -> None:
    """Runs the simulation's process."""
    serve(Job, _do_job)


def _do_job(job: Job, reply: Callable[[SimulationStep], None]) -> None:
    bound_allocator()
    for step in run_here(job, teach_here):
        reply(step)


def make_scratch_home(
    manifest: Manifest, arrays: dict[str, NDArray[Any]], folder: Path, new_classes: int
) -> int:
    """Makes a home of the same model, with a new ledger and room for more classes; returns its capacity."""
    capacity = max(manifest.capacity, len(manifest.class_names) + new_classes)
    if capacity > MAX_CAPACITY:
        raise ConfigError(f"{new_classes} new classes do not fit: a bundle holds at most {MAX_CAPACITY}")
    for name in ROWS_BY_CLASS:
        rows = capacity - manifest.capacity
        arrays[name] = np.pad(arrays[name], [(0, rows), *[(0, 0)] * (arrays[name].ndim - 1)])
    update = {
        "capacity": capacity,
        "bundle_bytes": 0,
        "increment_count": 0,
        "renamed": (),
        "custody": None,  # the record is about a model of another capacity
        "ledger": Ledger(),
        "judged": (),
    }
    with storage.temporary_folder(inside=folder) as made:
        base = made / "base.lwm"
        save_bundle(base, arrays, manifest.model_copy(update=update))
        init_home(base, folder / "home")
    return capacity


def generate_photos(folder: Path, increment: int, classes: int, image_size: int) -> None:
    """Writes a photo folder of new classes, with a few random textures for each."""
    for number in range(classes):
        class_folder = folder / f"simulated {increment:05}.{number:03}"
        storage.make_folder(class_folder)
        for photo in range(PHOTOS_PER_CLASS):
            generator = np.random.default_rng([increment, number, photo])
            cells = generator.integers(0, 256, (_TEXTURE_CELLS, _TEXTURE_CELLS, 3), dtype=np.uint8)
            content = BytesIO()
            Image.fromarray(cells).resize((image_size, image_size)).save(content, format="png")
            storage.write_file(class_folder / f"{photo}.png", content.getvalue())
