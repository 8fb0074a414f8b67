"""Draws the chart of a simulation: storage and memory against the number of classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import outputs, storage
from ..errors import ConfigError
from ..extras import load_library
from ..home.ownership import ONNX
from .reports import SimulationStep
from .trends import storage_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = 2**20
_FOLDER_OF_MATPLOTLIB = "MPLCONFIGDIR"


def check_plot(path: Path) -> None:
    """Checks, before the work begins, that a chart can be drawn and written.

    Raises:
        ConfigError: The name is not that of a PNG file, no file can be written there, or matplotlib is
            missing.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is not a PNG file; choose a name that ends in .png")
    outputs.check_output(path)
    _new_figure()


def save_plot(steps: Sequence[SimulationStep], path: Path) -> None:
    """Draws storage and peak memory against the number of classes, and writes the chart as a PNG file."""
    figure = _new_figure()
    files, memory = figure.subplots(1, 2)
    classes = [step.classes for step in steps]
    _draw(files, classes, "all but ONNX file and labels", [storage_bytes(step) for step in steps])
    _draw(files, classes, "ONNX file", [step.file_bytes.get(ONNX, 0) for step in steps])
    _draw(memory, classes, "resident (RSS)", [step.memory.peak_rss_bytes for step in steps])
    for label, attribute in (
        ("anonymous", "peak_anonymous_bytes"),
        ("mapped", "peak_mapped_bytes"),
        ("GPU", "peak_cuda_bytes"),
    ):
        values = [getattr(step.memory, attribute) for step in steps]
        if None not in values:
            _draw(memory, classes, label, values)
    for axes, title in ((files, "Storage"), (memory, "Peak memory of each increment")):
        axes.set(title=title, xlabel="classes", ylabel="MiB", ylim=(0, 1.1 * axes.get_ylim()[1]))
        axes.legend()
    content = BytesIO()
    figure.savefig(content, format="png", dpi=80)
    outputs.write_output(path, content.getvalue())


@contextmanager
def temporary_font_list() -> Iterator[None]:
    """Makes matplotlib, which lists fonts while it loads, write the list to a temporary folder.

    Does nothing if matplotlib is already loaded, or if the user chose a folder for the list.
    """
    if "matplotlib.font_manager" in sys.modules or os.environ.get(_FOLDER_OF_MATPLOTLIB):
        yield
        return
    with storage.temporary_folder("lwm-edge-fonts-") as folder:
        os.environ[_FOLDER_OF_MATPLOTLIB] = str(folder)
        try:
            yield
        finally:
            del os.environ[_FOLDER_OF_MATPLOTLIB]


def _draw(axes: Any, classes: list[int], label: str, values: list[int]) -> None:
    axes.plot(classes, [value / _MIB for value in values], label=label)


def _new_figure() -> Figure:
    with temporary_font_list():
        library = load_library("matplotlib.figure", "the plot needs")
    figure: Figure = library.Figure(figsize=(10, 4), layout="constrained")
    return figure
