"""The command line: parses, calls one public function, prints.

Every command takes `--json` (one JSON document on standard output, nothing else there); progress goes to
standard error; the exit code says what went wrong (see `errors`).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import (
    AuditReport,
    BaseConfig,
    Home,
    IncrementConfig,
    LwmEdgeError,
    SimulationReport,
    __version__,
    open_home,
)
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
        metavar="PHOTOS", help="Folder with one sub-folder of photos a class, named as the class."
    ),
]
WaitOption = Annotated[
    bool, typer.Option("--wait", help="Where another process is changing the home, wait until it is done.")
]
TrustOption = Annotated[
    Path | None, typer.Option("--trust", metavar="VENDOR.pub", help="The vendor's public key.")
]
_sign_with = typer.Option("--sign-with", metavar="FILE.key", help=setting_help(IncrementConfig, "sign_with"))
SignWithOption = Annotated[Path | None, _sign_with]


def _of_increment(name: str, **shown: Any) -> Any:
    """The option of a setting of IncrementConfig."""
    return typer.Option(help=setting_help(IncrementConfig, name), **shown)


def _of_base(name: str, **shown: Any) -> Any:
    """The option of a setting of BaseConfig."""
    return typer.Option(help=setting_help(BaseConfig, name), **shown)


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
        report: Of what was found, or of what was done.
        as_json: As one line of ASCII, which every terminal and locale can take.
        show: Prints it for people.
        is_done: Whether something was changed or written. Then a report that cannot be printed is no
            failure: a script that saw one would do it again.
    """
    if as_json:
        print(json.dumps(json.loads(report.model_dump_json())))
    else:
        show(report)
    if failure := output_failure():
        lost = f"standard output cannot be written to ({failure.strerror})"
        if not is_done:
            raise ResourceError(f"the report is lost: {lost}; free some space, or print it elsewhere")
        terminal.note(f"Note: this was done, but the report of it is lost: {lost}")


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
        bool, typer.Option("--debug", help="When something fails, also print where in the code.")
    ] = False,
) -> None:
    """Teach a deployed image classifier new classes, on the device, from photos of the new classes alone."""


@app.command("demo")
def demo(
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="DIR", help="Where the demo's model homes go.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """See it work: adds four classes to a small model that ships with lwm-edge, in about a minute."""
    from .. import run_demo

    folder = folder or Path.cwd() / "lwm-edge-demo"
    _show(_with_progress(lambda on: run_demo(folder, on_progress=on)), as_json, display.demo)


@app.command("build-base")
def build_base_command(
    photos: PhotosArgument,
    arch: Annotated[str, _of_base("architecture")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bundle to write.")],
    capacity: Annotated[int | None, _of_base("capacity")] = None,
    image_size: Annotated[int | None, _of_base("image_size")] = None,
    weights: Annotated[str | None, _of_base("weights")] = None,
    checkpoint: Annotated[Path | None, _of_base("checkpoint", metavar="FILE")] = None,
    activation: Annotated[str | None, _of_base("activation")] = None,
    epochs: Annotated[int | None, _of_base("epochs")] = None,
    frozen_blocks: Annotated[int | None, _of_base("frozen_blocks")] = None,
    grid: Annotated[int | None, _of_base("grid")] = None,
    rotations: Annotated[bool, _of_base("rotations")] = False,
    learning_rate: Annotated[float | None, _of_base("learning_rate")] = None,
    batch_size: Annotated[int | None, _of_base("batch_size")] = None,
    held_back: Annotated[float | None, _of_base("held_back")] = None,
    seed: Annotated[int | None, _of_base("seed")] = None,
    device: Annotated[str | None, _of_base("device")] = None,
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
        bool, typer.Option("--replace", help="Start an existing home over; what it learnt is lost.")
    ] = False,
    trust: TrustOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make a model home from a shipped base, with its ONNX file.

    With --trust the home takes no base that this key did not sign, now or later.
    """
    from .. import init_home

    report = init_home(base, _home_path(home), replace=replace, trust=trust, wait=wait)
    _show(report, as_json, display.change, is_done=True)


@app.command("add-classes")
def add_classes_command(
    photos: PhotosArgument,
    home: HomeOption = None,
    recipe: Annotated[str | None, _of_increment("recipe")] = None,
    beta: Annotated[float | None, _of_increment("beta")] = None,
    gamma: Annotated[float | None, _of_increment("gamma")] = None,
    epochs: Annotated[int | None, _of_increment("epochs")] = None,
    learning_rate: Annotated[float | None, _of_increment("learning_rate")] = None,
    batch_size: Annotated[int | None, _of_increment("batch_size")] = None,
    max_memory: Annotated[str | None, _of_increment("max_memory", metavar="SIZE")] = None,
    frozen_blocks: Annotated[int | None, _of_increment("frozen_blocks")] = None,
    least_photos: Annotated[int | None, _of_increment("least_photos")] = None,
    seed: Annotated[int | None, _of_increment("seed")] = None,
    device: Annotated[str | None, _of_increment("device")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what it would take (memory, time, disk), then stop.")
    ] = False,
    fresh: Annotated[bool, _of_increment("fresh")] = False,
    force: Annotated[bool, _of_increment("force")] = False,
    sign_with: SignWithOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Teach the model new classes from photos of them alone: the main job.

    Nothing changes until the last step; then bundle, ONNX file, labels and receipt change together. Stopped
    or killed, the same command goes on where it was.
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
        least_photos=least_photos,
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
    name: Annotated[str, typer.Argument(metavar="NAME", help="The class.")],
    home: HomeOption = None,
    shipped: Annotated[
        bool, typer.Option("--shipped", help="Also allow a class that the vendor shipped.")
    ] = False,
    sign_with: SignWithOption = None,
    wait: WaitOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take back a class that was added by mistake; no photos needed."""
    from .. import remove_class

    chosen = increment_config(read_file_config(Path.cwd()), sign_with=sign_with)
    report = remove_class(_home(home), name, shipped=shipped, sign_with=chosen.sign_with, wait=wait)
    _show(report, as_json, display.change, is_done=True)


@app.command("predict")
def predict_command(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Photos to classify.")],
    home: HomeOption = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes to print for each photo.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Say what is in photos, with the exported ONNX file."""
    from .. import predict

    _show(predict(_home(home), images, top_k=top_k), as_json, display.predictions)


@app.command("evaluate")
def evaluate_command(photos: PhotosArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Measure accuracy on labelled photos: old, new and all classes, and what is confused."""
    from .. import evaluate

    _show(evaluate(_home(home), photos), as_json, display.evaluation)


@app.command("info")
def info_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle file; default: the home's.")
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
        Path, typer.Argument(metavar="FILE.onnx", help="The ONNX file to write; - is standard output.")
    ],
    home: HomeOption = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Export a bundle file instead of the home's model.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the model's ONNX file, compared with the network first."""
    from .. import export_onnx

    to_stdout = str(output) == STDOUT
    if to_stdout and (as_json or sys.stdout.isatty()):
        raise ConfigError(f"{STDOUT} is standard output: pipe or redirect it, and leave --json out")
    report = export_onnx(bundle or _home(home), output)
    if not to_stdout:
        _show(report, as_json, display.export, is_done=True)


@app.command("repair")
def repair_command(home: HomeOption = None, wait: WaitOption = False, as_json: JsonOption = False) -> None:
    """Make the home's other files anew from its bundle, where they are missing or changed."""
    from .. import repair_home

    _show(repair_home(_home_path(home), wait=wait), as_json, display.repair, is_done=True)


@app.command("audit")
def audit_command(
    home: HomeOption = None,
    simulate: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Make N increments on a copy, from generated photos, and measure each."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="New classes of each simulated increment.")] = 1,
    recipe: Annotated[str, typer.Option(help="By which to simulate.")] = "lwm-lda",
    isolated: Annotated[
        bool, typer.Option("--isolated", help="Simulate each increment in a process of its own.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw the simulated storage and memory.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Account for every byte of the home; --simulate shows that increments do not make it grow."""
    report: AuditReport | SimulationReport
    if simulate is None:
        if isolated or plot:
            raise ConfigError("--isolated and --plot say how to simulate; give --simulate N too")
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
        str, typer.Argument(metavar="NAME", help="vendor makes vendor.key (keep it) and vendor.pub.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a pair of Ed25519 keys: for a vendor to sign bases, for a device to sign changes."""
    from .. import generate_key

    _show(generate_key(name), as_json, display_proofs.key, is_done=True)


@app.command("sign")
def sign_command(
    bundle: Annotated[Path, typer.Argument(metavar="BASE.lwm", help="The base; its length stays.")],
    key: Annotated[Path, typer.Option("--key", metavar="VENDOR.key", help="The vendor's private key.")],
    as_json: JsonOption = False,
) -> None:
    """For vendors: sign a base, so that homes made with --trust take it."""
    from .. import sign_bundle

    _show(sign_bundle(bundle, key), as_json, display_proofs.signing, is_done=True)


@app.command("verify")
def verify_command(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="[BUNDLE]", help="A bundle file; default: the home's.")
    ] = None,
    home: HomeOption = None,
    trust: TrustOption = None,
    device_key: Annotated[
        Path | None,
        typer.Option(
            "--device-key", metavar="DEVICE.pub", help="Every recorded change must be signed with it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Walk from the shipped base to the current model, and say what that proves and what it does not."""
    from .. import verify

    report = verify(bundle or _home(home), trust=trust, device_key=device_key)
    _show(report, as_json, display_proofs.verification)
    if not report.passed:
        raise typer.Exit(TrustError.exit_code)
