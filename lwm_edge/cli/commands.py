"""Defines the commands: each one parses its arguments, calls one public function, and prints the result.

Every command takes `--json`, with which standard output gets one JSON document and nothing else. Progress
goes to standard error. The exit code says what went wrong (see `errors`).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import BaseConfig, ExportConfig, IncrementConfig, LwmEdgeError, __version__
from .._streams import forgiving_streams, output_failure
from ..errors import ConfigError, ResourceError, TrustError, unexpected
from ..records import ProgressCallback, Report
from ..storage import STDOUT
from . import display, display_proofs, terminal
from .settings import (
    FileConfig,
    base_config,
    find_home,
    increment_config,
    read_file_config,
    setting_help,
)

if TYPE_CHECKING:  # --help need not load what the commands load
    from .. import AuditReport, Home, SimulationReport

app = typer.Typer(
    name="lwm-edge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        help="The model home. Default: $LWM_EDGE_HOME, then `home` in lwm-edge.toml, then the platform's "
        "folder for application data.",
    ),
]
PhotosArgument = Annotated[
    Path,
    typer.Argument(
        metavar="PHOTOS", help="Folder with one sub-folder of photos per class, named after the class."
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="If another process is changing the home, wait until it is done.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="VENDOR.pub", help="The vendor's public key.")
]
_sign_with = typer.Option("--sign-with", metavar="FILE.key", help=setting_help(IncrementConfig, "sign_with"))
SignWithOption = Annotated[Path | None, _sign_with]


def _increment_option(name: str, **extra: Any) -> Any:
    """Makes the option for a setting of IncrementConfig."""
    return typer.Option(help=setting_help(IncrementConfig, name), **extra)


def _base_option(name: str, *flags: str, **extra: Any) -> Any:
    """Makes the option for a setting of BaseConfig."""
    return typer.Option(*flags, help=setting_help(BaseConfig, name), **extra)


def _export_option(name: str, **extra: Any) -> Any:
    """Makes the option for a setting of ExportConfig."""
    return typer.Option(help=setting_help(ExportConfig, name), **extra)


def main() -> None:
    """Runs the command line and turns errors into exit codes."""
    with forgiving_streams():
        try:
            app()
        except Exception as error:
            known = error if isinstance(error, LwmEdgeError) else unexpected(error)
            if "--debug" in sys.argv[1:]:
                terminal.note(known.worker_traceback + "".join(traceback.format_exception(error)))
            _fail(known)
            sys.exit(known.exit_code)


def _fail(error: LwmEdgeError) -> None:
    if "--json" in sys.argv[1:]:
        failure = {
            "kind": type(error).__name__,
            "message": error.message,
            "problems": error.problems,
            "exit_code": error.exit_code,
        }
        print(json.dumps({"error": failure}))
    else:
        terminal.error(error)


def _show(report: Report, as_json: bool, show: Callable[[Any], None], *, is_done: bool = False) -> None:
    """Prints a report.

    Args:
        report: Report of what was found or done.
        as_json: Whether to print one line of ASCII, which every terminal and locale can take.
        show: Function that prints the report for people.
        is_done: Whether something was changed or written. If so, a report that cannot be printed is not a
            failure: a script that saw one would repeat the change.
    """
    if as_json:
        print(json.dumps(json.loads(report.model_dump_json())))
    else:
        show(report)
    if failure := output_failure():
        lost = f"cannot write to standard output ({failure.strerror})"
        if not is_done:
            raise ResourceError(f"the report is lost: {lost}; free some space, or send the output elsewhere")
        terminal.note(f"Note: the command has done its work, but its report is lost: {lost}")


def _with_progress(work: Callable[[ProgressCallback], Report]) -> Any:
    try:
        with terminal.progress_bar() as on_progress:
            return work(on_progress)
    except KeyboardInterrupt:
        terminal.note("Interrupted; the model is unchanged.")
        raise typer.Exit(130) from None


def _home_path(home: Path | None) -> Path:
    return find_home(home, read_file_config(Path.cwd()))


def _home(home: Path | None) -> Home:
    from .. import open_home

    return open_home(_home_path(home))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lwm-edge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="If something fails, also print where in the code it failed.")
    ] = False,
) -> None:
    """Teach a deployed image classifier new classes, on the device, from photos of the new classes alone."""


@app.command("demo")
def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Folder for the demo's model homes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """See it work: add four classes to a small model that ships with lwm-edge, in about a minute."""
    from .. import run_demo

    folder = folder or Path.cwd() / "lwm-edge-demo"
    _show(_with_progress(lambda on: run_demo(folder, on_progress=on)), as_json, display.demo)


@app.command("build-base")
def build_base_command(
    photos: PhotosArgument,
    arch: Annotated[str, _base_option("architecture")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")],
    capacity: Annotated[int | None, _base_option("capacity")] = None,
    image_size: Annotated[int | None, _base_option("image_size")] = None,
    weights: Annotated[str | None, _base_option("weights")] = None,
    checkpoint: Annotated[Path | None, _base_option("checkpoint", metavar="FILE")] = None,
    activation: Annotated[str | None, _base_option("activation")] = None,
    epochs: Annotated[int | None, _base_option("epochs")] = None,
    frozen_blocks: Annotated[int | None, _base_option("frozen_blocks")] = None,
    grid: Annotated[int | None, _base_option("grid")] = None,
    rotations: Annotated[bool, _base_option("rotations")] = False,
    learning_rate: Annotated[float | None, _base_option("learning_rate")] = None,
    batch_size: Annotated[int | None, _base_option("batch_size")] = None,
    held_back: Annotated[float | None, _base_option("held_back")] = None,
    author: Annotated[str | None, _base_option("author", metavar="TEXT")] = None,
    license_name: Annotated[str | None, _base_option("license", "--license", metavar="TEXT")] = None,
    description: Annotated[str | None, _base_option("description", metavar="TEXT")] = None,
    permit: Annotated[list[str] | None, _base_option("permits", "--permit", metavar="CHANGE")] = None,
    seed: Annotated[int | None, _base_option("seed")] = None,
    device: Annotated[str | None, _base_option("device")] = None,
    as_json: JsonOption = False,
) -> None:
    """For vendors: train a base on class folders and write the bundle that ships."""
    from .. import build_base

    chosen = base_config(
        architecture=arch,
        capacity=capacity,
        image_size=image_size,
        weights=weights,
        checkpoint=checkpoint,
        activation=activation,
        epochs=epochs,
        frozen_blocks=frozen_blocks,
        grid=grid,
        rotations=rotations or None,
        learning_rate=learning_rate,
        batch_size=batch_size,
        held_back=held_back,
        author=author,
        license=license_name,
        description=description,
        permits=tuple(sorted(permit)) if permit else None,
        seed=seed,
        device=device,
    )
    report = _with_progress(lambda on: build_base(photos, output, chosen, on_progress=on))
    _show(report, as_json, display.base, is_done=True)


@app.command("init")
def init_command(
    base: Annotated[Path, typer.Argument(metavar="BASE.lwm", help="The bundle that the vendor shipped.")],
    home: HomeOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Start an existing home over; what it has learnt is lost.")
    ] = False,
    trust: TrustOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model home from a shipped base, with its ONNX file.

    With --trust, the home accepts no base that this key did not sign, now or later.
    """
    from .. import init_home

    report = init_home(base, _home_path(home), replace=replace, trust=trust, wait=wait)
    _show(report, as_json, display.change, is_done=True)


@app.command("add-classes")
def add_classes_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    recipe: Annotated[str | None, _increment_option("recipe")] = None,
    beta: Annotated[float | None, _increment_option("beta")] = None,
    gamma: Annotated[float | None, _increment_option("gamma")] = None,
    epochs: Annotated[int | None, _increment_option("epochs")] = None,
    learning_rate: Annotated[float | None, _increment_option("learning_rate")] = None,
    batch_size: Annotated[int | None, _increment_option("batch_size")] = None,
    max_memory: Annotated[str | None, _increment_option("max_memory", metavar="SIZE")] = None,
    frozen_blocks: Annotated[int | None, _increment_option("frozen_blocks")] = None,
    min_photos: Annotated[int | None, _increment_option("min_photos")] = None,
    seed: Annotated[int | None, _increment_option("seed")] = None,
    device: Annotated[str | None, _increment_option("device")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what this would take (memory, time, disk), then stop.")
    ] = False,
    fresh: Annotated[bool, _increment_option("fresh")] = False,
    force: Annotated[bool, _increment_option("force")] = False,
    sign_with: SignWithOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model new classes from photos of them alone: the main job.

    Nothing changes until the last step; then bundle, ONNX file, labels and receipt change together. After an
    interruption, the same command continues where it stopped.
    """
    from .. import add_classes, plan_increment

    chosen = increment_config(
        read_file_config(Path.cwd()),
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
        fresh=fresh or None,
        force=force or None,
        sign_with=sign_with,
    )
    opened = _home(home)
    if dry_run:
        _show(plan_increment(opened, photos, chosen, wait=wait), as_json, display.plan)
        return
    report = _with_progress(lambda on: add_classes(opened, photos, chosen, on_progress=on, wait=wait))
    _show(report, as_json, display.increment, is_done=True)


@app.command("remove-class")
def remove_class_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the class.")],
    home: HomeOption = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also allow a class that the vendor shipped.")
    ] = False,
    sign_with: SignWithOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove a class that was added by mistake; no photos needed."""
    from .. import remove_class

    chosen = increment_config(read_file_config(Path.cwd()), sign_with=sign_with)
    report = remove_class(_home(home), name, shipped=shipped, sign_with=chosen.sign_with, wait=wait)
    _show(report, as_json, display.change, is_done=True)


@app.command("predict")
def predict_command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos to classify.")],
    home: HomeOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="How many classes to print.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Say what the photos show, using the exported ONNX file."""
    from .. import predict

    _show(predict(_home(home), images, top_k=top_k), as_json, display.predictions)


@app.command("evaluate")
def evaluate_command(photos: PhotosArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Measure accuracy on labelled photos: for old, new and all classes, and which ones are confused."""
    from .. import evaluate

    _show(evaluate(_home(home), photos), as_json, display.evaluation)


@app.command("info")
def info_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle file instead of the home's.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a home or a bundle holds."""
    from .. import info

    _show(info(bundle or _home(home)), as_json, display.info)


@app.command("export")
def export_command(
    output: Annotated[
        Path, typer.Argument(metavar="FILE.onnx", help="The ONNX file to write; - means standard output.")
    ],
    home: HomeOption = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export a bundle file instead of the home's model.")
    ] = None,
    static_batch: Annotated[int | None, _export_option("static_batch")] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Store the backbone in half precision.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise the backbone to 8-bit integers.")] = False,
    float_weights: Annotated[bool, _export_option("float_weights")] = False,
    fixed_head: Annotated[bool, _export_option("fixed_head")] = False,
    photos: Annotated[Path | None, _export_option("photos", metavar="DIR")] = None,
    force: Annotated[bool, _export_option("force")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare the model's ONNX file with the network, and write it or another form of it."""
    from .. import export_onnx

    to_stdout = str(output) == STDOUT
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
    report = export_onnx(bundle or _home(home), output, config)
    if not to_stdout:
        _show(report, as_json, display.export, is_done=True)


@app.command("repair")
def repair_command(home: HomeOption = None, wait: WaitOption = False, as_json: JsonOption = False) -> None:
    """Rebuild files of the home that are missing or changed, from its bundle."""
    from .. import repair_home

    _show(repair_home(_home_path(home), wait=wait), as_json, display.repair, is_done=True)


@app.command("audit")
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
    as_json: JsonOption = False,
) -> None:
    """Account for every byte of the home; --simulate shows that it does not grow with increments."""
    report: AuditReport | SimulationReport
    if simulate is None:
        if isolated or plot:
            raise ConfigError("--isolated and --plot only apply to a simulation; pass --simulate N too")
        from .. import audit

        report = audit(_home(home))
        _show(report, as_json, display_proofs.audit)
    else:
        from .. import simulate as run

        opened, number = _home(home), simulate
        chosen = increment_config(FileConfig(), recipe=recipe, epochs=1)
        report = _with_progress(
            lambda on: run(
                opened, number, classes=classes, config=chosen, isolated=isolated, plot=plot, on_progress=on
            )
        )
        _show(report, as_json, display_proofs.simulation)
    if not report.passed:
        raise typer.Exit(4)


@app.command("keygen")
def keygen_command(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the pair of files, NAME.key (keep it secret) and NAME.pub."
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys, with which a vendor signs bases or a device signs changes."""
    from .. import generate_key

    _show(generate_key(name), as_json, display_proofs.key, is_done=True)


@app.command("sign")
def sign_command(
    bundle: Annotated[
        Path, typer.Argument(metavar="BASE.lwm", help="The base to sign; its length stays the same.")
    ],
    key: Annotated[Path, typer.Option("--key", metavar="VENDOR.key", help="The vendor's private key.")],
    as_json: JsonOption = False,
) -> None:
    """For vendors: sign a base, so that homes made with --trust accept it."""
    from .. import sign_bundle

    _show(sign_bundle(bundle, key), as_json, display_proofs.signing, is_done=True)


@app.command("verify")
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

    report = verify(bundle or _home(home), trust=trust, device_key=device_key)
    _show(report, as_json, display_proofs.verification)
    if not report.passed:
        raise typer.Exit(TrustError.exit_code)
