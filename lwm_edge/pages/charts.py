"""Draws charts as SVG with the colours and font of the page around them, in light and in dark mode."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..extras import load_library
from ..model.ledger import LedgerEntry
from ..proofs.plots import temporary_font_list
from .facts import ClassFact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MIB = 2**20
_INK, _FAINT, _FIRST, _SECOND = "#010101", "#020202", "#030303", "#040404"
_VARIABLES = {
    _INK: "var(--quiet)",
    _FAINT: "var(--line)",
    _FIRST: "var(--accent)",
    _SECOND: "var(--second)",
}
_WIDTH, _HEIGHT = 5.4, 2.7
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "lwm-edge",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "ytick.major.size": 0,
    "legend.frameon": False,
}


def require_matplotlib() -> None:
    """Refuses to start on a page whose charts could not be drawn.

    Raises:
        ConfigError: matplotlib is not installed or cannot be loaded.
    """
    with temporary_font_list():
        load_library("matplotlib.figure", "a page's charts need")  # loads the fonts too


def storage_chart(ledger: Sequence[LedgerEntry]) -> str:
    """Draws the lengths of the bundle and of the ONNX file after each change."""
    changes = [entry.increment for entry in ledger]
    series = {
        "bundle": [entry.bundle_bytes / _MIB for entry in ledger],
        "ONNX file": [entry.onnx_bytes / _MIB for entry in ledger],
    }
    return _over_changes(changes, series)


def memory_chart(ledger: Sequence[LedgerEntry]) -> str:
    """Draws the peak memory of each change."""
    return _over_changes(
        [entry.increment for entry in ledger],
        {"peak memory": [entry.peak_rss_bytes / _MIB for entry in ledger]},
    )


def accuracy_chart(classes: Sequence[ClassFact]) -> str:
    """Draws the share of photos recognised for each measured class, with its interval, worst class first."""
    ranked = sorted((fact for fact in classes if fact.total), key=lambda fact: (fact.share, fact.interval))

    def draw(axes: Any) -> None:
        """Draws each class's share as a dot on the line of its interval."""
        x = range(1, len(ranked) + 1)
        low, high = zip(*(fact.interval for fact in ranked), strict=True)
        crowded = len(ranked) > 60
        axes.vlines(x, [100 * v for v in low], [100 * v for v in high], color=_SECOND, lw=1 if crowded else 3)
        axes.plot(x, [100 * f.share for f in ranked], "o", color=_FIRST, ms=2.5 if crowded else 5)
        axes.set(ylim=(-3, 103), xlim=(0.2, len(ranked) + 0.8), xlabel="classes, worst first", ylabel="%")
        axes.xaxis.get_major_locator().set_params(integer=True)

    return _svg(draw)


def _over_changes(changes: Sequence[int], series: dict[str, list[float]]) -> str:
    def draw(axes: Any) -> None:
        """Draws each series as a line over the changes."""
        for (label, values), colour in zip(series.items(), (_FIRST, _SECOND), strict=False):
            axes.plot(changes, values, "o-", label=label, color=colour, lw=2, ms=4)
        top = max(max(values) for values in series.values())
        axes.set(ylim=(0, 1.25 * top), xlabel="change", ylabel="MiB")
        axes.margins(x=0.04)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if len(series) > 1:
            axes.legend(loc="upper left", ncols=len(series), fontsize=9)

    return _svg(draw)


def _svg(draw: Any) -> str:
    """Returns a chart as an SVG element for a page, without XML prolog, group ids, width or height."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure = _new_figure()
        draw(figure.subplots())
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' id="[A-Za-z][\w.]*_\d+"', "", svg)  # ids would occur twice in a page with two charts
    opening, end, rest = svg.partition(">")
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    svg = opening + end + rest
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


_NO_METADATA = {"Creator": None, "Date": None, "Format": None, "Type": None}


def _new_figure() -> Figure:
    with temporary_font_list():
        from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
