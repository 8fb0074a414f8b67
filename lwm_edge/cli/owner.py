"""Defines the commands that a device's owner runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import ExportConfig, IncrementConfig
from ..errors import ConfigError, TrustError
from ..outputs import STDOUT
from . import display, display_changes, display_proofs, pages, receipt
from .answer import home_path, open_chosen_home, show, with_progress
from .completion import complete_recipe
from .options import (
    DetailsOption,
    HomeOption,
    JsonOption,
    NameOption,
    PhotosArgument,
    SignWithOption,
    TrustOption,
    WaitOption,
    setting,
)
from .settings import FileConfig, increment_config, read_file_config
from .started import STARTED

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
        bool, typer.Option("--replace", help="Start an existing home over; what it has learnt is lost.")
    ] = False,
    trust: TrustOption = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model home from a shipped base, with its ONNX file.

    With --trust, the home accepts only bases that this key signed, now and later.
    """
    from .. import init_home

    place = home_path(home)
    report = with_progress(
        lambda on: init_home(base, place, replace=replace, trust=trust, on_progress=on, wait=wait), brief=True
    )
    show(report, as_json, partial(display_changes.change, details=details), is_done=True)


def add_classes_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    class_name: NameOption = None,
    recipe: Annotated[str | None, setting(IncrementConfig, "recipe", autocompletion=complete_recipe)] = None,
    beta: Annotated[float | None, setting(IncrementConfig, "beta")] = None,
    gamma: Annotated[float | None, setting(IncrementConfig, "gamma")] = None,
    epochs: Annotated[int | None, setting(IncrementConfig, "epochs")] = None,
    learning_rate: Annotated[float | None, setting(IncrementConfig, "learning_rate")] = None,
    batch_size: Annotated[int | None, setting(IncrementConfig, "batch_size")] = None,
    max_memory: Annotated[str | None, setting(IncrementConfig, "max_memory", metavar="SIZE")] = None,
    frozen_blocks: Annotated[int | None, setting(IncrementConfig, "frozen_blocks")] = None,
    min_photos: Annotated[int | None, setting(IncrementConfig, "min_photos")] = None,
    seed: Annotated[int | None, setting(IncrementConfig, "seed")] = None,
    device: Annotated[str | None, setting(IncrementConfig, "device")] = None,
    precision: Annotated[str | None, setting(IncrementConfig, "precision")] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be learnt, and what that takes; change nothing."),
    ] = False,
    fresh: Annotated[bool, setting(IncrementConfig, "fresh")] = False,
    force: Annotated[bool, setting(IncrementConfig, "force")] = False,
    sign_with: SignWithOption = None,
    page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE.html",
            help="Also write a page with some of the photos, attention maps and mistakes.",
        ),
    ] = None,
    details: DetailsOption = False,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model new classes from photos of them alone: the main job.

    Nothing changes until the last step; then bundle, ONNX file, labels and receipt change together. After an
    interruption, the same command continues where it stopped; options need not be given again.
    """
    from .. import add_classes, plan_increment
    from ..freed_memory import bound_allocator
    from ..increment.add import may_train

    chosen = increment_config(
        read_file_config(),
        class_name=class_name,
        recipe=recipe,
        beta=beta,
        gamma=gamma,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_memory=max_memory,
        frozen_blocks=frozen_blocks,
        min_photos=min_photos,
        seed=seed,
        device=device,
        precision=precision,
        fresh=fresh or None,
        force=force or None,
        sign_with=sign_with,
    )
    opened = open_chosen_home(home)
    isolate = may_train(opened, chosen)
    if not isolate:
        bound_allocator()
    if dry_run:
        plan = with_progress(
            lambda on: plan_increment(
                opened, photos, chosen, on_progress=on, isolate=isolate, wait=wait, started=STARTED
            )
        )
        show(plan, as_json, display.plan)
        return
    if page is None:
        report = with_progress(
            lambda on: add_classes(
                opened, photos, chosen, on_progress=on, isolate=isolate, wait=wait, started=STARTED
            )
        )
        show(report, as_json, partial(receipt.new_classes, details=details), is_done=True)
        return
    from .. import add_classes_with_page

    taught = with_progress(
        lambda on: add_classes_with_page(
            opened, photos, page, chosen, on_progress=on, isolate=isolate, wait=wait, started=STARTED
        )
    )
    show(taught.receipt, as_json, partial(receipt.new_classes, details=details), is_done=True)
    if taught.page and not as_json:
        pages.page(taught.page)


def evaluate_command(photos: PhotosArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Measure accuracy on labelled photos: for old, new and all classes, and which ones are confused."""
    from .. import evaluate

    opened = open_chosen_home(home)
    report = with_progress(lambda on: evaluate(opened, photos, on_progress=on))
    show(report, as_json, display.evaluation)


def info_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle file instead of the home's.")
    ] = None,
    home: HomeOption = None,
    history: Annotated[bool, typer.Option("--history", help="List the latest changes instead.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a home or a bundle holds, or what was changed and when."""
    from .. import info

    show(
        info(bundle or open_chosen_home(home)), as_json, display_changes.history if history else display.info
    )


def _output(text: str) -> Path | str:
    """Tells standard output from a file: a Path would make `./-` the same as `-`."""
    return text if text == STDOUT else Path(text)


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
    fp16: Annotated[bool, typer.Option("--fp16", help="Store the backbone in half precision.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the backbone to 8-bit integers.")] = False,
    float_weights: Annotated[bool, setting(ExportConfig, "float_weights")] = False,
    fixed_head: Annotated[bool, setting(ExportConfig, "fixed_head")] = False,
    photos: Annotated[Path | None, setting(ExportConfig, "photos", metavar="DIR")] = None,
    force: Annotated[bool, setting(ExportConfig, "force")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the model's ONNX file with the network, and write it or another form of it."""
    from .. import export_onnx

    to_stdout = output == STDOUT
    if to_stdout and (as_json or sys.stdout.isatty()):
        raise ConfigError(f"{STDOUT} is standard output: pipe or redirect it, and leave --json out")
    if fp16 and int8:
        raise ConfigError("--fp16 and --int8 exclude each other; give one of them")
    config = ExportConfig(
        precision="fp16" if fp16 else "int8" if int8 else "float32",
        float_weights=float_weights,
        static_batch=static_batch,
        fixed_head=fixed_head,
        photos=photos,
        force=force,
    )
    source = bundle or open_chosen_home(home)
    report = with_progress(lambda on: export_onnx(source, output, config, on_progress=on), brief=not photos)
    if not to_stdout:
        show(report, as_json, display.export, is_done=True)


def repair_command(home: HomeOption = None, wait: WaitOption = False, as_json: JsonOption = False) -> None:
    """Rebuild files of the home that are missing or changed, from its bundle."""
    from .. import repair_home

    place = home_path(home)
    report = with_progress(lambda on: repair_home(place, on_progress=on, wait=wait), brief=True)
    show(report, as_json, display.repair, is_done=True)


def audit_command(
    home: HomeOption = None,
    simulate: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Make N increments on a copy, with generated photos, and measure each."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="New classes in each simulated increment.")] = 1,
    recipe: Annotated[str, typer.Option(help="Recipe to simulate with.")] = "lwm-lda",
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Run each simulated increment in its own process.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw storage and memory over the simulation.")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Also print the owner of every byte, or every simulated figure.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Account for every byte of the home; --simulate shows whether it would grow with increments."""
    report: AuditReport | SimulationReport
    if simulate is None:
        if isolated or plot:
            raise ConfigError("--isolated and --plot apply only to a simulation; pass --simulate N too")
        from .. import audit

        report = audit(open_chosen_home(home))
        show(report, as_json, partial(display_proofs.audit, details=details))
    else:
        from .. import simulate as run

        opened, number = open_chosen_home(home), simulate
        chosen = increment_config(FileConfig(), recipe=recipe, epochs=1)
        report = with_progress(
            lambda on: run(
                opened, number, classes=classes, config=chosen, isolated=isolated, plot=plot, on_progress=on
            )
        )
        show(report, as_json, partial(display_proofs.simulation, details=details))
    if not report.passed:
        raise typer.Exit(4)


def verify_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle file instead of the home's.")
    ] = None,
    home: HomeOption = None,
    trust: TrustOption = None,
    device_key: Annotated[
        Path | None,
        typer.Option(
            "--device-key",
            metavar="DEVICE.pub",
            help="The device's public key, which must match every recorded change.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Follow the record from base to current model, and say what that proves and what it does not."""
    from .. import verify

    report = verify(bundle or open_chosen_home(home), trust=trust, device_key=device_key)
    show(report, as_json, display_proofs.verification)
    if not report.passed:
        raise typer.Exit(TrustError.exit_code)
