"""Defines the demo, and the commands with which an owner makes, inspects, exports and repairs a home."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import ExportConfig
from ..errors import ConfigError, TrustError
from ..learning.config import SIMULATED
from ..outputs import STDOUT
from . import display, display_changes, display_proofs
from .answer import bundle_or_home, home_path, open_chosen_home, show, with_progress
from .options import (
    DetailsOption,
    HomeOption,
    JsonOption,
    PhotosArgument,
    TrustOption,
    WaitOption,
    path_from,
    setting,
)
from .settings import FileConfig, increment_config

if TYPE_CHECKING:
    from .. import AuditReport, SimulationReport


def demo(
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Folder for the demo's model homes.")
    ] = Path("lwm-edge-demo"),
    as_json: JsonOption = False,
) -> None:
    """See it work: add four classes to a small model that ships with lwm-edge, in about a minute."""
    from .. import run_demo

    show(with_progress(lambda on: run_demo(folder, on_progress=on)), as_json, display.demo)


def init_command(
    base: Annotated[Path, typer.Argument(metavar="BASE.lwm", help="The bundle that the vendor shipped.")],
    home: HomeOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Start over if the home exists; what it has learnt is lost.")
    ] = False,
    trust: TrustOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model home, with an ONNX file, from a shipped base.

    With --trust, the home accepts only bases that the given key signed, now and in future.
    """
    from .. import init_home

    place = home_path(home)
    report = with_progress(
        lambda on: init_home(base, place, replace=replace, trust=trust, on_progress=on, wait=wait), brief=True
    )
    show(report, as_json, partial(display_changes.change, details=details), is_done=True)


def evaluate_command(photos: PhotosArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Measure accuracy on labelled photos, for shipped, added and all classes, and show common confusions."""
    from .. import evaluate

    opened = open_chosen_home(home)
    report = with_progress(lambda on: evaluate(opened, photos, on_progress=on))
    show(report, as_json, display.evaluation)


def info_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="A bundle file to show instead of the home's.")
    ] = None,
    home: HomeOption = None,
    history: Annotated[
        bool, typer.Option("--history", help="List the latest changes instead of the contents.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a home or a bundle holds, or what was changed and when."""
    from .. import info

    show(info(bundle_or_home(bundle, home)), as_json, display_changes.history if history else display.info)


def _output(text: str) -> Path | str:
    """Tells `-` (standard output) from `./-` (a file); as paths, they would be equal."""
    return text if text == STDOUT else path_from(text)


def export_command(
    output: Annotated[
        Any,
        typer.Argument(
            metavar="FILE.onnx", parser=_output, help="The ONNX file to write; - means standard output."
        ),
    ],
    home: HomeOption = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export a bundle file instead of the home's model.")
    ] = None,
    static_batch: Annotated[int | None, setting(ExportConfig, "static_batch")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store the network in half precision.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the network to 8-bit integers.")] = False,
    float_weights: Annotated[bool, setting(ExportConfig, "float_weights")] = False,
    fixed_head: Annotated[bool, setting(ExportConfig, "fixed_head")] = False,
    photos: Annotated[Path | None, setting(ExportConfig, "photos", metavar="DIR")] = None,
    force: Annotated[bool, setting(ExportConfig, "force")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the model's ONNX file against the network, and write the file or a variant of it."""
    from .. import export_onnx

    to_stdout = output == STDOUT
    if to_stdout and (as_json or sys.stdout.isatty()):
        raise ConfigError(f"{STDOUT} means standard output: pipe or redirect it, and leave out --json")
    if fp16 and int8:
        raise ConfigError("--fp16 and --int8 cannot be combined; pass one of them")
    if force and not (fp16 or int8 or photos):
        raise ConfigError("--force is for a file that is checked on photos; pass --photos, or leave it out")
    config = ExportConfig(
        precision="fp16" if fp16 else "int8" if int8 else "float32",
        float_weights=float_weights,
        static_batch=static_batch,
        fixed_head=fixed_head,
        photos=photos,
        force=force,
    )
    source = bundle_or_home(bundle, home)
    report = with_progress(lambda on: export_onnx(source, output, config, on_progress=on), brief=not photos)
    if not to_stdout:
        show(report, as_json, display.export, is_done=True)


def repair_command(home: HomeOption = None, wait: WaitOption = False, as_json: JsonOption = False) -> None:
    """Rebuild missing or changed files of the home from its bundle."""
    from .. import repair_home

    place = home_path(home)
    report = with_progress(lambda on: repair_home(place, on_progress=on, wait=wait), brief=True)
    show(report, as_json, display.repair, is_done=True)


def audit_command(
    home: HomeOption = None,
    simulate: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Run N increments on a copy of the home, with generated photos; measure each."
        ),
    ] = None,
    classes: Annotated[
        int | None, typer.Option(min=1, help="New classes in each simulated increment; by default, one.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help=f"Recipe of the simulated increments, by default {SIMULATED}; without torch, only lda works."
        ),
    ] = None,
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Run each simulated increment in its own process.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Draw a chart of storage and memory over the simulation."),
    ] = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details", help="Also print the bytes of each part or, with --simulate, every figure."
        ),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Account for every byte of the home; with --simulate, see whether a home grows with increments."""
    report: AuditReport | SimulationReport
    if simulate is None:
        if classes or recipe or isolated or plot:
            raise ConfigError(
                "--classes, --recipe, --isolated and --plot apply only to a simulation; pass --simulate N too"
            )
        from .. import audit

        report = audit(open_chosen_home(home))
        show(report, as_json, partial(display_proofs.audit, details=details))
    else:
        from .. import simulate as run

        opened, number = open_chosen_home(home), simulate
        chosen = increment_config(FileConfig(), recipe=recipe or SIMULATED, epochs=1)
        report = with_progress(
            lambda on: run(
                opened,
                number,
                classes=classes or 1,
                config=chosen,
                isolated=isolated,
                plot=plot,
                on_progress=on,
            )
        )
        show(report, as_json, partial(display_proofs.simulation, details=details))
    if not report.passed:
        raise typer.Exit(4)


def verify_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="A bundle file to verify instead of the home's.")
    ] = None,
    home: HomeOption = None,
    trust: TrustOption = None,
    device_key: Annotated[
        Path | None,
        typer.Option(
            "--device-key",
            metavar="DEVICE.pub",
            help="The device's public key; every recorded change must be signed with its private key.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow the record from the base to the current model, and say what is proven and what is not."""
    from .. import verify

    report = verify(bundle_or_home(bundle, home), trust=trust, device_key=device_key)
    show(report, as_json, display_proofs.verification)
    if not report.passed:
        raise typer.Exit(TrustError.exit_code)
